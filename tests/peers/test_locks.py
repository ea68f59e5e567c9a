"""Image locks are QEMU's: whoever has an image open keeps the other from harming it, and -U shares."""

import fcntl
import os
import struct
import unittest

from cofre_peers import (COFRE, COFRE_TOOL, MIB, QEMU_IO, QEMU_TOOL, Image, Interactive, PeerCase, cofre, luks_options,
                         qemu_img, qemu_io)

F_OFD_SETLK = 37    # Linux; the fcntl module of older Pythons does not name it


class LockCase(PeerCase):

    def setUp(self):
        super().setUp()
        self.image = self.create(QEMU_TOOL, Image(self.path("used.qcow2"), "qcow2"), 4 * MIB)
        self.io(QEMU_TOOL, self.image, "write -P 1 0 64k")

    def qemu_has_it(self, *args):
        """qemu-io holding the image until the `with` ends; a first read shows that it is open."""
        session = Interactive(QEMU_IO, *args, self.image.path)
        session.command("read 0 512", "ops")
        return session

    def cofre_has_it(self, *args):
        session = Interactive(COFRE, "io", *args, self.image.path)
        session.command("read 0 512", "ops")
        return session

    def locked(self, result, code=None):
        """Refused with the file's name and the reason, and a word of what to do."""
        return self.refused(result, "used.qcow2", ("lock", "in use", "another process"), code=code)


class QemuHasTheImage(LockCase):

    def test_writers_are_refused(self):
        with self.qemu_has_it():
            self.locked(cofre("io", "-c", "write -P 2 0 512", self.image.path))
            self.locked(cofre("check", "-r", "all", self.image.path))
            self.locked(cofre("convert", "-n", "-O", "qcow2", self.path_of_source(), self.image.path))
        self.io(COFRE_TOOL, self.image, "read -P 1 0 64k")

    def test_readers_of_an_image_being_written_are_refused(self):
        with self.qemu_has_it():
            self.locked(cofre("convert", "-O", "raw", self.image.path, self.path("out.raw")))
            self.locked(cofre("info", self.image.path))
            self.locked(cofre("check", self.image.path))
            self.locked(cofre("map", self.image.path))
            self.locked(cofre("compare", self.image.path, self.image.path), code=2)
        self.assertFalse(os.path.exists(self.path("out.raw")))

    def test_replacing_an_image_in_use_is_refused(self):
        """convert and create would truncate it under the running program."""
        before = self.read_file(self.image.path)
        with self.qemu_has_it():
            self.locked(cofre("convert", "-O", "qcow2", self.path_of_source(), self.image.path))
            self.locked(cofre("create", "-f", "qcow2", self.image.path, "1M"))
        self.same_bytes(self.read_file(self.image.path), before, "an image in use must not change")

    def test_U_reads_all_the_same(self):
        with self.qemu_has_it():
            self.ok(cofre("info", "-U", self.image.path))
            self.ok(cofre("check", "-U", self.image.path))
            self.ok(cofre("map", "-U", self.image.path))
            self.ok(cofre("compare", "-U", self.image.path, self.image.path))
            self.ok(cofre("convert", "-U", "-O", "raw", self.image.path, self.path("out.raw")))
            self.ok(cofre("io", "-U", "-r", "-c", "read -P 1 0 64k", self.image.path))

    def test_readers_share_with_readers(self):
        with self.qemu_has_it("-r"):
            self.ok(cofre("info", self.image.path))
            self.ok(cofre("convert", "-O", "raw", self.image.path, self.path("out.raw")))
            self.locked(cofre("io", "-c", "write -P 2 0 512", self.image.path))

    def test_backing_file_in_use_by_a_reader(self):
        """An overlay's user only reads the base: others may read it too, and nobody may write it."""
        overlay = self.create(QEMU_TOOL, Image(self.path("overlay.qcow2"), "qcow2"), 4 * MIB, "-b", self.image.path, "-F", "qcow2")
        with Interactive(QEMU_IO, overlay.path) as session:
            session.command("read 0 512", "ops")
            self.ok(cofre("info", self.image.path))
            self.locked(cofre("io", "-c", "write -P 2 0 512", self.image.path))
            self.refused(cofre("info", overlay.path), "overlay.qcow2")

    def test_free_again_after_qemu_died(self):
        session = self.qemu_has_it()
        session.process.kill()
        session.__exit__()
        self.io(COFRE_TOOL, self.image, "write -P 2 0 512")

    def test_encrypted_image(self):
        image = self.create(QEMU_TOOL, Image(self.path("used.qcow2"), "qcow2", self.secret()), MIB, options=luks_options())
        with Interactive(QEMU_IO, *image.args()) as session:
            session.command("read 0 512", "ops")
            self.locked(cofre("convert", *image.object_args(), "--image-opts", "-O", "raw", image.opts(), self.path("out.raw")))

    def path_of_source(self):
        return self.write_file("source.raw", bytes(MIB))


