"""Persistent dirty bitmaps beside qemu-img: random sequences of writes and bitmap actions leave the same bitmaps whether one
tool does all of it or both take turns on one image; commands fail alike; the dirty extents are those that qemu-nbd tells."""

import os
import shutil
import signal
import unittest

from cofre_peers import (COFRE, COFRE_TOOL, COMPAT_TOOL, KIB, LONG, MIB, QEMU_TOOL, Image, Interactive, PeerCase,
                         aes_options, cofre, luks_options, qemu_img, qemu_io)
from dirty_extents import dirty_extents
from qcow2_patch import Patch

ROUNDS = 40 if LONG else 7


class BitmapCase(PeerCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for tool in ("qemu-nbd", "nbdinfo"):
            if not shutil.which(tool):
                raise AssertionError(f"{tool} not found: apt-get install qemu-utils libnbd-bin (./test does it)")

    def setUp(self):
        super().setUp()
        self.keyfile = self.secret()

    def bitmaps(self, image):
        """By name: flags and granularity, as qemu-img tells; cofre tells the same."""
        infos = [self.ok(tool.img("info", "--output=json", image.path)).json() for tool in (QEMU_TOOL, COFRE_TOOL)]
        listed = [info["format-specific"]["data"].get("bitmaps") for info in infos]
        self.assertEqual(listed[0], listed[1])
        return {b["name"]: (tuple(b["flags"]), b["granularity"]) for b in listed[0] or []}

    def dirty(self, image, bitmap):
        return dirty_extents(self, image.args(), bitmap)

    def dirty_of_all(self, image):
        return {name: self.dirty(image, name) for name, (flags, _) in self.bitmaps(image).items() if "in-use" not in flags}

    def new_image(self, name, size, kind):
        options = {"plain": "", "small": "cluster_size=512", "subclusters": "extended_l2=on", "lazy": "lazy_refcounts=on",
                   "narrow": "refcount_bits=1,cluster_size=4k", "wide": "refcount_bits=64,cluster_size=4k",
                   "large": "cluster_size=2M", "aes": aes_options(), "luks": luks_options(),
                   "data": f"data_file={self.path(name)}.raw,data_file_raw=on"}[kind]
        image = Image(self.path(name), "qcow2", self.keyfile if kind in ("aes", "luks") else "")
        maker = COFRE_TOOL if kind == "luks" else QEMU_TOOL  # QEMU takes seconds to make a LUKS header
        return self.create(maker, image, size, options=options)


KINDS = ["plain", "small", "subclusters", "lazy", "narrow", "wide", "large", "aes", "luks", "data"]


class TurnsTest(BitmapCase):
    """Two images, the same steps: on one all by QEMU, on the other each step by either."""

    def image_step(self):
        """Arguments for `bitmap` after the image's."""
        name = self.rng.choice(["a", "b", "c"])
        steps = []
        for _ in range(self.rng.choice([1, 1, 1, 2, 3])):
            action = self.rng.choice(["--add", "--add", "--clear", "--enable", "--disable", "--remove", "--merge"])
            steps += [action, self.rng.choice(["a", "b", "c"])] if action == "--merge" else [action]
        if "--add" in steps and self.rng.random() < 0.7:
            steps += ["-g", self.rng.choice(["512", "4k", "64k", "1M"])]
        return steps, name

    def io_step(self, size):
        length = self.rng.choice([512, 4096, 65536, 300 * KIB])
        offset = self.rng.randrange(0, (size - length) // 512 + 1) * 512
        return f"{self.rng.choice(['write -P 7', 'write -P 0', 'write -z', 'write -zu', 'discard'])} {offset} {length}"

    def step(self, size, snapshots):
        """A function of tool and image, that gives the exit code."""
        if snapshots and self.rng.random() < 0.15:
            action = self.rng.choice(["-c", "-a", "-d"])
            return f"snapshot {action}", lambda tool, image: tool.img(
                "snapshot", action, "s", *image.args())
        if self.rng.random() < 0.5:
            commands = [part for _ in range(self.rng.randrange(1, 4)) for part in ("-c", self.io_step(size))]
            return f"io {commands}", lambda tool, image: tool.io(*image.args(), *commands)
        steps, name = self.image_step()
        # QEMU wants the key for this, cofre takes it.
        return f"bitmap {steps} {name}", lambda tool, image: tool.img(
            "bitmap", *image.object_args(), "--image-opts", *steps, image.opts(), name)

    def crash(self, image):
        qemu_io(*image.args(), "-c", "write -P 9 0 512", "-c", "abort")

    def test_turns(self):
        kinds = self.rng.sample(KINDS, len(KINDS))
        for i in range(ROUNDS):
            kind = kinds[i % len(kinds)]
            with self.subTest(round=i, kind=kind):
                self.empty_scratch_of_images()
                self.one_round(kind)

    def empty_scratch_of_images(self):
        self.empty_scratch()
        self.keyfile = self.secret()

    def one_round(self, kind):
        size = self.rng.randrange(2048, 8192) * 512
        images = [self.new_image(name, size, kind) for name in ("qemu.qcow2", "both.qcow2")]
        history = []
        for _ in range(12):
            if self.rng.random() < 0.06:
                history.append("crash")
                for image in images:
                    self.crash(image)
                continue
            text, step = self.step(size, snapshots=kind not in ("data", "narrow"))
            tool = self.rng.choice([COFRE_TOOL, COFRE_TOOL, QEMU_TOOL])
            history.append(f"{tool.name}: {text}")
            codes = [step(QEMU_TOOL, images[0]).code, step(tool, images[1]).code]
            self.assertEqual(codes[0], codes[1], history)
            for checker in (QEMU_TOOL, COFRE_TOOL):
                if "crash" not in history:
                    self.clean(checker, images[1])
        expected = self.bitmaps(images[0])
        found = self.bitmaps(images[1])
        # A bitmap that is disabled does not change: cofre does not take it for inconsistent after a crash.
        for name in expected:
            if "crash" in history and "in-use" in expected[name][0] and "in-use" not in found.get(name, ((),))[0]:
                self.assertNotIn("auto", expected[name][0], history)
                found.pop(name)
        expected = {name: entry for name, entry in expected.items() if name in found}
        self.assertEqual(found, expected, history)
        dirty = [self.dirty_of_all(image) for image in images]
        self.assertEqual({n: d for n, d in dirty[1].items() if n in dirty[0]}, dirty[0], history)


class CommandTest(BitmapCase):
    def test_fails_as_qemu_img_does(self):
        image = self.new_image("disk.qcow2", MIB, "plain").path
        old = self.path("old.qcow2")
        raw = self.write_file("disk.raw", bytes(MIB))
        longer = self.new_image("longer.qcow2", 2 * MIB, "plain").path
        self.ok(qemu_img("create", "-q", "-f", "qcow2", "-o", "compat=0.10", old, "1M"))
        for path in (image, longer):
            self.ok(qemu_img("bitmap", "--add", path, "a"))
        for words, args in [
                (["need at least one of --add"], [image, "a"]),
                (["expecting filename and bitmap name"], ["--add", image]),
                (["expecting filename and bitmap name"], ["--add", image, "a", "b"]),
                (["granularity only supported with --add"], ["--remove", "-g", "64k", image, "a"]),
                (["-F only supported with -b"], ["--merge", "a", "-F", "qcow2", image, "a"]),
                (["source file only supported with --merge"], ["--clear", "-b", longer, image, "a"]),
                (["operation add on bitmap a failed", "bitmap already exists: a"], ["--add", image, "a"]),
                (["power of 2 and at least 512"], ["--add", "-g", "1000", image, "b"]),
                (["power of 2 and at least 512"], ["--add", "-g", "256", image, "b"]),
                (["power of 2 and at least 512"], ["--add", "-g", "4G", image, "b"]),
                (["name cannot be empty"], ["--add", image, ""]),
                (["name length exceeds maximum"], ["--add", image, "x" * 1024]),
                (["operation merge on bitmap a failed", "'nope' not found"], ["--merge", "nope", image, "a"]),
                (["operation merge on bitmap nope failed", "'nope' not found"], ["--merge", "a", image, "nope"]),
                (["different sizes"], ["--merge", "a", "-b", longer, image, "a"]),
                (["missing"], ["--merge", "a", "-b", self.path("missing"), image, "a"]),
                (["v2 files"], ["--add", old, "a"]),
                (["operation add on bitmap a failed"], ["--add", "-f", "raw", raw, "a"]),
                *[([f"operation {action} on bitmap nope failed", "'nope' not found"], [f"--{action}", image, "nope"])
                  for action in ("remove", "clear", "enable", "disable")]]:
            with self.subTest(args=args):
                self.refused(qemu_img("bitmap", *args), *words, code=1)
                self.refused(COMPAT_TOOL.img("bitmap", *args), *words, code=1)
        self.clean(QEMU_TOOL, Image(image, "qcow2"))

    def test_no_key_and_no_backing_file_is_needed(self):
        for kind in ("aes", "luks"):
            image = self.new_image(f"{kind}.qcow2", MIB, kind)
            self.ok(cofre("bitmap", "--add", "-f", "qcow2", image.path, "a"))
            self.assertEqual(self.bitmaps(image), {"a": (("auto",), 65536)})
            self.io(COFRE_TOOL, image, "write 128k 1")
            self.assertEqual(self.dirty(image, "a"), [(128 * KIB, 192 * KIB)])
        overlay = self.path("overlay.qcow2")
        self.ok(qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", "nowhere", "-F", "raw", overlay, "1M"))
        self.ok(cofre("bitmap", "--add", overlay, "a"))

    def test_a_killed_writer_leaves_it_in_use(self):
        image = self.new_image("disk.qcow2", MIB, "plain")
        for step in (["--add", "a"], ["--add", "--disable", "b"]):
            self.ok(cofre("bitmap", *step[:-1], image.path, step[-1]))
        with Interactive(COFRE, "io", "-f", "qcow2", image.path) as writer:
            writer.command("write 0 64k", "wrote 65536")
            writer.process.send_signal(signal.SIGKILL)
            writer.process.wait()
        self.assertEqual(self.bitmaps(image), {"a": (("in-use", "auto"), 65536), "b": ((), 65536)})
        self.assertEqual(self.dirty(image, "b"), [])
        for action in (["--clear"], ["--enable"], ["--disable"], ["--merge", "b"]):
            for tool in (qemu_img, COMPAT_TOOL.img):
                self.refused(tool("bitmap", *action, image.path, "a"), "inconsistent and cannot be used", code=1)
        for tool in (qemu_img, COMPAT_TOOL.img):
            self.refused(tool("bitmap", "--add", image.path, "a"), "already exists", code=1)
        self.clean(QEMU_TOOL, image)
        self.ok(cofre("bitmap", "--remove", image.path, "a"))
        self.clean(QEMU_TOOL, image)

    def test_many(self):
        """A directory of many clusters."""
        image = self.new_image("disk.qcow2", MIB, "small")
        for i in range(40):
            self.ok(self.rng.choice([cofre, qemu_img])("bitmap", "--add", image.path, f"{i:03}" + "x" * (i * 25)))
        self.assertEqual(len(self.bitmaps(image)), 40)
        self.io(COFRE_TOOL, image, "write 64k 64k")
        self.clean(QEMU_TOOL, image)
        self.assertEqual(self.dirty(image, "000"), [(64 * KIB, 128 * KIB)])

    def test_a_version_that_knows_no_bitmaps_makes_them_void(self):
        """The autoclear bit is gone: as in QEMU they are not used, and new ones take their place."""
        image = self.new_image("disk.qcow2", MIB, "plain")
        self.ok(qemu_img("bitmap", "--add", image.path, "a"))
        with Patch(image.path) as patch:
            patch.set("autoclear", 0)
        self.assertEqual(self.bitmaps(image), {})
        self.io(COFRE_TOOL, image, "write 0 64k")
        self.assertEqual(self.bitmaps(image), {})
        self.ok(cofre("bitmap", "--add", image.path, "a"))
        self.assertEqual(self.dirty(image, "a"), [])
        self.ok(cofre("check", "-r", "leaks", image.path))
        self.clean(QEMU_TOOL, image)


class ConvertTest(BitmapCase):
    def test_copies_what_qemu_img_copies(self):
        for kind in self.rng.sample(KINDS, 4):
            self.empty_scratch()
            self.keyfile = self.secret()
            source = self.new_image("source.qcow2", 3 * MIB + 512, kind)
            for i, granularity in enumerate(["512", "4k", "64k", "1M"]):
                self.ok(cofre("bitmap", "--add", "-g", granularity, source.path, f"b{i}"))
                self.io(QEMU_TOOL, source, f"write {i * 300 * KIB} 4k")
            self.ok(cofre("bitmap", "--disable", source.path, "b2"))
            expected = self.bitmaps(source), self.dirty_of_all(source)
            for tool in (qemu_img, cofre):
                for args in ([], ["-n"]):
                    target = Image(self.path("target.qcow2"), "qcow2")
                    if args:
                        self.create(QEMU_TOOL, target, 3 * MIB + 512)
                    self.ok(tool("convert", *args, "--bitmaps", *source.object_args(), "--image-opts", "-O", "qcow2",
                                 source.opts(), target.path))
                    self.assertEqual((self.bitmaps(target), self.dirty_of_all(target)), expected)
                    self.clean(QEMU_TOOL, target)
                    os.unlink(target.path)

    def test_fails_as_qemu_img_does(self):
        good = self.new_image("good.qcow2", MIB, "plain").path
        broken = self.new_image("broken.qcow2", MIB, "plain").path
        raw = self.write_file("disk.raw", bytes(MIB))
        for path in (good, broken):
            self.ok(qemu_img("bitmap", "--add", path, "a"))
        qemu_io(broken, "-c", "write 0 512", "-c", "abort")
        target = self.path("target")
        for words, args in [
                (["requires --bitmaps"], ["--skip-broken-bitmaps", "-O", "qcow2", good, target]),
                (["single source"], ["--bitmaps", "-O", "qcow2", good, good, target]),
                (["'raw' does not support bitmaps"], ["--bitmaps", "-O", "raw", good, target]),
                (["'qcow2' does not support bitmaps"], ["--bitmaps", "-O", "qcow2", "-o", "compat=0.10", good, target]),
                (["source lacks bitmap support"], ["--bitmaps", "-f", "raw", "-O", "qcow2", raw, target]),
                (["inconsistent bitmap 'a'"], ["--bitmaps", "-O", "qcow2", broken, target]),
                (["failed to create bitmap a", "already exists"], ["--bitmaps", "-n", "-O", "qcow2", good, "exists"])]:
            with self.subTest(args=args):
                for tool in (qemu_img, COMPAT_TOOL.img):
                    existing = self.path("existing.qcow2")
                    self.ok(qemu_img("create", "-q", "-f", "qcow2", existing, "1M"))
                    self.ok(qemu_img("bitmap", "--add", existing, "a"))
                    self.refused(tool("convert", *[existing if a == "exists" else a for a in args]), *words, code=1)
        for tool in (qemu_img, COMPAT_TOOL.img):
            result = self.ok(tool("convert", "--bitmaps", "--skip-broken-bitmaps", "-O", "qcow2", broken, target))
            self.assertIn("warning: Skipping inconsistent bitmap 'a'", result.err)
            self.assertEqual(self.bitmaps(Image(target, "qcow2")), {})


class FollowTest(BitmapCase):
    """What other commands do to bitmaps, beside QEMU."""

    def both(self, kind, size, work):
        """The same on two images, by either tool: bitmaps are the same afterwards."""
        results = []
        for tool in (QEMU_TOOL, COFRE_TOOL):
            image = self.new_image(f"{tool.name}.qcow2", size, kind)
            self.ok(qemu_img("bitmap", "--add", "-g", "4k", *image.object_args(), "--image-opts", image.opts(), "on"))
            self.ok(qemu_img("bitmap", "--add", "--disable", "--merge", "on", *image.object_args(), "--image-opts",
                             image.opts(), "off"))
            work(tool, image)
            self.clean(QEMU_TOOL, image)
            results.append((self.bitmaps(image), self.dirty_of_all(image)))
        self.assertEqual(results[1], results[0])
        return results[0][1]

    def test_growing(self):
        for kind in ("plain", "small", "luks", "data"):
            with self.subTest(kind=kind):
                def work(tool, image):
                    self.io(tool, image, "write 900k 50k")
                    self.io(tool, image, "truncate 77M")
                    self.io(tool, image, "write 50M 4k")
                dirty = self.both(kind, MIB, work)
                self.assertEqual(dirty["on"], [(900 * KIB, 952 * KIB), (50 * MIB, 50 * MIB + 4 * KIB)])
                self.assertEqual(dirty["off"], [])
                self.empty_scratch()
                self.keyfile = self.secret()

    def test_compressed_writes(self):
        dirty = self.both("plain", MIB, lambda tool, image: self.io(tool, image, "write -c 64k 64k"))
        self.assertEqual(dirty["on"], [(64 * KIB, 128 * KIB)])

    def test_snapshots(self):
        def work(tool, image):
            self.ok(tool.img("snapshot", "-c", "one", image.path))
            self.io(tool, image, "write 0 64k")
            self.refused(tool.img("snapshot", "-a", "one", image.path), "active dirty bitmaps", code=1)
            self.ok(tool.img("snapshot", "-d", "one", image.path))
        dirty = self.both("plain", MIB, work)
        self.assertEqual(dirty, {"on": [(0, 64 * KIB)], "off": []})

    def test_amend(self):
        """Version 2 has no bitmaps. QEMU leaves their clusters behind, cofre does not."""
        for options, left in (("refcount_bits=64", True), ("lazy_refcounts=on,size=2M", True), ("compat=0.10", False),
                              ("compat=0.10,size=2M", False)):
            with self.subTest(options=options):
                image = self.new_image("disk.qcow2", MIB, "plain")
                self.ok(qemu_img("bitmap", "--add", image.path, "a"))
                self.io(QEMU_TOOL, image, "write 64k 64k")
                self.ok(cofre("amend", "-f", "qcow2", "-o", options, image.path))
                self.clean(QEMU_TOOL, image)
                self.assertEqual(self.dirty_of_all(image), {"a": [(64 * KIB, 128 * KIB)]} if left else {})
                self.io(COFRE_TOOL, image, "write 0 64k")
                self.clean(QEMU_TOOL, image)

    def test_commit_and_rebase(self):
        def work(tool, base):
            overlay = self.path(f"{tool.name}-overlay.qcow2")
            self.ok(qemu_img("create", "-q", "-f", "qcow2", "-b", base.path, "-F", "qcow2", overlay))
            self.ok(qemu_img("bitmap", "--add", "-g", "4k", overlay, "top"))
            self.ok(qemu_io(overlay, "-c", "write 300k 4k"))
            self.ok(tool.img("commit", overlay))
            self.assertEqual(self.dirty(Image(overlay, "qcow2"), "top"), [(300 * KIB, 304 * KIB)])
            self.ok(tool.img("rebase", "-b", "", overlay))
            self.assertEqual(self.bitmaps(Image(overlay, "qcow2")), {"top": (("auto",), 4096)})
            self.clean(QEMU_TOOL, Image(overlay, "qcow2"))
        dirty = self.both("plain", MIB, work)
        covering = [(begin, end) for begin, end in dirty["on"] if begin <= 300 * KIB and end >= 304 * KIB]
        self.assertEqual(len(covering), 1, dirty)


class DamageTest(BitmapCase):
    def damaged(self, field, format, value):
        image = self.new_image("disk.qcow2", MIB, "plain")
        self.ok(qemu_img("bitmap", "--add", image.path, "a"))
        self.io(QEMU_TOOL, image, "write -P 5 0 64k")
        with Patch(image.path) as patch:
            directory = patch.read(patch.extension(0x23852875) + 16, ">Q")
            patch.write(directory + field, format, value)
        return image

    def test_a_damaged_directory_is_dropped_by_check(self):
        image = self.damaged(18, ">H", 50000)
        self.refused(cofre("io", "-f", "qcow2", "-c", "write 0 512", image.path), "directory")
        self.assertEqual(cofre("check", image.path).code, 2)
        self.ok(cofre("check", "-r", "all", image.path))
        self.clean(QEMU_TOOL, image)
        self.assertEqual(self.bitmaps(image), {})
        self.io(QEMU_TOOL, image, "read -P 5 0 64k", "write -P 6 0 64k")

    def test_a_damaged_table_makes_it_inconsistent(self):
        image = self.damaged(0, ">Q", 1 << 40)
        self.io(COFRE_TOOL, image, "write -P 6 0 64k")
        info = self.ok(cofre("info", "--output=json", image.path)).json()
        self.assertEqual(info["format-specific"]["data"]["bitmaps"][0]["flags"], ["in-use", "auto"])
        self.ok(cofre("bitmap", "--remove", image.path, "a"))
        self.ok(cofre("check", "-r", "all", image.path))
        self.clean(QEMU_TOOL, image)


if __name__ == "__main__":
    unittest.main()
