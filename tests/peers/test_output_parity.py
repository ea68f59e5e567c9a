"""The commands that scripts parse print what qemu-img prints, for the same image: info, map, check, compare, create."""

import os
import re
import shutil
import tempfile
import unittest

from cofre_peers import (COMPAT_DIR, COFRE_TOOL, MIB, QEMU_TOOL, Image, PeerCase, aes_options, cofre, luks_options,
                         qemu_img, random_disk, run, scratch_parent)


class ParityCase(PeerCase):
    """Runs one command with both tools and compares exit code and output."""

    def parity(self, *args, cwd=None):
        """stdout and exit code are equal, to the byte."""
        theirs = qemu_img(*args, cwd=cwd)
        ours = cofre(*args, cwd=cwd)
        self.assertEqual(ours.code, theirs.code, f"exit codes differ:{ours}{theirs}")
        self.assertEqual(ours.out, theirs.out, f"output differs:{ours}{theirs}")
        return ours, theirs

    def json_parity(self, *args, cwd=None):
        """The same JSON value, whatever the order of keys."""
        theirs = qemu_img(*args, cwd=cwd)
        ours = cofre(*args, cwd=cwd)
        self.assertEqual(ours.code, theirs.code, f"exit codes differ:{ours}{theirs}")
        if theirs.out.strip():
            self.assertEqual(ours.json(), theirs.json(), f"output differs:{ours}{theirs}")
        return ours, theirs


