"""convert's options: formats, names, holes, caches, backing files, progress; checked by qemu-img and byte by byte."""

import json
import os
import shutil
import tempfile
import unittest

from cofre_peers import (DISK_DIR, KIB, MIB, QEMU_TOOL, Image, PeerCase, cofre, luks_options, qemu_img,
                         random_disk)
from terminal import on_terminal


class ConvertCase(PeerCase):

    def setUp(self):
        super().setUp()
        self.disk = random_disk(self.rng, 3 * MIB + 512)
        self.source = self.write_file("source.raw", self.disk)

    def to_qcow2(self, *args, name="out.qcow2", source=None):
        path = self.path(name)
        result = self.ok(cofre("convert", "-O", "qcow2", *args, source or self.source, path))
        return Image(path, "qcow2"), result

    def qemu_holds(self, image, expected=None):
        self.clean(QEMU_TOOL, image)
        self.holds(QEMU_TOOL, image, self.disk if expected is None else expected)


class Formats(ConvertCase):

    def test_target_is_raw_unless_told(self):
        out = self.path("out")
        result = self.ok(cofre("convert", "-f", "raw", self.source, out))
        self.same_bytes(self.read_file(out), self.disk, result)

    def test_source_format_is_probed(self):
        image, _ = self.to_qcow2()
        out = self.path("out.raw")
        result = self.ok(cofre("convert", "-O", "raw", image.path, out))
        self.same_bytes(self.read_file(out), self.disk, result)

    def test_source_format_given_wins_over_the_probe(self):
        """-f raw copies the container itself."""
        image, _ = self.to_qcow2()
        out = self.path("out.raw")
        result = self.ok(cofre("convert", "-f", "raw", "-O", "raw", image.path, out))
        self.same_bytes(self.read_file(out), self.read_file(image.path), result)

    def test_wrong_source_format_is_refused(self):
        out = self.path("out.raw")
        self.refused(cofre("convert", "-f", "qcow2", "-O", "raw", self.source, out), self.source)
        self.assertFalse(os.path.exists(out))

    def test_unknown_formats_are_refused(self):
        self.refused(cofre("convert", "-O", "nosuch", self.source, self.path("out")), "nosuch")
        self.refused(cofre("convert", "-f", "nosuch", "-O", "raw", self.source, self.path("out")), "nosuch")
        self.assertFalse(os.path.exists(self.path("out")))

    def test_target_options(self):
        for options in ("cluster_size=512", "cluster_size=2M", "compat=0.10", "refcount_bits=1", "extended_l2=on",
                        "lazy_refcounts=on", "preallocation=metadata", "preallocation=falloc", "preallocation=full",
                        "cluster_size=4k,compat=1.1,refcount_bits=64"):
            with self.subTest(options=options):
                image, _ = self.to_qcow2("-o", options)
                self.qemu_holds(image)
                os.unlink(image.path)

    def test_unknown_or_bad_options_are_refused(self):
        for options, word in (("nosuch=1", "nosuch"), ("cluster_size=1000", "cluster"), ("cluster_size=4M", "cluster"),
                              ("refcount_bits=3", "refcount"), ("compat=9", ("compat", "9")), ("extended_l2=maybe", "extended_l2"),
                              ("compat=0.10,refcount_bits=1", "refcount"), ("compat=0.10,extended_l2=on", ("extended", "subcluster")),
                              ("cluster_size=4k,extended_l2=on", ("extended", "cluster"))):
            with self.subTest(options=options):
                self.refused(qemu_img("convert", "-O", "qcow2", "-o", options, self.source, self.path("q")))
                self.refused(cofre("convert", "-O", "qcow2", "-o", options, self.source, self.path("c")), word)
                self.assertFalse(os.path.exists(self.path("c")), "no target may be left")

    def test_odd_sizes(self):
        """qemu-img rounds a raw size up to whole sectors; what is behind the end is zeros."""
        for size in (1, 511, 513, 65536, 65537, 1_000_001):
            with self.subTest(size=size):
                content = self.rng.randbytes(size)
                source = self.write_file("odd.raw", content)
                padded = content + bytes(-size % 512)
                image, _ = self.to_qcow2("-f", "raw", source=source)
                self.qemu_holds(image, padded)
                theirs = self.path("theirs.qcow2")
                self.ok(qemu_img("convert", "-f", "raw", "-O", "qcow2", source, theirs))
                sizes = [self.ok(qemu_img("info", "--output=json", p)).json()["virtual-size"] for p in (theirs, image.path)]
                self.assertEqual(sizes[1], sizes[0])

    def test_empty_source(self):
        image, _ = self.to_qcow2("-f", "raw", source=self.write_file("empty", b""))
        self.assertEqual(self.ok(qemu_img("info", "--output=json", image.path)).json()["virtual-size"], 0)

    def test_several_sources_are_joined(self):
        """As in qemu-img: the sources, one behind the other."""
        more = random_disk(self.rng, 1 * MIB)
        second = self.write_file("second.raw", more)
        path = self.path("joined.qcow2")
        self.ok(cofre("convert", "-f", "raw", "-O", "qcow2", self.source, second, path))
        self.qemu_holds(Image(path, "qcow2"), bytes(self.disk) + bytes(more))


