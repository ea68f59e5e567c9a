"""convert where things are not plain: sources with unreadable sectors, copies made by the kernel, a bound on the speed, NBD
exports as new images. The same words go to qemu-img: exit codes, warnings and content agree."""

import os
import unittest

from cofre_peers import COMPAT_TOOL, KIB, MIB, QEMU_TOOL, Image, PeerCase, cofre, luks_options, qemu_img, random_disk, run
from qcow2_patch import Patch
from serving import Server

SECTOR = 512


class Salvage(PeerCase):

    def setUp(self):
        super().setUp()
        self.disk = self.rng.randbytes(2 * MIB + 3 * SECTOR)
        self.source = self.write_file("source.raw", self.disk)
        self.out = self.path("out.raw")

    def faulty(self, *sectors, kind="read", driver="raw", path=None):
        rules = "".join(f",file.inject-error.{i}.event=none,file.inject-error.{i}.iotype={kind},"
                        f"file.inject-error.{i}.errno=5,file.inject-error.{i}.sector={sector}" for i, sector in enumerate(sectors))
        return ["--image-opts", f"driver={driver},file.driver=blkdebug{rules},file.image.driver=file,"
                                f"file.image.filename={path or self.source}"]

    def offsets(self, result):
        """Those in the warnings."""
        lines = [line for line in result.err.splitlines() if line.startswith("qemu-img: warning: error while reading offset ")]
        return sorted(int(line.split("offset ")[1].split(":")[0]) for line in lines)

    def test_unreadable_sectors_become_zeros(self):
        sectors = sorted(self.rng.sample(range(len(self.disk) // SECTOR), 9))
        expected = bytearray(self.disk)
        for sector in sectors:
            expected[sector * SECTOR:(sector + 1) * SECTOR] = bytes(SECTOR)
        for tool in (qemu_img, COMPAT_TOOL.img):
            result = self.ok(tool("convert", "--salvage", *self.faulty(*sectors), self.out))
            self.same_bytes(self.read_file(self.out), expected, result)
            self.assertEqual(self.offsets(result), [sector * SECTOR for sector in sectors], f"{result}")

    def test_into_an_encrypted_image(self):
        """What is lost is zero in the image, not in its cipher text."""
        target = Image(self.path("t.qcow2"), "qcow2", self.secret())
        self.ok(cofre("convert", "--salvage", "-q", *target.object_args(), "-O", "qcow2", "-o", luks_options(),
                      *self.faulty(8, 4000), target.path))
        content, result = self.content(QEMU_TOOL, target)
        expected = bytearray(self.disk)
        for sector in (8, 4000):
            expected[sector * SECTOR:(sector + 1) * SECTOR] = bytes(SECTOR)
        self.same_bytes(content, expected, result)

    def test_quiet(self):
        for tool in (qemu_img, COMPAT_TOOL.img):
            self.assertEqual(self.ok(tool("convert", "--salvage", "-q", *self.faulty(7), self.out)).err, "")

    def test_without_it_the_error_ends_all(self):
        for tool in (qemu_img, COMPAT_TOOL.img):
            self.refused(tool("convert", *self.faulty(7), self.path("new.raw")), "Input/output error", code=1)
        # qemu-img leaves its half; nothing of Cofre's is there.
        os.unlink(self.path("new.raw"))
        self.refused(COMPAT_TOOL.img("convert", *self.faulty(7), self.path("new.raw")))
        self.assertFalse(os.path.exists(self.path("new.raw")))

    def test_unreadable_tables(self):
        """An L2 table that cannot be read: what it maps is lost, what another maps is not."""
        image = self.path("tables.qcow2")
        self.ok(qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", image, "512k"))
        self.ok(run("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 512k", image))
        with Patch(image) as patch:
            table = patch.l2_entry(9 * 32 * KIB)
        results = []
        for tool in (qemu_img, COMPAT_TOOL.img):
            result = self.ok(tool("convert", "--salvage", *self.faulty(table // SECTOR, driver="qcow2", path=image), self.out))
            results.append((self.read_file(self.out), self.offsets(result)))
            self.assertIn(f"warning: error while reading block status at offset {9 * 32 * KIB}: ", result.err)
        self.assertEqual(results[0][1], results[1][1])
        for content, _ in results:
            self.same_bytes(content, b"\1" * (9 * 32 * KIB) + bytes(32 * KIB) + b"\1" * (6 * 32 * KIB), "salvaged")


class ByTheKernel(PeerCase):

    def setUp(self):
        super().setUp()
        self.disk = random_disk(self.rng, 5 * MIB + SECTOR)
        self.source = self.write_file("source.raw", self.disk)
        self.out = self.path("out.raw")

    def kernel_copies(self):
        """Whether it does between files of the scratch folder."""
        a, b = os.open(self.source, os.O_RDONLY), os.open(self.path("probe"), os.O_RDWR | os.O_CREAT)
        try:
            return os.copy_file_range(a, b, 4096) == 4096
        except OSError:
            return False
        finally:
            os.close(a)
            os.close(b)

    def test_raw_to_raw(self):
        for length in (len(self.disk), 3 * MIB + 77):       # of a whole number of sectors, and not
            with self.subTest(length=length):
                self.write_file("source.raw", self.disk[:length])
                for tool in (qemu_img, cofre):
                    args = ["--stats"] if tool is cofre else []
                    result = self.ok(tool("convert", "-C", *args, "-f", "raw", "-O", "raw", self.source, self.out))
                    self.same_bytes(self.read_file(self.out), self.disk[:length] + bytes(-length % SECTOR), result)
                self.assertEqual("bytes copied by the kernel" in result.err, self.kernel_copies(), f"{result}")

    def test_into_an_existing_target(self):
        target = self.write_file("t.raw", b"\x77" * (len(self.disk) + MIB))
        result = self.ok(cofre("convert", "-n", "-C", "-f", "raw", "-O", "raw", self.source, target))
        self.same_bytes(self.read_file(target), self.disk + b"\x77" * MIB, result)

    def test_never_what_is_not_the_bytes_as_they_lie(self):
        """Encrypted, in a format, a part of a file, joined: bytes pass through the program."""
        secret = self.secret()
        box = Image(self.path("box.luks"), "luks", secret)
        for step, target, extra in (
                (["-O", "luks", "-o", luks_options(prefix="")], box, []),
                (["-O", "qcow2", "-o", luks_options()], Image(self.path("q.qcow2"), "qcow2", secret), []),
                (["-O", "qcow2"], Image(self.path("p.qcow2"), "qcow2"), [])):
            with self.subTest(step=step):
                result = self.ok(cofre("convert", "-C", "--stats", *box.object_args(), *step, "-f", "raw", self.source, target.path))
                self.assertNotIn("by the kernel", result.err)
                self.holds(QEMU_TOOL, target, self.disk)
                result = self.ok(cofre("convert", "-C", "--stats", *target.object_args(), "--image-opts", "-O", "raw", target.opts(),
                                       self.out))
                self.assertNotIn("by the kernel", result.err)
                self.same_bytes(self.read_file(self.out), self.disk, result)
        result = self.ok(cofre("convert", "-C", "--stats", "--image-opts", "-O", "raw",
                               f"driver=raw,offset=1M,size=1M,file.filename={self.source}", self.out))
        self.same_bytes(self.read_file(self.out), self.disk[MIB:2 * MIB], result)
        result = self.ok(cofre("convert", "-C", "--stats", "-f", "raw", "-O", "raw", self.source, self.source, self.out))
        self.same_bytes(self.read_file(self.out), self.disk * 2, result)

    def test_never_past_a_filter(self):
        self.disk = self.rng.randbytes(2 * MIB)
        self.write_file("source.raw", self.disk)
        fault = "driver=blkdebug,image.driver=file,inject-error.0.event=none,inject-error.0.errno=5,inject-error.0.sector=9," \
                "inject-error.0.iotype={},image.filename={}"
        target = self.write_file("t.raw", bytes(len(self.disk)))
        for tool in (qemu_img, cofre):
            for args in (["-O", "raw", fault.format("read", self.source), self.out],
                         ["-n", "--target-image-opts", f"driver=raw,file.filename={self.source}", fault.format("write", target)]):
                with self.subTest(tool=tool, args=args):
                    result = tool("convert", "-C", "--image-opts", *args)
                    self.assertEqual(result.code, 1, f"{result}")
                    self.assertIn("Input/output error", result.err)
        slow = ["--object", "throttle-group,id=t0,x-bps-total=1073741824"]
        for name in (f"driver=throttle,throttle-group=t0,file.driver=file,file.filename={self.source}",
                     f"driver=throttle,throttle-group=t0,file.driver=raw,file.file.filename={self.source}",
                     f"driver=blkverify,raw.filename={self.source},test.driver=raw,test.file.filename={self.source}"):
            with self.subTest(name=name):
                result = self.ok(cofre("convert", "-C", "--stats", *slow, "--image-opts", "-O", "raw", name, self.out))
                self.assertNotIn("by the kernel", result.err)
                self.same_bytes(self.read_file(self.out), self.disk, result)


class Rate(PeerCase):

    def test_content_is_the_same(self):
        disk = random_disk(self.rng, MIB)
        source = self.write_file("source.raw", disk)
        for rate in ("0", "64M", "1G"):
            for step in (["-O", "raw"], ["-O", "qcow2"], ["-O", "qcow2", "-c"]):
                result = self.ok(COMPAT_TOOL.img("convert", "-r", rate, *step, "-f", "raw", source, self.path("out")))
                self.ok(qemu_img("compare", "-f", "raw", "-F", step[1], source, self.path("out")))
                self.assertEqual(result.out + result.err, "")


class NewImagesInExports(PeerCase):

    def setUp(self):
        super().setUp()
        self.socket = self.path("s")
        self.key = self.secret()
        self.disk = random_disk(self.rng, 3 * MIB)
        self.source = self.write_file("source.raw", self.disk)
        self.export = self.path("export")

    def served(self, size):
        self.write_file("export", self.rng.randbytes(size))
        return Server(self.socket, "qemu-nbd", "-k", self.socket, "-t", "-f", "raw", self.export)

    def kinds(self):
        return ((Image(self.export, "raw"), ""), (Image(self.export, "qcow2"), ""),
                (Image(self.export, "qcow2", self.key), luks_options()), (Image(self.export, "luks", self.key), luks_options(prefix="")))

    def test_convert(self):
        """Without -n: an export that is large enough becomes the image."""
        for image, options in self.kinds():
            for name in (f"nbd:unix:{self.socket}", f"nbd+unix:///?socket={self.socket}"):
                with self.subTest(image=image, name=name):
                    with self.served(8 * MIB):
                        self.ok(COMPAT_TOOL.img("convert", *image.object_args(), "-f", "raw", "-O", image.format,
                                     *(["-o", options] if options else []), self.source, name))
                    content, result = self.content(QEMU_TOOL, image)
                    self.same_bytes(content[:len(self.disk)], self.disk, result)
                    if image.format == "qcow2":
                        self.clean(QEMU_TOOL, image)

    def test_create(self):
        for image, options in self.kinds():
            with self.subTest(image=image):
                with self.served(8 * MIB):
                    self.ok(COMPAT_TOOL.img("create", "-q", *image.object_args(), "-f", image.format, *(["-o", options] if options else []),
                                 f"nbd:unix:{self.socket}", "3M"))
                if image.format == "qcow2":
                    self.holds(QEMU_TOOL, image, bytes(3 * MIB))

    def test_alike(self):
        """What qemu-img refuses is refused, what it takes is taken."""
        name = f"nbd:unix:{self.socket}"
        for arguments in (["create", "-f", "raw", name, "1M"], ["create", "-f", "raw", name, "2M"], ["create", "-f", "raw", name, "3M"],
                          ["create", "-f", "qcow2", name, "1G"], ["create", "-f", "raw", "-o", "preallocation=full", name, "1M"],
                          ["create", "-f", "raw", "-o", "preallocation=falloc", name, "1M"],
                          ["create", "-f", "qcow2", "-o", "preallocation=metadata", name, "1M"],
                          ["create", "-f", "qcow2", "-b", self.source, "-F", "raw", name],
                          ["create", "-f", "qcow2", "-b", "source.raw", "-F", "raw", name],
                          ["convert", "-O", "raw", self.source, name], ["convert", "-O", "qcow2", self.source, name],
                          ["convert", "-O", "raw", self.source, "nbd:unix:/nowhere/s"], ["create", "-f", "raw", "null-co://", "1M"],
                          ["convert", "-O", "raw", self.source, "null-co://"], ["create", "-f", "raw", f"blkdebug::{self.export}", "1M"],
                          ["create", "-f", "raw", f"host_device:{self.export}", "1M"], ["create", "-f", "raw", f"file:{self.export}", "1M"],
                          ["create", "-f", "raw", f'json:{{"driver":"file","filename":"{self.export}"}}', "1M"]):
            with self.subTest(arguments=arguments):
                codes = []
                for tool in (qemu_img, COMPAT_TOOL.img):
                    with self.served(2 * MIB):
                        result = tool(*arguments)
                    codes.append(result.code)
                self.assertEqual(codes[0], codes[1], f"{result}")
                if result.code != 0:
                    self.refused(result)


if __name__ == "__main__":
    unittest.main(verbosity=2)
