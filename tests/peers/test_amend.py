"""Changing existing images: passphrases (LUKS keyslots) and qcow2's options, beside qemu-img amend and cryptsetup."""

import os
import shutil
import unittest

from cofre_peers import (COFRE_TOOL, FAST_KDF_MS, MIB, QEMU_IO, QEMU_TOOL, Image, Interactive, PeerCase, cofre,
                         cryptsetup, luks_options, qemu_img, qemu_io, random_disk)
from terminal import on_terminal

PASSPHRASES = {"a": "correct horse", "b": "battery staple", "c": "third of three"}
FAST = f"iter-time={FAST_KDF_MS}"


class AmendCase(PeerCase):

    def setUp(self):
        super().setUp()
        self.secret_files = {id: self.secret(text, f"secret-{id}") for id, text in PASSPHRASES.items()}
        self.objects = [part for id, path in self.secret_files.items()
                        for part in ("--object", f"secret,id={id},file={path}")]

    def image(self, name, format, secret="a"):
        return Image(self.path(name), format, self.secret_files[secret], secret)

    def amend(self, tool, image, options, *flags):
        return tool.img("amend", *self.objects, *flags, "--image-opts", "-o", options, image.opts())

    def active(self, tool, image):
        """The states of the keyslots, as the tool tells them: '+-------'."""
        info = self.ok(tool.img("info", "--output=json", "-f", image.format, image.path)).json()
        data = info["format-specific"]["data"]
        slots = data["encrypt"]["slots"] if image.format == "qcow2" else data["slots"]
        return "".join("+" if slot["active"] else "-" for slot in slots)

    def opens(self, tool, image, secret):
        with_secret = self.image(os.path.basename(image.path), image.format, secret)
        return tool.io(*with_secret.args(), "-c", "read 0 512").code == 0

    def keys(self, image):
        """Which passphrases open it; both tools must agree."""
        found = {tool.name: "".join(id for id in PASSPHRASES if self.opens(tool, image, id))
                 for tool in (COFRE_TOOL, QEMU_TOOL)}
        self.assertEqual(found["cofre"], found["qemu"], image.path)
        self.assertEqual(self.active(COFRE_TOOL, image), self.active(QEMU_TOOL, image))
        return found["cofre"]

    def new_luks(self, name, format, size=MIB):
        image = self.image(name, format)
        prefix = "encrypt." if format == "qcow2" else ""
        return self.create(COFRE_TOOL, image, size, options=luks_options("a", prefix))


