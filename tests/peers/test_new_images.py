"""What create and convert make beside the image itself, and what they must leave alone: data files, sizes."""

import os
import resource
import signal
import unittest

from cofre_peers import MIB, QEMU_TOOL, Image, PeerCase, cofre, luks_options, qemu_img


def full_disk():
    """Files cannot pass 1 MiB, as if the disk were full there."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 * MIB, 1 * MIB))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


class NewImages(PeerCase):

    def setUp(self):
        super().setUp()
        self.disk = self.rng.randbytes(3 * MIB)
        self.source = self.write_file("source.raw", self.disk)

    def test_convert_has_the_size_of_its_source(self):
        """Whatever -o size= says, as with qemu-img."""
        for size in ("1M", "3M", "10M", "x", "-1", ""):
            for format in ("raw", "qcow2"):
                with self.subTest(size=size, format=format):
                    sizes = []
                    for program in (qemu_img, cofre):
                        result = program("convert", "-f", "raw", "-O", format, "-o", f"size={size}", self.source, self.path("out"))
                        sizes.append(result.code or qemu_img("info", "--output=json", "-f", format, self.path("out")).json()["virtual-size"])
                    self.assertEqual(sizes[1], sizes[0])

    def test_a_data_file_of_the_backing_chain_is_refused(self):
        """However deep the file lies, and if it is itself a data file."""
        self.ok(qemu_img("create", "-q", "-f", "qcow2", "-o", "data_file=data.bin", "low.qcow2", "3M", cwd=self.dir))
        self.ok(qemu_img("create", "-q", "-f", "qcow2", "-b", "source.raw", "-F", "raw", "mid.qcow2", cwd=self.dir))
        self.ok(qemu_img("create", "-q", "-f", "qcow2", "-b", "low.qcow2", "-F", "qcow2", "high.qcow2", cwd=self.dir))
        os.link(self.source, self.path("hard.raw"))
        before = sorted(os.listdir(self.dir))
        for backing, data in (("mid.qcow2", "source.raw"), ("mid.qcow2", "hard.raw"), ("mid.qcow2", "mid.qcow2"), ("high.qcow2", "data.bin"),
                              ("high.qcow2", "low.qcow2")):
            with self.subTest(backing=backing, data=data):
                self.refused(cofre("create", "-f", "qcow2", "-b", backing, "-F", "qcow2", "-o", f"data_file={data}", "new.qcow2",
                                   cwd=self.dir), "data file", code=1)
        self.assertEqual(sorted(os.listdir(self.dir)), before)
        self.same_bytes(self.read_file(self.source), self.disk, "a backing file must not be touched")

    def test_a_failure_leaves_no_data_file(self):
        before = sorted(os.listdir(self.dir))
        for name, args in (("create", ["create", "-f", "qcow2", "-o", "data_file=data.bin,preallocation=full", "new.qcow2", "3M"]),
                           ("size", ["create", "-f", "qcow2", "-o", "data_file=data.bin", "new.qcow2", "3M"]),
                           ("convert", ["convert", "-f", "raw", "-O", "qcow2", "-o", "data_file=data.bin", "source.raw", "new.qcow2"])):
            with self.subTest(command=name):
                self.refused(cofre(*args, cwd=self.dir, preexec=full_disk), code=1)
                self.assertEqual(sorted(os.listdir(self.dir)), before)

    def test_a_damaged_source_leaves_no_data_file(self):
        image = self.create(QEMU_TOOL, Image(self.path("bad.qcow2"), "qcow2"), "1M")
        self.io(QEMU_TOOL, image, "write 0 1M")
        with open(image.path, "r+b") as file:
            file.seek(int.from_bytes(self.read_file(image.path)[40:48], "big"))
            file.write((1 << 63 | 0x123400).to_bytes(8, "big"))
        before = sorted(os.listdir(self.dir))
        self.refused(cofre("convert", "-O", "qcow2", "-o", "data_file=data.bin", "bad.qcow2", "new.qcow2", cwd=self.dir), code=1)
        self.assertEqual(sorted(os.listdir(self.dir)), before)

    def test_a_data_file_that_comes_stays(self):
        secret = self.secret()
        for options in ("", luks_options()):
            with self.subTest(options=options):
                self.ok(cofre("convert", "--object", f"secret,id=s0,file={secret}", "-f", "raw", "-O", "qcow2", "-o",
                              ",".join(filter(None, [f"data_file={self.path('data.bin')}", options])), "source.raw", "new.qcow2", cwd=self.dir))
                image = Image(self.path("new.qcow2"), "qcow2", secret if options else "")
                self.holds(QEMU_TOOL, image.named(self.path("new.qcow2")), self.disk)
                self.assertTrue(os.path.exists(self.path("data.bin")))


if __name__ == "__main__":
    unittest.main(verbosity=2)