class Gallery(ParityCase):
    """One folder of images of every kind, made once by qemu-img, looked at by all tests of this class."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.gallery = tempfile.mkdtemp(prefix="cofre-gallery-", dir=scratch_parent())
        cls.addClassCleanup(shutil.rmtree, cls.gallery, ignore_errors=True)
        cls.secret_path = os.path.join(cls.gallery, "secret")
        with open(cls.secret_path, "w") as file:
            file.write("gallery")
        cls.images = {}
        cls.make_images()

    @classmethod
    def step(cls, *args):
        result = run(*args, cwd=cls.gallery) if args[0] != "qemu-img" else qemu_img(*args[1:], cwd=cls.gallery)
        if result.code != 0:
            raise AssertionError(f"{result}")

    @classmethod
    def make(cls, name, size, options="", *args, format="qcow2", encrypted=False, writes=()):
        objects = ["--object", "secret,id=s0,file=secret"] if encrypted else []
        cls.step("qemu-img", "create", "-q", *objects, "-f", format, *args, *(["-o", options] if options else []), name, size)
        image = Image(name, format, "secret" if encrypted else "")
        if writes:
            cls.step("qemu-io", *image.args(), *(part for write in writes for part in ("-c", write)))
        cls.images[name] = image

    @classmethod
    def make_images(cls):
        some = ["write -P 1 0 256k", "write -z 512k 64k", "write -P 2 1M 3k", "write -P 3 1500k 1", "write -z -u 640k 64k"]
        cls.make("base.raw", "1M", format="raw", writes=["write -P 9 128k 512k"])
        cls.make("plain.qcow2", "4M", writes=some)
        cls.make("empty.qcow2", "4M")
        cls.make("tiny.qcow2", "512")
        cls.make("odd.qcow2", "1000001", writes=["write -P 1 0 1"])
        cls.make("zero.qcow2", "0")
        cls.make("huge.qcow2", "3T")
        cls.make("kept.qcow2", "4M", writes=[*some, "write -z 0 64k", "write -z -u 128k 64k"])
        cls.make("v2.qcow2", "4M", "compat=0.10", writes=some)
        cls.make("small.qcow2", "2M", "cluster_size=512,refcount_bits=1", writes=some)
        cls.make("wide.qcow2", "8M", "cluster_size=2M,refcount_bits=64", writes=some)
        cls.make("sub.qcow2", "4M", "extended_l2=on", writes=some)
        cls.make("lazy.qcow2", "4M", "lazy_refcounts=on", writes=some)
        cls.make("data.qcow2", "4M", "data_file=data.bin,data_file_raw=on", writes=some)
        cls.make("pre.qcow2", "4M", "preallocation=metadata", writes=some)
        cls.make("mid.qcow2", "2M", "", "-b", "base.raw", "-F", "raw", writes=some)
        cls.make("top.qcow2", "3M", "extended_l2=on", "-b", "mid.qcow2", "-F", "qcow2", writes=["write -P 5 1M 10k"])
        cls.make("abs.qcow2", "1M", "", "-b", os.path.join(cls.gallery, "base.raw"), "-F", "raw", writes=some[:1])
        cls.make("aes.qcow2", "4M", aes_options(), encrypted=True, writes=some)
        cls.make("luks.qcow2", "4M", luks_options(), encrypted=True, writes=some)
        cls.make("serpent.qcow2", "4M", luks_options(cipher_alg="serpent-256", cipher_mode="cbc", ivgen_alg="essiv",
                                                     ivgen_hash_alg="sha256", hash_alg="sha512"), encrypted=True)
        cls.make("box.luks", "2M", luks_options(prefix=""), format="luks", encrypted=True, writes=["write -P 1 0 64k"])
        cls.make("snap.qcow2", "2M", writes=some)
        cls.step("qemu-img", "snapshot", "-c", "first", "snap.qcow2")
        cls.step("qemu-io", "-c", "write -P 8 0 64k", "snap.qcow2")
        cls.step("qemu-img", "snapshot", "-c", "second one", "snap.qcow2")
        cls.step("qemu-img", "convert", "-c", "-O", "qcow2", "plain.qcow2", "deflate.qcow2")
        cls.step("qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", "plain.qcow2", "zstd.qcow2")
        cls.step("qemu-img", "bitmap", "--add", "plain.qcow2", "b0")
        for name in ("deflate.qcow2", "zstd.qcow2"):
            cls.images[name] = Image(name, "qcow2")

    def each(self, look, only=lambda image: True):
        """`look(image)` for the images of the gallery, those that `only` takes."""
        for name, image in self.images.items():
            if only(image):
                with self.subTest(image=name):
                    look(image)

    # info needs no passphrase.

    def test_info_human(self):
        self.each(lambda image: self.parity("info", image.path, cwd=self.gallery))

    def test_info_json(self):
        self.each(lambda image: self.json_parity("info", "--output=json", image.path, cwd=self.gallery))

    def test_info_with_the_format_given(self):
        self.each(lambda image: self.parity("info", "-f", image.format, image.path, cwd=self.gallery),
                  only=lambda image: image.format != "luks")
        self.parity("info", "-f", "raw", "plain.qcow2", cwd=self.gallery)

    def test_info_image_opts(self):
        self.each(lambda image: self.parity("info", *image.args(), cwd=self.gallery))
        self.each(lambda image: self.json_parity("info", "--output=json", *image.args(), cwd=self.gallery))

    def test_info_backing_chain(self):
        for name in ("top.qcow2", "mid.qcow2", "abs.qcow2", "plain.qcow2"):
            with self.subTest(image=name):
                self.parity("info", "--backing-chain", name, cwd=self.gallery)
                self.json_parity("info", "--backing-chain", "--output=json", name, cwd=self.gallery)

    def test_info_does_not_touch_the_data_file(self):
        """An image may name any file as its own."""
        folder = self.path("named")
        os.mkdir(folder)
        self.ok(qemu_img("create", "-q", "-f", "qcow2", "-o", "data_file=d", "i.qcow2", "1M", cwd=folder))
        os.remove(os.path.join(folder, "d"))
        for put in (lambda path: None, os.mkfifo):
            put(os.path.join(folder, "d"))
            self.parity("info", "i.qcow2", cwd=folder)
            self.json_parity("info", "--output=json", "--backing-chain", "i.qcow2", cwd=folder)

    def test_info_from_another_folder(self):
        """Backing names stand as they are in the image and also as they resolve from here."""
        self.parity("info", "--backing-chain", os.path.join(self.gallery, "top.qcow2"), cwd="/")
        self.json_parity("info", "--backing-chain", "--output=json", os.path.join(self.gallery, "top.qcow2"), cwd="/")

    # map

    def test_map_human(self):
        self.each(lambda image: self.parity("map", *image.args(), cwd=self.gallery))

    def test_map_json(self):
        self.each(lambda image: self.json_parity("map", "--output=json", *image.args(), cwd=self.gallery))

    def test_map_json_is_printed_line_by_line(self):
        """Scripts read the map with line tools, so its layout is kept too."""
        for name in ("top.qcow2", "empty.qcow2", "plain.qcow2"):
            with self.subTest(image=name):
                self.parity("map", "--output=json", name, cwd=self.gallery)

    def test_map_range(self):
        for bounds in (("-s", "100k", "-l", "1M"), ("--start-offset=1M",), ("--max-length=65537",), ("-s", "513", "-l", "1000")):
            with self.subTest(bounds=bounds):
                self.json_parity("map", "--output=json", *bounds, "top.qcow2", cwd=self.gallery)

    # io

    def test_io_dumps_bytes(self):
        """`read -v`, with every byte value; the lines after those tell the time it took."""
        self.write_file("bytes.raw", bytes(range(256)) * 2)
        for command in ("read -v 0 512", "read -qv 0 512"):
            args = ("-r", "-f", "raw", "-c", command, self.path("bytes.raw"))
            theirs, ours = self.ok(QEMU_TOOL.io(*args)), self.ok(COFRE_TOOL.io(*args))
            self.assertEqual(ours.out.splitlines()[:32], theirs.out.splitlines()[:32], f"output differs:{ours}{theirs}")

    # check

    def test_check_human(self):
        self.each(lambda image: self.parity("check", *image.args(), cwd=self.gallery))

    def test_check_json(self):
        self.each(lambda image: self.json_parity("check", "--output=json", *image.args(), cwd=self.gallery),
                  only=lambda image: image.format == "qcow2")

    def test_check_quiet(self):
        self.parity("check", "-q", "plain.qcow2", cwd=self.gallery)

    def test_check_of_a_format_without_checks(self):
        self.parity("check", "-f", "raw", "base.raw", cwd=self.gallery)
        self.assertEqual(cofre("check", "-f", "raw", "base.raw", cwd=self.gallery).code, 63)

    def test_check_of_a_missing_file(self):
        self.assertEqual(qemu_img("check", "nowhere.qcow2", cwd=self.gallery).code, 1)
        self.refused(cofre("check", "nowhere.qcow2", cwd=self.gallery), "nowhere.qcow2", code=1)

    # compare

    def test_compare_every_pair(self):
        names = ["plain.qcow2", "v2.qcow2", "sub.qcow2", "deflate.qcow2", "mid.qcow2", "base.raw", "empty.qcow2",
                 "odd.qcow2", "zero.qcow2", "wide.qcow2", "kept.qcow2"]
        for strict in ([], ["-s"]):
            for first in names:
                for second in names:
                    with self.subTest(first=first, second=second, strict=bool(strict)):
                        self.parity("compare", *strict, first, second, cwd=self.gallery)

    def test_compare_encrypted_with_plain(self):
        for name in ("aes.qcow2", "luks.qcow2"):
            with self.subTest(image=name):
                image = self.images[name]
                for strict in ([], ["-s"]):
                    self.parity("compare", *strict, *image.object_args(), "--image-opts", image.opts(),
                                self.images["plain.qcow2"].opts(), cwd=self.gallery)

    def test_compare_quiet_and_progress(self):
        self.parity("compare", "-q", "plain.qcow2", "empty.qcow2", cwd=self.gallery)
        ours = self.ok(cofre("compare", "-p", "plain.qcow2", "v2.qcow2", cwd=self.gallery))
        self.assertIn("(100.00/100%)", ours.out, f"{ours}")

    def test_compare_of_a_missing_file_exits_with_2(self):
        self.assertEqual(qemu_img("compare", "plain.qcow2", "nowhere", cwd=self.gallery).code, 2)
        self.refused(cofre("compare", "plain.qcow2", "nowhere", cwd=self.gallery), "nowhere", code=2)

    # the personality

    def test_personality_answers_as_qemu_img(self):
        personality = os.path.join(COMPAT_DIR, "qemu-img")
        for args in (("info", "top.qcow2"), ("check", "plain.qcow2"), ("map", "top.qcow2"),
                     ("compare", "plain.qcow2", "v2.qcow2"), ("compare", "plain.qcow2", "empty.qcow2")):
            with self.subTest(args=args):
                theirs = qemu_img(*args, cwd=self.gallery)
                ours = run(personality, *args, cwd=self.gallery)
                self.assertEqual((ours.code, ours.out), (theirs.code, theirs.out), f"{ours}{theirs}")


class CreateOutput(ParityCase):

    OPTIONS = ["", "cluster_size=4096", "compat=0.10", "refcount_bits=1", "extended_l2=on", "lazy_refcounts=on",
               "preallocation=metadata", "compression_type=zstd", "cluster_size=2M,compat=1.1,refcount_bits=64"]

    def both(self, *args, prepare=None):
        """create by each tool in a folder of its own; the output and the images' info are equal."""
        results, infos = [], []
        for tool in (QEMU_TOOL, COFRE_TOOL):
            folder = self.path(tool.name)
            shutil.rmtree(folder, ignore_errors=True)
            os.mkdir(folder)
            if prepare:
                prepare(folder)
            results.append(self.ok(tool.img("create", *args, cwd=folder)))
            infos.append(self.ok(qemu_img("info", "--output=json", "new.img", cwd=folder)).json())
        theirs, ours = results
        self.assertEqual(ours.out, theirs.out, f"{ours}{theirs}")
        for info in infos:
            info.pop("actual-size")
        return infos

    def test_qcow2(self):
        for options in self.OPTIONS:
            with self.subTest(options=options):
                theirs, ours = self.both("-f", "qcow2", *(["-o", options] if options else []), "new.img", "5M")
                self.assertEqual(ours, theirs)

    def test_quiet(self):
        theirs, ours = self.both("-q", "-f", "qcow2", "new.img", "1M")
        self.assertEqual(ours, theirs)

    def test_raw(self):
        for args in (("new.img", "1M"), ("-f", "raw", "new.img", "1.5M"), ("-f", "raw", "-o", "preallocation=falloc", "new.img", "1M"),
                     ("-f", "raw", "new.img", "1000")):
            with self.subTest(args=args):
                theirs, ours = self.both(*args)
                self.assertEqual(ours, theirs)

    def test_several_o_options_add_up(self):
        theirs, ours = self.both("-f", "qcow2", "-o", "cluster_size=8k", "-o", "lazy_refcounts=on", "new.img", "1M")
        self.assertEqual(ours, theirs)

    def test_backing_file(self):
        def base(folder):
            with open(os.path.join(folder, "base.raw"), "wb") as file:
                file.truncate(3 * MIB)
        for args in (("-b", "base.raw", "-F", "raw", "new.img"), ("-b", "base.raw", "-F", "raw", "new.img", "7M"),
                     ("-o", "backing_file=base.raw,backing_fmt=raw", "new.img")):
            with self.subTest(args=args):
                theirs, ours = self.both("-f", "qcow2", *args, prepare=base)
                self.assertEqual(ours, theirs)

    def test_backing_file_unchecked(self):
        theirs, ours = self.both("-u", "-f", "qcow2", "-b", "nowhere.raw", "-F", "raw", "new.img", "1M")
        self.assertEqual(ours, theirs)

    def test_data_file(self):
        theirs, ours = self.both("-f", "qcow2", "-o", "data_file=d.bin", "new.img", "1M")
        self.assertEqual(ours, theirs)

    def test_luks(self):
        secret = self.secret()
        for format, options in (("qcow2", luks_options()), ("luks", luks_options(prefix="")), ("qcow2", aes_options()),
                                ("qcow2", luks_options(cipher_alg="serpent-128", cipher_mode="cbc", hash_alg="sha1"))):
            with self.subTest(format=format, options=options):
                theirs, ours = self.both("--object", f"secret,id=s0,file={secret}", "-f", format, "-o", options,
                                         "new.img", "1M")
                self.assertEqual(shape(ours), shape(theirs))

    def test_sizes(self):
        for size in ("1", "1k", "1K", "3M", "1G", "2T", "1.5G", "1234567", "512b"):
            with self.subTest(size=size):
                theirs, ours = self.both("-f", "qcow2", "new.img", size)
                self.assertEqual(ours, theirs)


