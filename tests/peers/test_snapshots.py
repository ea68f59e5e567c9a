"""Internal snapshots: qemu-img and cofre (as qemu-img) create, apply, delete, list and read them in turns on one image."""

import os
import re
import unittest

from cofre_peers import (COFRE_TOOL, COMPAT_TOOL, KIB, LONG, MIB, QEMU_TOOL, SANITIZED, Image, PeerCase, aes_options, cofre,
                         luks_options, qemu_img)
from guest_model import GuestModel

STEPS = 60 if LONG else 4 if SANITIZED else 8
TOOLS = [COMPAT_TOOL, QEMU_TOOL]


class SnapshotCase(PeerCase):

    def fresh(self, size, options="", secret="", args=(), name="image.qcow2"):
        return self.create(QEMU_TOOL, Image(self.path(name), "qcow2", secret), size, *args, options=options)

    def snapshot(self, tool, image, *action):
        return self.ok(tool.img("snapshot", *image.object_args(), *action, "--image-opts", image.opts()))

    def snapshot_content(self, tool, image, param):
        out = self.path("snapshot.raw")
        result = self.ok(tool.img("convert", *image.object_args(), "-l", param, "--image-opts", "-O", "raw", image.opts(), out))
        content = self.read_file(out)
        os.unlink(out)
        return content, result

    def sound(self, image):
        self.clean(QEMU_TOOL, image)
        self.clean(COFRE_TOOL, image)

    def same_list(self, image):
        """Both tools list the same, to the byte."""
        ours, theirs = (self.snapshot(tool, image, "-l").out for tool in TOOLS)
        self.assertEqual(ours, theirs)
        return ours