class CofreHasTheImage(LockCase):

    def test_qemu_is_refused(self):
        with self.cofre_has_it():
            for result in (qemu_io("-c", "write -P 2 0 512", self.image.path), qemu_img("info", self.image.path),
                           qemu_img("check", self.image.path), qemu_img("convert", "-O", "raw", self.image.path, self.path("o.raw")),
                           qemu_img("create", "-f", "qcow2", self.image.path, "1M")):
                self.assertEqual(result.code, 1, f"{result}")
                self.assertIn("lock", result.err, f"{result}")

    def test_qemu_may_look_with_U(self):
        with self.cofre_has_it():
            self.ok(qemu_img("info", "-U", self.image.path))
            self.ok(qemu_io("-U", "-r", "-c", "read -P 1 0 64k", self.image.path))

    def test_readers_share(self):
        with self.cofre_has_it("-r"):
            self.ok(qemu_img("info", self.image.path))
            self.ok(qemu_io("-r", "-c", "read -P 1 0 64k", self.image.path))
            self.assertEqual(qemu_io("-c", "write -P 2 0 512", self.image.path).code, 1)

    def test_cofre_refuses_cofre(self):
        with self.cofre_has_it():
            self.locked(cofre("io", "-c", "write -P 2 0 512", self.image.path))
            self.locked(cofre("info", self.image.path))
            self.ok(cofre("info", "-U", self.image.path))

    def test_free_again_afterwards(self):
        with self.cofre_has_it():
            pass
        self.io(QEMU_TOOL, self.image, "write -P 2 0 512")
        session = self.cofre_has_it()
        session.process.kill()
        session.__exit__()
        self.io(QEMU_TOOL, self.image, "write -P 3 0 512")


class RunningGuest(LockCase):
    """A virtual machine's locks, taken here as QEMU takes them: a byte at 100 + p for each permission p that it uses, one at
    200 + p for each that it does not share. Both tools answer alike, for qcow2 and raw."""

    READ, WRITE, UNCHANGED, RESIZE = range(4)
    HOLDERS = {
        "a guest that writes": ([READ, WRITE, RESIZE], [WRITE, RESIZE]),
        "a guest that reads": ([READ], [WRITE, RESIZE]),
        "a guest that shares writes": ([READ, WRITE], []),
        "one that wants nobody near": ([READ, WRITE], [READ, WRITE, UNCHANGED, RESIZE]),
        "one that only looks": ([READ], []),
    }

    def hold(self, path, used, unshared):
        file = open(path, "rb")
        self.addCleanup(file.close)
        for byte in [100 + p for p in used] + [200 + p for p in unshared]:
            fcntl.fcntl(file, F_OFD_SETLK, struct.pack("hhqqixxxx", fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0))
        return file

    def test_both_tools_answer_alike(self):
        for format in ("qcow2", "raw"):
            path = self.path(f"guest.{format}")
            self.ok(qemu_img("create", "-q", "-f", format, path, "1M"))
            for holder, (used, unshared) in self.HOLDERS.items():
                file = self.hold(path, used, unshared)
                for name, args in {"info": ("info", "-f", format, path), "map": ("map", "-f", format, path),
                                   "convert": ("convert", "-f", format, "-O", "raw", path, self.path("out.raw")),
                                   "info -U": ("info", "-U", "-f", format, path)}.items():
                    with self.subTest(format=format, holder=holder, command=name):
                        theirs, ours = qemu_img(*args), cofre(*args)
                        self.assertEqual(ours.code, theirs.code, f"{ours}{theirs}")
                for args in (("-r", "-c", "read 0 512"), ("-c", "write 0 512"), ("-U", "-r", "-c", "read 0 512")):
                    with self.subTest(format=format, holder=holder, io=args):
                        theirs, ours = QEMU_TOOL.io("-f", format, *args, path), COFRE_TOOL.io("-f", format, *args, path)
                        self.assertEqual(ours.code, theirs.code, f"{ours}{theirs}")
                file.close()

    def test_one_guest_at_a_time_may_write_a_raw_image(self):
        path = self.write_file("used.raw", bytes(MIB))
        self.hold(path, *self.HOLDERS["a guest that writes"])
        self.locked_raw(cofre("io", "-f", "raw", "-c", "write 0 512", path))
        self.locked_raw(cofre("convert", "-n", "-f", "qcow2", "-O", "raw", self.image.path, path))
        self.assertEqual(self.read_file(path), bytes(MIB))

    def locked_raw(self, result):
        self.refused(result, "used.raw", ("lock", "in use", "another process"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