class Names(ConvertCase):

    def test_image_opts_and_target_image_opts(self):
        target = Image(self.path("t.qcow2"), "qcow2")
        self.create(QEMU_TOOL, target, len(self.disk))
        self.ok(cofre("convert", "--image-opts", "--target-image-opts", "-n", Image(self.source).opts(), target.opts()))
        self.qemu_holds(target)

    def test_image_opts_dotted_and_nested(self):
        image, _ = self.to_qcow2()
        out = self.path("out.raw")
        for opts in (f"driver=qcow2,file.driver=file,file.filename={image.path}",
                     f"file.filename={image.path}"):
            with self.subTest(opts=opts):
                for tool in (qemu_img, cofre):
                    result = self.ok(tool("convert", "--image-opts", "-O", "raw", opts, out))
                    self.same_bytes(self.read_file(out), self.disk, result)
                    os.unlink(out)

    def test_json_names(self):
        image, _ = self.to_qcow2()
        for options in ({"driver": "qcow2", "file": {"driver": "file", "filename": image.path}},
                        {"driver": "qcow2", "file.driver": "file", "file.filename": image.path},
                        {"file": {"driver": "file", "filename": image.path}}):
            with self.subTest(options=options):
                name = "json:" + json.dumps(options)
                self.assertEqual(self.ok(qemu_img("compare", name, self.source)).out,
                                 self.ok(cofre("compare", name, self.source)).out)

    def test_json_name_with_a_secret(self):
        secret = self.secret()
        image, _ = self.to_qcow2("--object", f"secret,id=s0,file={secret}", "-o", luks_options())
        name = "json:" + json.dumps({"driver": "qcow2", "encrypt": {"key-secret": "s0"}, "file": {"driver": "file", "filename": image.path}})
        for tool in (qemu_img, cofre):
            self.ok(tool("compare", "--object", f"secret,id=s0,file={secret}", name, self.source))

    def test_faulty_names(self):
        for name in ("json:{", 'json:{"driver": "nosuch"}', 'json:{"driver": "qcow2"}', "json:[1]"):
            with self.subTest(name=name):
                self.refused(qemu_img("info", name), code=1)
                self.refused(cofre("info", name), code=1)
        for opts in ("driver=qcow2", f"driver=qcow2,file.filename={self.source},nosuch=1", "driver=nosuch,file.filename=x", ""):
            with self.subTest(opts=opts):
                self.refused(qemu_img("info", "--image-opts", opts), code=1)
                self.refused(cofre("info", "--image-opts", opts), code=1)

    def test_file_prefix_and_odd_names(self):
        image, _ = self.to_qcow2()
        for name in ("with space.qcow2", "comma,comma.qcow2", "ünï.qcow2", "percent%20.qcow2"):
            with self.subTest(name=name):
                path = self.path(name)
                shutil.copyfile(image.path, path)
                self.ok(cofre("compare", path, self.source))
                self.ok(cofre("compare", "file:" + path, self.source))
                self.ok(cofre("convert", "-O", "qcow2", self.source, path))
                self.ok(qemu_img("compare", path, self.source))