def shape(info):
    """info without what differs from one LUKS header to the next."""
    text = re.sub(r"('uuid': )'[^']*'", r"\1''", repr(info))
    return re.sub(r"('(?:iters|master-key-iters)': )\d+", r"\1N", text)


class SameAllocation(ParityCase):
    """The same commands leave the same clusters allocated, whichever tool ran them."""

    SCRIPTS = {
        "writes": ["write -P 1 0 100k", "write -P 2 1M 1", "write -P 3 4095k 1k"],
        "zeroes": ["write -P 1 0 1M", "write -z 128k 128k", "write -z -u 512k 128k"],
        "discard": ["write -P 1 0 1M", "discard 0 512k", "discard 700k 100k"],
    }

    def test_maps_are_equal(self):
        base = self.write_file("base.raw", random_disk(self.rng, 2 * MIB))
        kinds = {"plain": [], "v2": ["-o", "compat=0.10"], "sub": ["-o", "extended_l2=on"],
                 "backed": ["-b", base, "-F", "raw"]}
        for kind, args in kinds.items():
            for name, script in self.SCRIPTS.items():
                with self.subTest(kind=kind, script=name):
                    maps = []
                    for tool in (QEMU_TOOL, COFRE_TOOL):
                        image = self.create(tool, Image(self.path(f"{tool.name}.qcow2"), "qcow2"), 4 * MIB, *args)
                        self.io(tool, image, *script)
                        extents = self.ok(qemu_img("map", "--output=json", image.path)).json()
                        maps.append(merged(extents))
                        os.unlink(image.path)
                    self.assertEqual(maps[1], maps[0])


def merged(extents):
    """Where each part of the disk is allocated, neighbours joined. (Whether a hole in the file lies below is left out: the tools pad
    a new cluster in different ways.)"""
    out = []
    for extent in extents:
        kind = {key: extent[key] for key in ("depth", "present")}
        if out and out[-1][2] == kind:
            out[-1] = (out[-1][0], out[-1][1] + extent["length"], kind)
        else:
            out.append((extent["start"], extent["length"], kind))
    return out


if __name__ == "__main__":
    unittest.main(verbosity=2)