class Keyslots(AmendCase):

    # Options one after another on the same image: (options without prefix, flags). After each the exit code,
    # the states and the passphrases that open must be qemu-img's.
    STEPS = [
        ("state=active,new-secret=b,{fast}", ()),
        ("state=active,new-secret=b,{fast},keyslot=0", ()),       # in use
        ("state=active,new-secret=b,{fast},keyslot=8", ()),
        ("state=active,new-secret=b,{fast},keyslot=-1", ()),
        ("state=active", ()),
        ("new-secret=b", ()),
        ("state=asleep,new-secret=b", ()),
        ("state=active,new-secret=b,old-secret=a", ()),
        ("state=active,new-secret=nosuch", ()),
        ("state=active,new-secret=b,iter-time=soon", ()),
        ("state=active,new-secret=c,{fast},keyslot=6", ()),
        ("state=inactive", ()),
        ("state=inactive,old-secret=nosuch", ()),
        ("state=inactive,new-secret=b,keyslot=1", ()),
        ("state=inactive,keyslot=1,{fast}", ()),
        ("state=inactive,keyslot=7", ()),                         # erased already
        ("state=inactive,keyslot=7", ("--force",)),
        ("state=inactive,keyslot=1,old-secret=c", ()),            # not its passphrase
        ("state=inactive,keyslot=1,old-secret=b", ()),
        ("state=inactive,old-secret=b", ()),                      # none any more
        ("state=active,new-secret=c,{fast},keyslot=6", ("--force",)),
        ("state=active,new-secret=b,{fast},keyslot=6", ("--force",)),
        ("state=active,new-secret=c,{fast},iter-time=0", ()),
        ("state=inactive,old-secret=c", ()),
        ("state=inactive,old-secret=b", ()),
        ("state=inactive,old-secret=a", ()),                      # the last one
        ("state=inactive,keyslot=0", ()),
        ("state=active,new-secret=a,{fast}", ()),
        ("state=inactive,old-secret=a", ()),                      # all of them
        ("cipher-alg=aes-128", ()),
        ("key-secret=b", ()),
        ("nosuch=1", ()),
        ("state=inactive,old-secret=a", ("--force",)),
        ("state=active,new-secret=a", ()),                        # nothing opens it any more
    ]

    def check_steps(self, format, prefix):
        ours = self.new_luks("ours." + format, format)
        theirs = ours.named(self.path("theirs." + format))
        shutil.copy(ours.path, theirs.path)
        for options, flags in self.STEPS:
            text = ",".join(prefix + option for option in options.format(fast=FAST).split(","))
            with self.subTest(options=text, flags=flags):
                before = self.read_file(ours.path)
                mine = self.amend(COFRE_TOOL, ours, text, *flags)
                other = self.amend(QEMU_TOOL, theirs, text, *flags)
                self.assertEqual(mine.code, other.code, f"{mine}{other}")
                if mine.code != 0:
                    self.refused(mine)
                    self.assertEqual(before, self.read_file(ours.path))
                    continue
                self.assertEqual(self.active(QEMU_TOOL, ours), self.active(COFRE_TOOL, theirs))
                self.assertEqual([self.opens(QEMU_TOOL, ours, id) for id in PASSPHRASES],
                                 [self.opens(COFRE_TOOL, theirs, id) for id in PASSPHRASES])

    def test_luks_as_qemu_img(self):
        self.check_steps("luks", "")

    def test_qcow2_as_qemu_img(self):
        self.check_steps("qcow2", "encrypt.")

    def test_content_stays(self):
        disk = random_disk(self.rng, MIB)
        raw = self.write_file("disk.raw", disk)
        for format, prefix in (("luks", ""), ("qcow2", "encrypt.")):
            image = self.image("content." + format, format)
            self.ok(cofre("convert", *image.object_args(), "-O", format, "-o", luks_options("a", prefix), raw,
                          image.path))
            self.ok(self.amend(COFRE_TOOL, image, f"{prefix}state=active,{prefix}new-secret=b,{prefix}{FAST}"))
            renamed = self.image("content." + format, format, "b")
            self.ok(self.amend(COFRE_TOOL, renamed, f"{prefix}state=inactive,{prefix}old-secret=a"))
            self.holds(QEMU_TOOL, renamed, disk)
            self.holds(COFRE_TOOL, renamed, disk)
            self.refused(cofre("compare", *image.args(), image.opts()))

    def test_all_eight(self):
        image = self.new_luks("eight.luks", "luks")
        for _ in range(7):
            self.ok(self.amend(COFRE_TOOL, image, f"state=active,new-secret=b,{FAST}"))
        self.assertEqual(self.active(QEMU_TOOL, image), "++++++++")
        self.refused(self.amend(COFRE_TOOL, image, f"state=active,new-secret=b,{FAST}"), "in use", code=1)
        self.ok(self.amend(QEMU_TOOL, image, "state=inactive,old-secret=b"))
        self.assertEqual(self.keys(image), "a")

    def test_both_take_turns(self):
        """What one adds the other erases."""
        for format, prefix in (("luks", ""), ("qcow2", "encrypt.")):
            image = self.new_luks("turns." + format, format)
            for adds, erases in ((COFRE_TOOL, QEMU_TOOL), (QEMU_TOOL, COFRE_TOOL)):
                self.ok(self.amend(adds, image, f"{prefix}state=active,{prefix}new-secret=b,{prefix}{FAST}"))
                self.assertEqual(self.keys(image), "ab")
                self.ok(self.amend(erases, image, f"{prefix}state=inactive,{prefix}old-secret=b"))
                self.assertEqual(self.keys(image), "a")

    def test_encryption_that_is_not_there(self):
        plain = Image(self.path("plain.qcow2"), "qcow2")
        legacy = self.image("legacy.qcow2", "qcow2")
        self.create(COFRE_TOOL, plain, MIB)
        self.create(COFRE_TOOL, legacy, MIB, options="encrypt.format=aes,encrypt.key-secret=a")
        for image, words in ((plain, "not encrypted"), (legacy, "legacy")):
            before = self.read_file(image.path)
            for tool in (COFRE_TOOL, QEMU_TOOL):
                result = self.amend(tool, image, "encrypt.state=active,encrypt.new-secret=b,size=2M")
                self.refused(result, *([words] if tool is COFRE_TOOL else []), code=1)
            self.assertEqual(before, self.read_file(image.path))

    def test_an_image_in_use_is_refused(self):
        image = self.new_luks("busy.qcow2", "qcow2")
        with Interactive(QEMU_IO, *image.object_args(), "--image-opts", image.opts()) as qemu:
            qemu.command("read 0 512", "read 512/512")
            self.refused(self.amend(COFRE_TOOL, image, f"encrypt.state=active,encrypt.new-secret=b,encrypt.{FAST}"),
                         "lock", code=1)