class RandomSteps(SnapshotCase):

    def exercise(self, image, size, grows=False):
        model = GuestModel(bytes(size), self.rng, longest=100_000)
        kept = []   # (name, content), in the order of the table
        for step in range(STEPS):
            tool, other = self.rng.sample(TOOLS, 2)
            self.io(tool, image, *model.commands(12))
            actual, result = self.content(other, image)
            self.assertEqual(model.settle(actual), -1, f"step {step}: {other.name} after {tool.name}{result}")
            model = self.step(self.rng.choice(TOOLS), image, model, kept, grows)
            self.sound(image)
            self.holds(self.rng.choice(TOOLS), image, model.disk)
            self.assertEqual(re.findall(r"^\d+ +(\S+) ", self.same_list(image), re.M), [name for name, _ in kept])
        for name, expected in kept:
            for tool in TOOLS:
                content, result = self.snapshot_content(tool, image, name)
                # qemu-img shows a snapshot in the disk's present size, cofre in its own.
                length = len(expected) if tool is COMPAT_TOOL else len(model.disk)
                expected_here = bytes(expected[:length]).ljust(length, b"\0")
                self.same_bytes(content, expected_here, f"snapshot {name} by {tool.name}{result}")
        while kept:
            name, _ = kept.pop(self.rng.randrange(len(kept)))
            self.snapshot(self.rng.choice(TOOLS), image, "-d", name)
            self.sound(image)
        self.holds(QEMU_TOOL, image, model.disk)

    def step(self, tool, image, model, kept, grows):
        draw = self.rng.random()
        if draw < 0.45 or not kept:
            name = f"s{self.rng.randrange(10 ** 9)}"
            self.snapshot(tool, image, "-c", name)
            kept.append((name, bytes(model.disk)))
        elif draw < 0.65:
            name, content = self.rng.choice(kept)
            self.snapshot(tool, image, "-a", name)
            model = GuestModel(content, self.rng, longest=100_000)
        elif draw < 0.85:
            name, _ = kept.pop(self.rng.randrange(len(kept)))
            self.snapshot(tool, image, "-d", name)
        elif grows:
            size = len(model.disk) + 512 * self.rng.randrange(1, 600)
            self.io(tool, image, f"truncate {size}")
            model = GuestModel(model.disk.ljust(size, b"\0"), self.rng, longest=100_000)
        return model

    def test_default_geometry(self):
        self.exercise(self.fresh(3 * MIB), 3 * MIB)

    def test_sizes_that_change(self):
        self.exercise(self.fresh(1 * MIB, "cluster_size=4096"), 1 * MIB, grows=True)

    def test_smallest_clusters(self):
        self.exercise(self.fresh(1 * MIB, "cluster_size=512,refcount_bits=8"), 1 * MIB)

    def test_largest_clusters_wide_refcounts(self):
        self.exercise(self.fresh(6 * MIB, "cluster_size=2M,refcount_bits=64"), 6 * MIB)

    def test_version_2(self):
        self.exercise(self.fresh(2 * MIB, "compat=0.10,cluster_size=4096"), 2 * MIB)

    def test_subclusters(self):
        self.exercise(self.fresh(3 * MIB, "extended_l2=on,cluster_size=16k"), 3 * MIB)

    def test_lazy_refcounts(self):
        self.exercise(self.fresh(2 * MIB, "lazy_refcounts=on,cluster_size=4096"), 2 * MIB)

    def test_luks(self):
        self.exercise(self.fresh(2 * MIB, luks_options() + ",cluster_size=16k", self.secret()), 2 * MIB)

    def test_legacy_aes(self):
        self.exercise(self.fresh(2 * MIB, aes_options() + ",cluster_size=8k", self.secret()), 2 * MIB)

    def test_over_a_backing_file(self):
        base = self.write_file("base.raw", bytes(2 * MIB))
        self.exercise(self.fresh(2 * MIB, "cluster_size=4096", args=["-b", base, "-F", "raw"]), 2 * MIB)

    def test_compressed_clusters_keep_their_references(self):
        content = b"".join(bytes([n % 251]) * 4096 for n in range(512))
        source = self.write_file("source.raw", content)
        image = Image(self.path("c.qcow2"), "qcow2")
        self.ok(COFRE_TOOL.img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4096", source, image.path))
        for name in ("a", "b"):
            self.snapshot(COMPAT_TOOL, image, "-c", name)
            self.sound(image)
            self.io(COFRE_TOOL, image, f"write -P {ord(name)} 64k 700k", "write -c -P 9 1M 64k")  # qemu-io would refuse
            self.sound(image)
        self.same_bytes(self.snapshot_content(QEMU_TOOL, image, "a")[0], content, "snapshot a")
        for action in ("-a", "-d"):
            for name in ("a", "b"):
                self.snapshot(COMPAT_TOOL, image, action, name)
                self.sound(image)


class CommandLine(SnapshotCase):

    def parity(self, *args):
        """The same exit code and output."""
        theirs, ours = qemu_img("snapshot", *args), COMPAT_TOOL.img("snapshot", *args)
        self.assertEqual(ours.code, theirs.code, f"{ours}{theirs}")
        self.assertEqual(ours.out, theirs.out, f"{ours}{theirs}")
        if theirs.code:
            self.refused(ours)

    def test_wrong_invocations_fail_alike(self):
        path = self.fresh(MIB).path
        raw = self.write_file("disk.raw", bytes(MIB))
        self.snapshot(QEMU_TOOL, Image(path, "qcow2"), "-c", "one")
        for args in ([path], ["-l"], ["-l", path, path], ["-l", "-c", "x", path], ["-c", "x", "-d", "y", path], ["-c"],
                     ["-c", "x", "-c", "y", path], ["-a", "none", path], ["-d", "none", path], ["-d", "1", path], ["-l", raw],
                     ["-c", "x", raw], ["-a", "x", raw], ["-d", "x", raw], ["-U", "-c", "x", path], ["-U", "-l", path],
                     ["-q", "-l", path], ["-l", self.path("missing")], ["-Z", path], ["-l", "--image-opts", path],
                     ["-l", "--image-opts", f"driver=qcow2,file.filename={path}"]):
            with self.subTest(args=args):
                self.parity(*args)

    def test_names_and_ids(self):
        """The same steps on two images leave the same list, dates apart."""
        lists = []
        for tool in TOOLS:
            image = self.fresh(MIB, name=f"{len(lists)}.qcow2")
            for action in (["-c", "a"], ["-c", "a"], ["-c", "1"], ["-c", ""], ["-c", "n" * 300], ["-d", "a"], ["-c", "käse"],
                           ["-a", "1"], ["-d", "1"], ["-c", "z"]):
                self.snapshot(tool, image, *action)
            lists.append(re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "DATE", self.same_list(image)))
            self.sound(image)
        self.assertEqual(*lists)

    def test_info_tells_the_same(self):
        image = self.fresh(MIB)
        self.snapshot(COMPAT_TOOL, image, "-c", "one")
        self.snapshot(COMPAT_TOOL, image, "-c", "two words")
        self.assertEqual(cofre("info", image.path).out, qemu_img("info", image.path).out)
        self.assertEqual(cofre("info", "--output=json", image.path).json(), qemu_img("info", "--output=json", image.path).json())

    def test_long_options(self):
        image = self.fresh(MIB)
        self.ok(cofre("snapshot", "--create", "one", "-f", "qcow2", image.path))
        self.io(QEMU_TOOL, image, "write -P 1 0 64k")
        self.assertIn(" one ", self.ok(cofre("snapshot", "--list", image.path)).out)
        self.ok(cofre("snapshot", "--apply=one", image.path))
        self.holds(QEMU_TOOL, image, bytes(MIB))
        self.ok(cofre("snapshot", "--delete", "one", image.path))
        self.assertEqual(self.same_list(image), "")

    def test_encrypted_images_need_no_key(self):
        for options in (luks_options(), aes_options()):
            image = self.fresh(MIB, options, self.secret(), name=f"{options[15:18]}.qcow2")
            self.io(QEMU_TOOL, image, "write -P 1 0 512k")
            self.ok(cofre("snapshot", "-c", "one", image.path))
            self.io(QEMU_TOOL, image, "write -P 2 256k 512k")
            self.ok(cofre("snapshot", "-c", "two", image.path))
            self.assertEqual(self.ok(cofre("snapshot", "-l", image.path)).out, self.snapshot(QEMU_TOOL, image, "-l").out)
            self.ok(cofre("snapshot", "-a", "one", image.path))
            self.io(QEMU_TOOL, image, "read -P 1 0 512k", "read -P 0 512k 512k")
            self.ok(cofre("snapshot", "-d", "one", image.path))
            self.io(QEMU_TOOL, image, "read -P 1 0 512k", "read -P 0 512k 512k")
            self.sound(image)
            expected = bytes([1]) * (256 * KIB) + bytes([2]) * (512 * KIB) + bytes(256 * KIB)
            for tool in TOOLS:
                self.same_bytes(self.snapshot_content(tool, image, "two")[0], expected, tool.name)

    def test_data_files_are_refused(self):
        image = self.fresh(MIB, f"data_file={self.path('data')}")
        before = self.read_file(image.path)
        for action in ("-c", "-a", "-d"):
            self.parity(action, "x", image.path)
        self.assertEqual(self.read_file(image.path), before)

    def test_refcounts_too_narrow(self):
        image = self.fresh(MIB, "refcount_bits=1,cluster_size=4096")
        self.io(QEMU_TOOL, image, "write -P 1 0 1M")
        before = self.read_file(image.path)
        self.refused(cofre("snapshot", "-c", "x", image.path), "1-bit refcounts")
        self.assertEqual(self.read_file(image.path), before)

    def test_bitmaps_stay_true(self):
        image = self.fresh(MIB)
        self.ok(qemu_img("bitmap", "--add", image.path, "b"))
        self.snapshot(COMPAT_TOOL, image, "-c", "one")
        self.snapshot(COMPAT_TOOL, image, "-d", "one")
        data = self.ok(qemu_img("info", "--output=json", image.path)).json()["format-specific"]["data"]
        self.assertEqual([(b["name"], b["flags"]) for b in data["bitmaps"]], [("b", ["auto"])])
        self.sound(image)

    def test_space_is_given_back(self):
        image = self.fresh(8 * MIB)
        self.io(QEMU_TOOL, image, "write -P 1 0 8M")
        self.snapshot(COMPAT_TOOL, image, "-c", "one")
        self.io(QEMU_TOOL, image, "write -P 2 0 8M")
        self.snapshot(COMPAT_TOOL, image, "-d", "one")
        self.assertLess(os.stat(image.path).st_blocks * 512, 9 * MIB)
        self.io(COMPAT_TOOL, image, "write -P 3 0 8M")
        self.assertLess(os.stat(image.path).st_size, 18 * MIB, "what was given back is used again")
        self.sound(image)