class Holes(ConvertCase):

    def sparse_source(self):
        """64 MiB with three islands of data, the rest holes."""
        path = self.path("sparse.raw")
        with open(path, "wb") as file:
            file.truncate(64 * MIB)
            for offset in (0, 20 * MIB + 4096, 64 * MIB - 65536):
                file.seek(offset)
                file.write(self.rng.randbytes(65536))
        return path

    def on_disk(self, path):
        return os.stat(path).st_blocks * 512

    def test_holes_of_the_source_stay_holes(self):
        source = self.sparse_source()
        for format in ("raw", "qcow2"):
            with self.subTest(target=format):
                out = self.path(f"out.{format}")
                self.ok(cofre("convert", "-f", "raw", "-O", format, source, out))
                self.ok(qemu_img("compare", "-f", "raw", "-F", format, source, out))
                self.assertLess(self.on_disk(out), 2 * MIB)

    def test_zeros_of_the_source_become_holes(self):
        source = self.write_file("zeros.raw", bytes(16 * MIB) + self.rng.randbytes(65536) + bytes(16 * MIB))
        for format in ("raw", "qcow2"):
            with self.subTest(target=format):
                out = self.path(f"out.{format}")
                self.ok(cofre("convert", "-f", "raw", "-O", format, source, out))
                self.ok(qemu_img("compare", "-f", "raw", "-F", format, source, out))
                self.assertLess(self.on_disk(out), 2 * MIB)

    def test_sparse_size_zero_writes_everything(self):
        source = self.sparse_source()
        for format in ("raw", "qcow2"):
            with self.subTest(target=format):
                out = self.path(f"full.{format}")
                self.ok(cofre("convert", "-S", "0", "-f", "raw", "-O", format, source, out))
                self.ok(qemu_img("compare", "-f", "raw", "-F", format, source, out))
                self.assertGreaterEqual(self.on_disk(out), 64 * MIB)

    def test_sparse_size_sets_the_shortest_hole(self):
        """Zeros shorter than -S are written as data, as with qemu-img."""
        content = bytearray()
        for _ in range(16):
            content += self.rng.randbytes(64 * KIB) + bytes(64 * KIB)
        source = self.write_file("striped.raw", content)
        sizes = {}
        for sparse in ("4k", "1M"):
            out = self.path("s.raw")
            result = self.ok(cofre("convert", "-S", sparse, "-f", "raw", "-O", "raw", source, out))
            self.same_bytes(self.read_file(out), content, result)
            sizes[sparse] = self.on_disk(out)
            os.unlink(out)
        self.assertLessEqual(sizes["4k"], 16 * 64 * KIB + 64 * KIB)
        self.assertGreaterEqual(sizes["1M"], 2 * 15 * 64 * KIB)

    def test_faulty_sparse_size(self):
        self.refused(cofre("convert", "-S", "777", "-O", "raw", self.source, self.path("o")), "512")
        self.refused(cofre("convert", "-S", "abc", "-O", "raw", self.source, self.path("o")), ("sparse", "-S"))

    def test_huge_sparse_image_is_quick_and_small(self):
        path = self.path("huge.qcow2")
        self.ok(qemu_img("create", "-q", "-f", "qcow2", path, "2T"))
        self.io(QEMU_TOOL, Image(path, "qcow2"), "write -P 1 1T 64k")
        image, result = self.to_qcow2(source=path)
        self.bounded(result)
        self.assertLess(self.on_disk(image.path), 4 * MIB)
        self.io(QEMU_TOOL, image, "read -P 1 1T 64k", "read -P 0 0 1M")
        self.clean(QEMU_TOOL, image)


class TargetsInPlace(ConvertCase):

    def test_n_writes_into_an_existing_target(self):
        """What the target held is gone, zeros of the source included."""
        target = self.create(QEMU_TOOL, Image(self.path("t.qcow2"), "qcow2"), len(self.disk))
        self.io(QEMU_TOOL, target, f"write -P 0x77 0 {len(self.disk)}")
        self.ok(cofre("convert", "-n", "-f", "raw", "-O", "qcow2", self.source, target.path))
        self.qemu_holds(target)

    def test_n_into_an_existing_raw_target(self):
        target = self.write_file("t.raw", b"\x77" * len(self.disk))
        self.ok(cofre("convert", "-n", "-f", "raw", "-O", "raw", self.source, target))
        self.same_bytes(self.read_file(target), self.disk, "convert -n")

    def test_n_into_an_encrypted_target_keeps_its_header(self):
        target = Image(self.path("t.qcow2"), "qcow2", self.secret())
        self.create(QEMU_TOOL, target, len(self.disk), options=luks_options())
        before = self.read_file(target.path)
        start = before.index(b"LUKS\xba\xbe")
        self.ok(cofre("convert", *target.object_args(), "-n", "--image-opts", "--target-image-opts",
                      Image(self.source).opts(), target.opts()))
        self.assertEqual(self.read_file(target.path)[start:start + 592], before[start:start + 592])
        self.qemu_holds(target)

    def test_n_into_a_smaller_target_is_refused(self):
        target = self.create(QEMU_TOOL, Image(self.path("t.qcow2"), "qcow2"), 1 * MIB)
        before = self.read_file(target.path)
        self.refused(cofre("convert", "-n", "-f", "raw", "-O", "qcow2", self.source, target.path), ("small", "size"))
        self.same_bytes(self.read_file(target.path), before, "a target that is too small must not change")

    def test_n_without_a_target_is_refused(self):
        self.refused(cofre("convert", "-n", "-O", "qcow2", self.source, self.path("nowhere.qcow2")), "nowhere.qcow2")
        self.assertFalse(os.path.exists(self.path("nowhere.qcow2")))

    def test_existing_target_is_replaced(self):
        path = self.write_file("t.qcow2", b"something else" * 1000)
        self.ok(cofre("convert", "-O", "qcow2", self.source, path))
        self.qemu_holds(Image(path, "qcow2"))

    def test_target_keeps_its_mode_and_links(self):
        """A target that is a symbolic link is written through, as the shell's > does."""
        real = self.write_file("real.qcow2", b"")
        link = self.path("link.qcow2")
        os.symlink(real, link)
        self.ok(cofre("convert", "-O", "qcow2", self.source, link))
        self.assertTrue(os.path.islink(link))
        self.qemu_holds(Image(real, "qcow2"))