class Cryptsetup(AmendCase):

    def opened_by_cryptsetup(self, path, secret):
        return cryptsetup("open", "--test-passphrase", "--key-file", self.secret_files[secret], path).code == 0

    def test_opens_what_we_add_and_not_what_we_erase(self):
        image = self.new_luks("ours.luks", "luks")
        self.ok(self.amend(COFRE_TOOL, image, f"state=active,new-secret=b,{FAST},keyslot=6"))
        self.assertTrue(self.opened_by_cryptsetup(image.path, "a"))
        self.assertTrue(self.opened_by_cryptsetup(image.path, "b"))
        self.ok(self.amend(COFRE_TOOL, image, "state=inactive,keyslot=0"))
        self.assertFalse(self.opened_by_cryptsetup(image.path, "a"))
        self.assertTrue(self.opened_by_cryptsetup(image.path, "b"))
        dump = self.ok(cryptsetup("luksDump", image.path)).out
        self.assertIn("Key Slot 6: ENABLED", dump)
        self.assertEqual(dump.count("ENABLED"), 1)

    def test_changes_what_cryptsetup_made(self):
        path = self.write_file("theirs.luks", bytes(4 * MIB))
        self.ok(cryptsetup("luksFormat", "--type", "luks1", "--pbkdf-force-iterations", 1000, "--key-file",
                           self.secret_files["a"], path))
        self.ok(cryptsetup("luksAddKey", "--pbkdf-force-iterations", 1000, "--key-file", self.secret_files["a"],
                           path, self.secret_files["c"]))
        image = self.image("theirs.luks", "luks")
        self.ok(self.amend(COFRE_TOOL, image, f"state=active,new-secret=b,{FAST}"))
        self.ok(self.amend(COFRE_TOOL, image, "state=inactive,old-secret=c"))
        self.assertEqual([self.opened_by_cryptsetup(path, id) for id in "abc"], [True, True, False])
        self.ok(cryptsetup("luksKillSlot", "--key-file", self.secret_files["b"], path, 0))
        self.assertFalse(self.opens(COFRE_TOOL, image, "a"))
        self.assertTrue(self.opens(COFRE_TOOL, image, "b"))