class ConvertOne(SnapshotCase):

    def setUp(self):
        super().setUp()
        self.image = self.fresh(MIB)
        self.io(QEMU_TOOL, self.image, "write -P 1 0 64k")
        self.snapshot(QEMU_TOOL, self.image, "-c", "one")
        self.io(QEMU_TOOL, self.image, "write -P 2 0 64k")

    def test_how_snapshots_are_named(self):
        for param in ("one", "1", "snapshot.id=1", "snapshot.name=one", "snapshot.id=1,snapshot.name=one",
                      "snapshot.id=2,snapshot.name=one", "snapshot.id=9", "none", "", "snapshot.foo=1", "snapshot."):
            with self.subTest(param=param):
                results = [tool.img("convert", "-l", param, "-O", "raw", self.image.path, self.path(f"{i}.raw"))
                           for i, tool in enumerate(TOOLS)]
                self.assertEqual(results[0].code, results[1].code, f"{results[0]}{results[1]}")
                if results[0].code == 0:
                    self.same_bytes(self.read_file(self.path("0.raw")), self.read_file(self.path("1.raw")), param)
                else:
                    self.refused(results[0])

    def test_refusals(self):
        raw = self.write_file("disk.raw", bytes(MIB))
        for args in (["-l", "one", self.image.path, self.image.path], ["-l", "one", "-f", "raw", raw]):
            for tool in TOOLS:
                self.assertEqual(tool.img("convert", *args, "-O", "raw", self.path("out")).code, 1)

    def test_the_image_stays_as_it_is(self):
        before = self.read_file(self.image.path)
        self.ok(cofre("convert", "-l", "one", "-O", "qcow2", "-c", self.image.path, self.path("out.qcow2")))
        self.assertEqual(self.read_file(self.image.path), before)
        self.holds(QEMU_TOOL, Image(self.path("out.qcow2"), "qcow2"), bytes([1]) * 65536 + bytes(MIB - 65536))

    def test_a_snapshot_has_its_own_size(self):
        self.ok(qemu_img("resize", self.image.path, "2M"))
        content, _ = self.snapshot_content(COMPAT_TOOL, self.image, "one")
        self.assertEqual(len(content), MIB)
        self.snapshot(COMPAT_TOOL, self.image, "-c", "two")
        self.snapshot(COMPAT_TOOL, self.image, "-a", "one")
        self.assertEqual(self.ok(qemu_img("info", "--output=json", self.image.path)).json()["virtual-size"], MIB)
        self.assertEqual(len(self.snapshot_content(COMPAT_TOOL, self.image, "two")[0]), 2 * MIB)
        self.snapshot(QEMU_TOOL, self.image, "-a", "two")
        self.assertEqual(len(self.content(QEMU_TOOL, self.image)[0]), 2 * MIB)
        self.sound(self.image)


