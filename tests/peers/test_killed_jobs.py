"""SIGKILL of each job that changes images, at random moments: what is left opens, both tools find no corruption, the guest's
bytes are right, and the same command again ends well."""

import fcntl
import os
import shutil
import subprocess
import time
import unittest

from cofre_peers import COFRE, COFRE_TOOL, LONG, MIB, QEMU_TOOL, SANITIZED, Image, PeerCase, cofre, luks_options, qemu_img
from qcow2_patch import Patch

LEAKS, CORRUPT = 3, 2
ROUNDS = 300 if LONG else 2 if SANITIZED else 6
SIZE = 8 * MIB
TEXT = b"Dear diary, nobody but me will ever read what stands here. " * 40


class KilledCase(PeerCase):
    """`prepared` holds the images as they are before the job; each round works on a copy of it in `place`."""

    def setUp(self):
        super().setUp()
        self.word = self.secret()
        self.prepared = self.path("prepared")
        self.place = self.path("place")
        os.mkdir(self.prepared)

    def image(self, name, folder=None):
        below = "backing.encrypt.key-secret=s0" if name == "top" else ""  # QEMU wants it for each image
        return Image(os.path.join(folder or self.place, name), "qcow2", self.word, extra=below)

    def made(self, name, *args, extra=""):
        image = self.create(COFRE_TOOL, self.image(name, self.prepared), SIZE, *args,
                            options=luks_options() + ("," + extra if extra else ""))
        for start in range(0, SIZE, MIB):
            self.io(COFRE_TOOL, image, f"write -P {self.rng.randrange(1, 256)} {start + self.rng.randrange(512) * 512} 256k",
                    f"write -z {start + 700 * 1024} 128k")
        return image

    def anew(self):
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.prepared, self.place)

    def killed(self, args, after_s):
        """Whether the command was killed; it may have ended before."""
        process = subprocess.Popen([COFRE, *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE)
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            process.kill()
        _, said = process.communicate()
        self.assertIn(process.returncode, (0, -9), f"{args}: {said.decode(errors='replace')}")
        self.await_locks()
        return process.returncode != 0

    def await_locks(self):
        """What a killed process had in flight in the kernel may hold its files for a moment."""
        for name in os.listdir(self.place):
            with open(os.path.join(self.place, name), "r+b") as file:
                fcntl.lockf(file, fcntl.LOCK_EX)

    def seconds_of(self, args):
        self.anew()
        started = time.monotonic()
        self.ok(cofre(*args))
        return time.monotonic() - started

    def rounds(self, args, left, whole=None, again=True):
        """`left()` judges what a killed run left, `whole()` what a run to the end did: also the one that follows a killed one,
        for commands that can be given `again` when they are done."""
        longest_s = self.seconds_of(args)
        (whole or left)()
        kills = 0
        for number in range(ROUNDS):
            after_s = self.rng.random() * longest_s
            with self.subTest(round=number, after_s=after_s):
                self.anew()
                killed = self.killed(args, after_s)
                kills += killed
                left()
                if killed and again:
                    self.ok(cofre(*args))
                    (whole or left)()
        print(f"{self.id()}: {kills} of {ROUNDS} killed", flush=True)

    def sound(self, *images):
        """No corruption; what a killed process leaks is given back by a repair."""
        for image in images:
            for tool in (QEMU_TOOL, COFRE_TOOL):
                result = tool.img("check", *image.args())
                self.assertIn(result.code, (0, LEAKS), f"{result}")

    def guest(self, image, *allowed):
        """The guest's bytes are one of `allowed`. Reading them changes nothing."""
        content, result = self.content(QEMU_TOOL, image)
        if content not in allowed:
            self.same_bytes(content, allowed[0], result)
        return content

    def disk(self, name):
        return self.content(QEMU_TOOL, self.image(name, self.prepared))[0]


class Chains(KilledCase):

    def setUp(self):
        super().setUp()
        self.made("base")
        self.made("top", "-b", "base", "-F", "qcow2")
        self.made("other")
        self.before = self.disk("top")

    def test_commit(self):
        top, base = self.image("top"), self.image("base")

        def left():
            self.sound(top, base)
            self.guest(top, self.before)

        def whole():
            left()
            self.guest(base, self.before)

        self.rounds(["commit", "-q", *top.args()], left, whole)

    def test_rebase(self):
        top = self.image("top")

        def left():
            self.sound(top)
            self.guest(top, self.before)

        self.rounds(["rebase", "-q", *top.object_args(), "--image-opts", "-b", "other", "-F", "qcow2", top.opts()], left)


class Single(KilledCase):

    def setUp(self):
        super().setUp()
        self.made("image", extra="cluster_size=16k")
        self.one = self.image("image")
        self.prepare()
        self.before = self.disk("image")

    def prepare(self):
        """What else the image has before it is copied."""

    def keeps(self):
        self.sound(self.one)
        self.guest(self.one, self.before)


class Structure(Single):

    def amended(self, option):
        self.rounds(["amend", "-q", *self.one.object_args(), "--image-opts", "-o", option, self.one.opts()], self.keeps)

    def test_refcount_width(self):
        self.amended("refcount_bits=64")

    def test_version(self):
        self.amended("compat=0.10")

    def test_shrink(self):
        half = self.before[:SIZE // 2]

        def left():
            self.sound(self.one)
            content, _ = self.content(QEMU_TOOL, self.one)
            self.assertIn(len(content), (SIZE // 2, SIZE))
            self.same_bytes(content[:SIZE // 2], half, "the half that stays")

        self.rounds(["resize", "-q", "--shrink", *self.one.args(), SIZE // 2], left)

    def test_grow(self):
        grown = self.before + bytes(SIZE)
        self.rounds(["resize", "-q", "--preallocation=metadata", *self.one.args(), 2 * SIZE],
                    lambda: (self.sound(self.one), self.guest_start(grown)), again=False)

    def guest_start(self, grown):
        """What is preallocated in an encrypted image and was never written reads as noise."""
        content, _ = self.content(QEMU_TOOL, self.one)
        self.assertIn(len(content), (SIZE, len(grown)))
        self.same_bytes(content[:SIZE], self.before, "what was there")


class Keyslots(Single):

    def opens_with(self, file):
        image = Image(self.one.path, "qcow2", file)
        return self.ok_or_not(COFRE_TOOL.io(*image.args(), "-c", "read 0 64k"))

    def ok_or_not(self, result):
        self.assertIn(result.code, (0, 1), f"{result}")
        return result.code == 0

    def test_change_of_the_passphrase(self):
        """The old one or the new one opens it at any moment, in both programs."""
        new = self.secret("another", "new")

        def left():
            self.sound_without_key()
            old_opens, new_opens = self.opens_with(self.word), self.opens_with(new)
            self.assertTrue(old_opens or new_opens, "no passphrase opens it")
            self.guest(Image(self.one.path, "qcow2", new if new_opens else self.word), self.before)

        self.rounds(["amend", "-q", "--change-passphrase", "--passphrase-file", self.word, "--new-passphrase-file", new,
                     self.one.path], left, again=False)

    def sound_without_key(self):
        self.assertIn(cofre("check", self.one.path).code, (0, LEAKS))


class Snapshots(Single):

    def prepare(self):
        self.ok(cofre("snapshot", "-c", "one", self.image("image", self.prepared).path))
        self.then = self.disk("image")
        self.io(COFRE_TOOL, self.image("image", self.prepared), "write -P 9 1M 3M", "discard 5M 1M")

    def old_state(self):
        """The snapshot still has what it had."""
        image = Image(self.one.path, "qcow2", self.word)
        out = self.path("old.raw")
        self.ok(cofre("convert", *image.object_args(), "--image-opts", "-l", "snapshot.name=one", "-O", "raw", image.opts(), out))
        self.same_bytes(self.read_file(out), self.then, "the snapshot")
        os.unlink(out)

    def test_create(self):
        def left():
            self.keeps()
            self.old_state()

        self.rounds(["snapshot", "-c", "two", self.one.path], left)

    def test_apply(self):
        def left():
            self.sound(self.one)
            self.guest(self.one, self.before, self.then)
            self.old_state()

        def whole():
            left()
            self.guest(self.one, self.then)

        self.rounds(["snapshot", "-a", "one", self.one.path], left, whole)

    def test_delete(self):
        def left():
            self.keeps()
            if " one " in self.ok(cofre("snapshot", "-l", self.one.path)).out:
                self.old_state()
                self.ok(cofre("snapshot", "-d", "one", self.one.path))
                self.keeps()

        self.rounds(["snapshot", "-d", "one", self.one.path], left, again=False)


class Bitmaps(Single):

    def prepare(self):
        image = self.image("image", self.prepared)
        self.ok(cofre("bitmap", "--add", image.path, "a"))
        self.ok(cofre("bitmap", "--add", image.path, "b"))
        self.io(COFRE_TOOL, image, "write -P 4 2M 1M")

    def test_merge_and_remove(self):
        self.rounds(["bitmap", "--merge", "a", "--clear", self.one.path, "b"],
                    self.keeps_or_inconsistent, again=False)

    def keeps_or_inconsistent(self):
        self.keeps()
        for bitmap in self.ok(qemu_img("info", "--output=json", self.one.path)).json()["format-specific"]["data"]["bitmaps"]:
            if "in-use" in bitmap["flags"]:  # told as such, and it can be removed
                self.ok(cofre("bitmap", "--remove", self.one.path, bitmap["name"]))


class Repairs(Single):

    def prepare(self):
        image = self.image("image", self.prepared)
        with Patch(image.path) as patch:
            for guest in range(0, 4 * MIB, MIB // 2):
                patch.write(patch.refcount(patch.data_cluster(guest + 512 * 1024 - 512 * 1024 % 512) or 0), ">H", 7)
            patch.fill(patch.refcount(patch.data_cluster(5 * MIB) or 0), bytes(16))
            patch.write(patch.refcount(patch.grow(40)), ">H", 1)

    def test_repair(self):
        def left():
            self.guest(self.one, self.before)

        def whole():
            self.clean(QEMU_TOOL, self.one)
            self.clean(COFRE_TOOL, self.one)
            left()

        self.rounds(["check", "-q", "-r", "all", self.one.path], left, whole)

    def test_backup_and_restore(self):
        """What was kept puts back every byte, however far the repair had come; restoring may be killed, too."""
        original = self.read_file(os.path.join(self.prepared, "image"))
        backup = os.path.join(self.place, "backup")
        repair = ["check", "-q", "-r", "all", "--backup", backup, self.one.path]
        restore = ["check", "-q", "--restore", backup, self.one.path]
        longest_s = self.seconds_of(repair)
        for number in range(ROUNDS):
            with self.subTest(round=number):
                self.anew()
                self.killed(repair, self.rng.random() * longest_s)
                if os.path.exists(backup) and os.path.getsize(backup) > 0:
                    self.killed(restore, self.rng.random() * longest_s)
                    self.ok(cofre(*restore))
                self.same_bytes(self.read_file(self.one.path), original, "restored")


class Audits(Single):

    def prepare(self):
        """Compressed clusters, and plain text where nothing is in use."""
        image = self.image("image", self.prepared)
        self.io(QEMU_TOOL, image, "discard 3M 1M", "write -c -P 0x61 3M 64k", "write -c -P 0x62 3200k 64k")
        with Patch(image.path) as patch:
            free = patch.grow(8)
            patch.fill(free, TEXT * 20)
            patch.fill(patch.grow(1), TEXT)

    def test_fix(self):
        def whole():
            self.keeps()
            self.ok(cofre("audit", "-q", self.one.path))
            self.assertFalse(b"nobody but me" in self.read_file(self.one.path), "plain text is left")

        self.rounds(["audit", "-q", "--fix", *self.one.args()], self.keeps, whole)


if __name__ == "__main__":
    unittest.main(verbosity=2)