class OnePassphrase(AmendCase):
    """--add-passphrase, --change-passphrase, --remove-passphrase."""

    def change(self, image, present, *args):
        return cofre("amend", "--passphrase-file", self.secret_files[present], *args, image.path)

    def new(self, secret):
        return ["--new-passphrase-file", self.secret_files[secret], "--iter-time", FAST_KDF_MS]

    def test_life_of_a_passphrase(self):
        for format in ("luks", "qcow2"):
            image = self.new_luks("life." + format, format)
            self.ok(self.change(image, "a", "--add-passphrase", *self.new("b")))
            self.assertEqual(self.keys(image), "ab")
            result = self.ok(self.change(image, "a", "--change-passphrase", *self.new("c")))
            self.assertIn("keyslot 2", result.out)
            self.assertEqual(self.keys(image), "bc")
            self.assertEqual(self.active(QEMU_TOOL, image), "-++-----")
            result = self.ok(self.change(image, "b", "--remove-passphrase", "-q"))
            self.assertEqual(result.out, "")
            self.assertEqual(self.keys(image), "c")
            self.refused(self.change(image, "c", "--remove-passphrase"), "ever again", code=1)
            self.refused(self.change(image, "a", "--change-passphrase", *self.new("b")), "passphrase", code=1)
            self.refused(self.change(image, "c", "--change-passphrase", *self.new("c")), "old one", code=1)
            self.assertEqual(self.keys(image), "c")
            self.ok(self.change(image, "c", "--remove-passphrase", "--force"))
            self.assertEqual(self.keys(image), "")

    def test_a_passphrase_from_a_descriptor(self):
        image = self.new_luks("fd.qcow2", "qcow2")
        result = cofre("amend", "--passphrase-file", self.secret_files["a"], "--change-passphrase",
                       "--new-passphrase-fd", 0, "--iter-time", FAST_KDF_MS, image.path,
                       stdin=PASSPHRASES["b"] + "\n")
        self.ok(result)
        self.assertEqual(self.keys(image), "b")

    def test_asks_for_both_on_a_terminal(self):
        image = self.new_luks("asked.qcow2", "qcow2")
        code, shown = on_terminal(["amend", "--change-passphrase", "--iter-time", FAST_KDF_MS, image.path],
                                  [PASSPHRASES["a"], PASSPHRASES["c"], PASSPHRASES["c"]])
        self.assertEqual(code, 0, shown)
        self.assertIn("New passphrase", shown)
        for word in PASSPHRASES.values():
            self.assertNotIn(word, shown)
        self.assertEqual(self.keys(image), "c")

    def test_what_does_not_fit_is_refused(self):
        image = self.new_luks("wrong.qcow2", "qcow2")
        before = self.read_file(image.path)
        empty = self.write_file("empty", "\n")
        for args in (["--add-passphrase", "--change-passphrase", *self.new("b")],
                     ["--add-passphrase"],
                     ["--add-passphrase", "--new-passphrase-file", empty],
                     ["--add-passphrase", "--new-passphrase-file", self.path("nosuch")],
                     ["--add-passphrase", "-o", "size=2M", *self.new("b")],
                     ["--remove-passphrase", *self.new("b")],
                     ["--new-passphrase-file", self.secret_files["b"], "-o", "size=2M"],
                     []):
            self.refused(self.change(image, "a", *args), code=1)
        self.assertEqual(before, self.read_file(image.path))
        plain = Image(self.path("plain.raw"))
        self.create(COFRE_TOOL, plain, MIB)
        self.refused(self.change(plain, "a", "--add-passphrase", *self.new("b")), "not encrypted", code=1)