class BackingFiles(ConvertCase):

    def chain(self):
        base = self.write_file("base.raw", self.disk)
        overlay = self.create(QEMU_TOOL, Image(self.path("overlay.qcow2"), "qcow2"), len(self.disk), "-b", base, "-F", "raw")
        self.io(QEMU_TOOL, overlay, "write -P 9 64k 100k", "write -z 1M 64k")
        content, _ = self.content(QEMU_TOOL, overlay)
        return base, overlay, content

    def test_chain_becomes_one_image(self):
        _, overlay, content = self.chain()
        image, _ = self.to_qcow2(source=overlay.path)
        self.assertNotIn("backing-filename", self.ok(qemu_img("info", "--output=json", image.path)).json())
        self.qemu_holds(image, content)

    def test_B_keeps_the_backing_file(self):
        """Only what differs from the base is copied."""
        base, overlay, content = self.chain()
        for option in (["-B", base, "-F", "raw"], ["-o", f"backing_file={base},backing_fmt=raw"]):
            with self.subTest(option=option):
                image, _ = self.to_qcow2(*option, source=overlay.path)
                info = self.ok(qemu_img("info", "--output=json", image.path)).json()
                self.assertEqual(info["backing-filename"], base)
                self.qemu_holds(image, content)
                allocated = [e for e in self.ok(qemu_img("map", "--output=json", image.path)).json() if e["depth"] == 0]
                self.assertLess(sum(e["length"] for e in allocated), 1 * MIB)
                os.unlink(image.path)

    def test_layers_with_keys_of_their_own(self):
        one, two = self.secret("key of the base", "one"), self.secret("key of the overlay", "two")
        base = Image(self.path("base.qcow2"), "qcow2", one, secret_id="b0")
        self.ok(cofre("convert", *base.object_args(), "-f", "raw", "-O", "qcow2", "-o", luks_options("b0"), self.source, base.path))
        top = Image(self.path("top.qcow2"), "qcow2", two, extra="backing.encrypt.key-secret=b0")
        objects = [*base.object_args(), *top.object_args()]
        self.ok(cofre("create", "-q", *objects, "-u", "-f", "qcow2", "-b", base.path, "-F", "qcow2", "-o", luks_options(),
                      top.path, str(len(self.disk))))
        expected = bytearray(self.disk)
        expected[100_000:101_000] = b"\x05" * 1000
        self.ok(cofre("io", *objects, "--image-opts", top.opts(), "-c", "write -P 5 100000 1000"))
        for tool in (qemu_img, cofre):
            out = self.path("out.raw")
            result = self.ok(tool("convert", *objects, "--image-opts", "-O", "raw", top.opts(), out))
            self.same_bytes(self.read_file(out), expected, result)
            os.unlink(out)

    def test_relative_backing_names_resolve_beside_the_image(self):
        os.mkdir(self.path("folder"))
        self.ok(qemu_img("create", "-q", "-f", "qcow2", "-b", "../source.raw", "-F", "raw", "folder/top.qcow2", cwd=self.dir))
        self.ok(cofre("compare", self.path("folder/top.qcow2"), self.source, cwd="/"))