class VmState(SnapshotCase):

    def test_both_tools_keep_it_in_the_same_place(self):
        for options in ("", "cluster_size=512", "extended_l2=on", luks_options(), aes_options(), "compat=0.10"):
            for writer, reader in (TOOLS, TOOLS[::-1]):
                with self.subTest(options=options, writer=writer.name):
                    secret = self.secret() if options.startswith("encrypt") else ""
                    image = self.fresh(MIB + 512, options, secret, name="v.qcow2")
                    self.io(writer, image, "write -P 5 0 1M", "write -b -P 7 0 300k", "write -b -P 8 3M 512")
                    self.io(reader, image, "read -b -P 7 0 300k", "read -b -P 8 3M 512", "read -P 5 0 1M", "read -b -P 0 5M 512")
                    self.sound(image)
                    self.snapshot(writer, image, "-c", "one")
                    self.io(reader, image, "write -b -P 9 512 1k", "write -P 6 0 1M")
                    self.sound(image)
                    self.snapshot(reader, image, "-a", "one")
                    self.io(writer, image, "read -b -P 7 0 300k", "read -P 5 0 1M", "read -b -P 8 3M 512")
                    self.snapshot(writer, image, "-d", "one")
                    self.sound(image)

    def test_what_is_refused(self):
        image = self.fresh(MIB)
        raw = Image(self.write_file("disk.raw", bytes(MIB)))
        for command in ("write -b -z 0 4k", "write -b 3 512", "read -b 0 5", "write -b -f 0 4k", "write -b 2P 512"):
            theirs, ours = (tool.io(*image.args(), "-c", command) for tool in (QEMU_TOOL, COMPAT_TOOL))
            self.assertEqual(ours.code, theirs.code, f"{ours}{theirs}")
            self.assertEqual("failed" in ours.out, "failed" in theirs.out, f"{ours}{theirs}")
            if "failed" not in theirs.out:
                self.assertEqual(ours.out, theirs.out)
        self.assertIn("not supported", COMPAT_TOOL.io(*raw.args(), "-c", "read -b 0 512").out)


if __name__ == "__main__":
    unittest.main(verbosity=2)