class Qcow2Options(AmendCase):

    # How the image is made, and what is changed step by step; exit codes and what `info` tells must be qemu-img's.
    CASES = {
        "": ["compat=0.10", "lazy_refcounts=on", "refcount_bits=8", "compat=1.1", "compat=2", "compat=",
             "compat=v2,refcount_bits=8", "compat=v2,lazy_refcounts=on", "lazy_refcounts=on",
             "lazy_refcounts=maybe", "refcount_bits=3", "refcount_bits=128", "refcount_bits=0", "refcount_bits=64",
             "compat=0.10", "refcount_bits=16,compat=0.10", "compat=1.1,refcount_bits=1,lazy_refcounts=on,size=3M",
             "size=1000001", "size=0", "size=4M", "data_file=x", "data_file=", "data_file_raw=on",
             "data_file_raw=off", "backing_file=x", "backing_fmt=raw", "backing_file=", "cluster_size=64k",
             "preallocation=off", "extended_l2=off", "compression_type=zlib", "encryption=off",
             "encrypt.format=luks", "nosuch=1", ""],
        "extended_l2=on": ["compat=0.10", "refcount_bits=64", "size=2M"],
        "compression_type=zstd": ["compat=0.10"],
        "data_file=data.raw": ["compat=0.10", "data_file=other.raw", "data_file_raw=on", "lazy_refcounts=on"],
        "data_file=data.raw,data_file_raw=on": ["data_file_raw=on", "data_file_raw=off", "data_file_raw=on"],
        "backing_file=base.raw,backing_fmt=raw": ["backing_file=base.raw", "backing_fmt=raw",
                                                  "backing_file=base.raw,backing_fmt=raw", "backing_file=other",
                                                  "backing_file=,backing_fmt=", "size=2M", "compat=0.10"],
    }

    def described(self, folder):
        info = self.ok(qemu_img("info", "--output=json", "image.qcow2", cwd=folder)).json()
        return {key: info.get(key) for key in ("virtual-size", "format-specific", "backing-filename", "dirty-flag")}

    def test_as_qemu_img(self):
        disk = random_disk(self.rng, MIB)
        for options, steps in self.CASES.items():
            folders = {}
            for tool in (COFRE_TOOL, QEMU_TOOL):
                folder = folders[tool.name] = self.path(f"{tool.name} {len(os.listdir(self.dir))}")
                os.mkdir(folder)
                for name in ("base.raw", "other.raw"):
                    with open(os.path.join(folder, name), "wb") as file:
                        file.write(disk)
                self.ok(qemu_img("create", "-q", "-f", "qcow2", *(["-o", options] if options else []),
                                 "image.qcow2", "1M", cwd=folder))
                self.ok(qemu_io("-c", "write -P 3 64k 200k", "-c", "write -z 100k 64k", "image.qcow2", cwd=folder))
            path = os.path.join(folders["cofre"], "image.qcow2")
            for step in steps:
                with self.subTest(made=options, step=step):
                    before = self.read_file(path)
                    mine, other = (img("amend", "-f", "qcow2", "-o", step, "image.qcow2", cwd=folders[name])
                                   for name, img in (("cofre", cofre), ("qemu", qemu_img)))
                    self.assertEqual(mine.code, other.code, f"{mine}{other}")
                    if mine.code != 0:
                        self.refused(mine)
                        self.assertEqual(before, self.read_file(path))
                    self.assertEqual(self.described(folders["cofre"]), self.described(folders["qemu"]))
            for img in (qemu_img, cofre):
                self.assertIn("No errors", self.ok(img("check", "image.qcow2", cwd=folders["cofre"])).out)
                self.ok(img("compare", path, os.path.join(folders["qemu"], "image.qcow2"), cwd=folders["cofre"]))

    def test_a_size_of_version_2_with_snapshots_is_refused_even_if_it_is_the_same(self):
        image = self.create(QEMU_TOOL, Image(self.path("two.qcow2"), "qcow2"), 1 * MIB, options="compat=0.10")
        self.ok(qemu_img("snapshot", "-c", "s", image.path))
        for tool in (QEMU_TOOL, COFRE_TOOL):
            self.refused(tool.img("amend", "-f", "qcow2", "-o", "size=1M", image.path), "snapshot", code=1)

    def test_encrypted_zero_clusters_over_a_backing_file(self):
        """Version 2 has no zero clusters: they become encrypted zeros."""
        self.write_file("base.raw", b"b" * MIB)
        expected = bytearray(b"b" * MIB)
        expected[128 * 1024:256 * 1024] = bytes(128 * 1024)
        for format in ("luks", "aes"):
            image = self.image(f"{format}.qcow2", "qcow2")
            options = luks_options("a") if format == "luks" else "encrypt.format=aes,encrypt.key-secret=a"
            self.ok(cofre("create", "-q", *image.object_args(), "-f", "qcow2", "-b", "base.raw", "-F", "raw", "-o",
                          options, image.path, cwd=self.dir))
            self.io(COFRE_TOOL, image, "write -z 128k 128k")
            self.ok(self.amend(COFRE_TOOL, image, "compat=0.10"))
            self.holds(QEMU_TOOL, image, expected)
            self.holds(COFRE_TOOL, image, expected)
            self.clean(QEMU_TOOL, image)

    def test_zstd_clusters_stay_readable(self):
        raw = self.write_file("disk.raw", b"compressible " * 40000)
        image = Image(self.path("zstd.qcow2"), "qcow2")
        self.ok(qemu_img("convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", raw, image.path))
        before = self.read_file(image.path)
        self.refused(self.amend(COFRE_TOOL, image, "compat=0.10"), "zstd", code=1)
        self.assertEqual(before, self.read_file(image.path))

    def test_bitmaps_stay_with_other_refcounts(self):
        image = Image(self.path("bitmap.qcow2"), "qcow2")
        self.create(QEMU_TOOL, image, MIB)
        self.ok(qemu_img("bitmap", "--add", image.path, "b0"))
        self.ok(self.amend(COFRE_TOOL, image, "refcount_bits=64,lazy_refcounts=on"))
        self.assertIn("b0", self.ok(qemu_img("info", image.path)).out)
        self.clean(QEMU_TOOL, image)

    def test_wrong_invocations(self):
        image = Image(self.path("plain.qcow2"), "qcow2")
        self.create(COFRE_TOOL, image, MIB)
        raw = self.write_file("disk.raw", bytes(MIB))
        for args in (["-f", "qcow2", image.path], ["-f", "qcow2", "-o", "size=2M"],
                     ["-f", "qcow2", "-o", "size=2M", image.path, image.path], ["-f", "raw", "-o", "size=2M", raw],
                     ["-f", "raw", "-o", "help"], ["-f", "nosuch", "-o", "size=2M", image.path],
                     ["-f", "qcow2", "--image-opts", "-o", "size=2M", image.opts()],
                     ["-t", "sometimes", "-o", "size=2M", image.path], ["-U", "-o", "size=2M", image.path],
                     ["-o", "size=2M", self.path("nosuch")], ["-o", "help"],
                     ["--image-opts", "-o", "size=2M", image.opts() + ",read-only=on"]):
            mine, other = cofre("amend", *args), qemu_img("amend", *args)
            self.assertEqual((mine.code, other.code), (1, 1), f"{mine}{other}")
            self.refused(mine)

    def test_help_lists_the_same_options(self):
        def names(text):
            return sorted(line.split("=")[0].strip() for line in text.splitlines() if line.startswith("  "))
        for format in ("qcow2", "luks"):
            mine = self.ok(cofre("amend", "-f", format, "-o", "help")).out
            self.assertEqual(names(mine), names(self.ok(qemu_img("amend", "-f", format, "-o", "help")).out))
        image = Image(self.path("plain.qcow2"), "qcow2")
        self.create(COFRE_TOOL, image, MIB)
        self.assertIn("refcount_bits", self.ok(cofre("amend", "-o", "help", image.path)).out)

    def test_progress(self):
        image = Image(self.path("plain.qcow2"), "qcow2")
        self.create(COFRE_TOOL, image, MIB)
        self.assertTrue(self.ok(self.amend(COFRE_TOOL, image, "refcount_bits=8", "-p")).out.strip()
                        .endswith("(100.00/100%)"))
        self.assertEqual(self.ok(self.amend(COFRE_TOOL, image, "refcount_bits=16", "-p", "-q")).out, "")
        self.ok(self.amend(COFRE_TOOL, image, "size=2M", "-t", "none"))


if __name__ == "__main__":
    unittest.main()