class Caches(ConvertCase):

    def test_every_cache_mode(self):
        folder = tempfile.mkdtemp(prefix="cofre-peer-", dir=DISK_DIR)
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        source = os.path.join(folder, "source.raw")
        shutil.copyfile(self.source, source)
        for mode in ("none", "writeback", "writethrough", "directsync", "unsafe"):
            with self.subTest(cache=mode):
                image = Image(os.path.join(folder, f"{mode}.qcow2"), "qcow2")
                self.ok(cofre("convert", "-t", mode, "-T", mode, "-f", "raw", "-O", "qcow2", source, image.path))
                self.qemu_holds(image)
                back = os.path.join(folder, "back.raw")
                result = self.ok(cofre("convert", "-t", mode, "-T", mode, "-O", "raw", image.path, back))
                self.same_bytes(self.read_file(back), self.disk, result)

    def test_encrypted_with_direct_io(self):
        folder = tempfile.mkdtemp(prefix="cofre-peer-", dir=DISK_DIR)
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        image = Image(os.path.join(folder, "enc.qcow2"), "qcow2", self.secret())
        self.ok(cofre("convert", *image.object_args(), "-t", "none", "-f", "raw", "-O", "qcow2", "-o",
                      luks_options() + ",cluster_size=512", self.source, image.path))
        self.qemu_holds(image)

    def test_unknown_cache_mode(self):
        self.refused(cofre("convert", "-t", "nosuch", "-O", "raw", self.source, self.path("o")), "nosuch")
        self.refused(cofre("convert", "-T", "nosuch", "-O", "raw", self.source, self.path("o")), "nosuch")

    def test_parallel_and_out_of_order(self):
        for args in (["-m", "1"], ["-m", "16"], ["-W"], ["-W", "-m", "16"]):
            with self.subTest(args=args):
                image, _ = self.to_qcow2(*args)
                self.qemu_holds(image)
        self.refused(cofre("convert", "-m", "0", "-O", "raw", self.source, self.path("o")), "16")
        self.refused(cofre("convert", "-m", "17", "-O", "raw", self.source, self.path("o")), "16")


class Talking(ConvertCase):

    def test_quiet_by_default(self):
        _, result = self.to_qcow2()
        self.assertEqual(result.out + result.err, "", f"{result}")

    def test_progress(self):
        """-p shows the same figures as qemu-img, at least the last."""
        _, result = self.to_qcow2("-p")
        self.assertIn("(100.00/100%)", result.out, f"{result}")

    def test_q_wins_over_p(self):
        _, result = self.to_qcow2("-q", "-p")
        self.assertEqual(result.out, "", f"{result}")

    def test_progress_on_a_terminal(self):
        code, shown = on_terminal(["convert", "-p", "-O", "qcow2", self.source, self.path("o.qcow2")], [])
        self.assertEqual(code, 0, shown)
        self.assertIn("100", shown)

    def test_stats_name_the_kernel(self):
        """--stats says which AES kernel ran and how much it did."""
        secret = self.secret()
        for kernel in ("portable", None):
            with self.subTest(kernel=kernel):
                result = self.ok(cofre("convert", "--stats", "--passphrase-file", secret, "-f", "raw", "-O", "qcow2", "-o",
                                       "encrypt.format=luks,encrypt.iter-time=10", self.source, self.path("s.qcow2"),
                                       env={"COFRE_AES": kernel} if kernel else {}))
                lines = [line for line in result.err.splitlines() if line.startswith("AES kernel: ")]
                self.assertEqual(len(lines), 1, f"{result}")
                if kernel:
                    self.assertTrue(lines[0].startswith(f"AES kernel: {kernel}"), f"{result}")

    def test_version_names_the_kernel(self):
        self.assertRegex(self.ok(cofre("--version")).out, r"(?m)^AES kernel: \w+")

    def test_unknown_kernel_is_refused(self):
        secret = self.secret()
        self.refused(cofre("convert", "--passphrase-file", secret, "-O", "qcow2", "-o", "encrypt.format=luks", self.source,
                           self.path("k.qcow2"), env={"COFRE_AES": "nosuch"}), "nosuch")

    def test_usage_faults(self):
        for args in ((), ("nosuchcommand",), ("convert",), ("convert", "onlyone"), ("convert", "--nosuch", "a", "b"),
                     ("info",), ("create",), ("check", "a", "b")):
            with self.subTest(args=args):
                self.refused(cofre(*args))

    def test_help(self):
        for args in (("--help",), ("convert", "--help")):
            with self.subTest(args=args):
                self.assertIn("convert", self.ok(cofre(*args)).out)


if __name__ == "__main__":
    unittest.main(verbosity=2)
