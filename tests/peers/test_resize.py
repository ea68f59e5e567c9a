"""`resize`: what it says and leaves beside qemu-img, and that the guest's bytes are what they should be."""

import os
import unittest

from cofre_peers import (COFRE_TOOL, KIB, LONG, MIB, QEMU_IO, QEMU_TOOL, Image, Interactive, PeerCase, aes_options, luks_options, qemu_img,
                         random_disk, run)

SHAPES = {
    "standard": "", "version 2": "compat=0.10", "small clusters": "cluster_size=512",
    "wide refcounts": "cluster_size=4k,refcount_bits=64", "narrow refcounts": "cluster_size=1k,refcount_bits=1",
    "subclusters": "extended_l2=on,cluster_size=16k", "lazy": "lazy_refcounts=on,cluster_size=8k",
}


class ResizeCase(PeerCase):

    def setUp(self):
        super().setUp()
        self.passphrase = self.secret()

    def filled(self, name, options="", size=3 * MIB, format="qcow2", secret="", more=()):
        image = self.create(QEMU_TOOL, Image(self.path(name), format, secret), size, *more, options=options)
        disk = random_disk(self.rng, size)
        raw = self.write_file("disk.raw", disk)
        self.ok(QEMU_TOOL.img("convert", *image.object_args(), "-n", "--target-image-opts", "-f", "raw", raw, image.opts()))
        os.unlink(raw)
        return image, disk

    def resize(self, image, *arguments, tool=COFRE_TOOL):
        result = self.ok(tool.img("resize", *image.args(), *arguments) if image.format != "raw" else
                         tool.img("resize", "-f", "raw", *arguments[:-1], image.path, arguments[-1]))
        self.assertEqual(result.out, "Image resized.\n", f"{result}")

    def after(self, disk, size):
        return (bytes(disk[:size]) + bytes(max(0, size - len(disk))))

    def walk(self, image, disk, sizes, more=lambda: ()):
        """Through all the sizes; both tools find what should be there, and no fault."""
        for size in sizes:
            self.resize(image, *more(), *(["--shrink"] if size < len(disk) else []), str(size))
            disk = self.after(disk, size)
            for tool in (QEMU_TOOL, COFRE_TOOL):
                self.holds(tool, image, disk)
                if image.format == "qcow2":
                    self.clean(tool, image)
        return disk


class Sizes(ResizeCase):

    def random_sizes(self, biggest=6 * MIB):
        return [self.rng.randrange(1, biggest // 512) * 512 for _ in range(4 if LONG else 2)] + [512, 2 * MIB]

    def test_walks(self):
        for name, options in SHAPES.items():
            with self.subTest(shape=name):
                image, disk = self.filled("walk.qcow2", options)
                self.walk(image, disk, self.random_sizes())

    def test_encrypted(self):
        for name, options in (("luks", luks_options()), ("aes", aes_options()),
                              ("luks subclusters", luks_options() + ",extended_l2=on,cluster_size=16k")):
            with self.subTest(encryption=name):
                image, disk = self.filled("safe.qcow2", options, secret=self.passphrase)
                self.walk(image, disk, self.random_sizes())

    def test_qemu_takes_over(self):
        """Shrunk here and grown there: the bytes cut off do not come back."""
        image, disk = self.filled("over.qcow2")
        self.resize(image, "--shrink", "1000448")
        self.resize(image, "2M", tool=QEMU_TOOL)
        self.holds(QEMU_TOOL, image, self.after(disk[:1000448], 2 * MIB))

    def test_compressed(self):
        source = self.write_file("source.raw", random_disk(self.rng, 2 * MIB))
        image = Image(self.path("packed.qcow2"), "qcow2")
        self.ok(qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", source, image.path))
        self.walk(image, self.read_file(source), [1 * MIB + 512, 3 * MIB, 512])

    def test_backing_file(self):
        """Also where the backing file is longer than the image was: what it holds there must not show."""
        base = self.write_file("base.raw", self.rng.randbytes(5 * MIB))
        for options in ("", "compat=0.10", "extended_l2=on"):
            for mode in ("off",) if options else ("off", "metadata", "falloc", "full"):
                with self.subTest(options=options, preallocation=mode):
                    image = self.create(QEMU_TOOL, Image(self.path("top.qcow2"), "qcow2"), 2 * MIB + 1536,
                                        "-b", base, "-F", "raw", options=options)
                    disk = bytearray(self.read_file(base)[:2 * MIB + 1536])
                    self.io(QEMU_TOOL, image, "write -P 7 1M 100k")
                    disk[1 * MIB:1 * MIB + 100 * KIB] = b"\7" * 100 * KIB
                    self.resize(image, f"--preallocation={mode}", "7M")
                    disk = self.after(disk, 7 * MIB)
                    self.holds(QEMU_TOOL, image, disk)
                    self.clean(QEMU_TOOL, image)
                    self.walk(image, disk, [1 * MIB + 512, 6 * MIB])

    def test_data_file(self):
        for raw in ("off", "on"):
            with self.subTest(data_file_raw=raw):
                data = self.path("data.bin")
                image, disk = self.filled("data.qcow2", f"data_file={data},data_file_raw={raw}")
                for size in (1 * MIB + 512, 4 * MIB + 512, 2 * MIB):
                    disk = self.walk(image, disk, [size])
                    self.assertEqual(os.path.getsize(data), size)
                    if raw == "on":
                        self.same_bytes(self.read_file(data), disk, "the data file is the raw disk")

    def test_data_file_that_is_longer(self):
        data = self.path("data.bin")
        image, disk = self.filled("data.qcow2", f"data_file={data},data_file_raw=on", 1 * MIB)
        with open(data, "ab") as file:
            file.write(b"stale" * 100_000)
        self.walk(image, disk, [3 * MIB])

    def test_raw(self):
        image, disk = self.filled("plain.raw", format="raw", size=1 * MIB)
        for size, mode in ((1_000_001, "off"), (2 * MIB, "falloc"), (3 * MIB + 5, "full")):
            self.resize(image, "--shrink", f"--preallocation={mode}", str(size))
            disk = self.after(disk, size)
            self.same_bytes(self.read_file(image.path), disk, f"size {size}, preallocation {mode}")
            if mode != "off":
                self.assertGreaterEqual(os.stat(image.path).st_blocks * 512, size - 1 * MIB)

    def test_container(self):
        """New bytes are noise, as with QEMU, unless they are written."""
        image, disk = self.filled("box.luks", luks_options(prefix=""), 1 * MIB, "luks", self.passphrase)
        header = os.path.getsize(image.path) - 1 * MIB
        self.walk(image, disk, [512 * KIB])
        self.resize(image, "--preallocation=full", "1M")
        self.holds(QEMU_TOOL, image, self.after(disk[:512 * KIB], 1 * MIB))
        for mode in ("off", "falloc"):
            self.resize(image, f"--preallocation={mode}", "+1M")
        self.assertEqual(os.path.getsize(image.path), header + 3 * MIB)
        self.refused(COFRE_TOOL.img("resize", *image.args(), "--preallocation=metadata", "+1M"), "preallocation", code=1)

    def test_preallocation(self):
        for options in ("", "extended_l2=on", luks_options(), f"data_file={self.path('d.bin')}"):
            for mode in ("metadata", "falloc", "full"):
                with self.subTest(options=options, mode=mode):
                    secret = self.passphrase if "encrypt" in options else ""
                    image, disk = self.filled("pre.qcow2", options, 1 * MIB + 512, secret=secret)
                    before = os.stat(image.path).st_blocks
                    disk = self.walk(image, disk, [3 * MIB], lambda: [f"--preallocation={mode}"])
                    if mode != "metadata" and "data_file" not in options:
                        self.assertGreaterEqual((os.stat(image.path).st_blocks - before) * 512, 19 * MIB // 10)
                    self.io(QEMU_TOOL, image, "write -P 9 2M 1000")
                    disk = disk[:2 * MIB] + b"\t" * 1000 + disk[2 * MIB + 1000:]
                    self.holds(COFRE_TOOL, image, disk)

    def test_snapshots(self):
        """A snapshot keeps what the disk loses, its size too; version 2 cannot tell that size."""
        image, disk = self.filled("snap.qcow2")
        self.ok(qemu_img("snapshot", "-c", "one", image.path))
        self.io(QEMU_TOOL, image, "write -P 3 2M 200k")
        self.resize(image, "--shrink", "1M")
        self.clean(QEMU_TOOL, image)
        self.holds(QEMU_TOOL, image, disk[:1 * MIB])
        self.resize(image, "5M")
        self.ok(qemu_img("snapshot", "-a", "one", image.path))
        self.clean(QEMU_TOOL, image)
        self.holds(QEMU_TOOL, image, disk)
        self.ok(qemu_img("snapshot", "-d", "one", image.path))
        self.clean(QEMU_TOOL, image)
        old, _ = self.filled("old.qcow2", "compat=0.10")
        self.ok(qemu_img("snapshot", "-c", "one", old.path))
        for size in ("2M", "3M", "4M"):
            theirs = qemu_img("resize", "--shrink", old.path, size)
            self.refused(COFRE_TOOL.img("resize", "--shrink", old.path, size), "snapshot", code=theirs.code)

    def test_files_get_shorter(self):
        """As short as qemu-img's, and the tables as it leaves them."""
        for name, options in SHAPES.items():
            with self.subTest(shape=name):
                image, disk = self.filled("before.qcow2", options, 8 * MIB)
                ours, theirs = image.named(self.path("ours.qcow2")), image.named(self.path("theirs.qcow2"))
                for copy in (ours, theirs):
                    self.ok(run("cp", "--sparse=always", image.path, copy.path))
                self.resize(ours, "--shrink", "512k")
                self.resize(theirs, "--shrink", "512k", tool=QEMU_TOOL)
                self.assertLessEqual(os.path.getsize(ours.path), os.path.getsize(theirs.path))
                self.assertLessEqual(os.stat(ours.path).st_blocks, os.stat(theirs.path).st_blocks)
                self.assertEqual(self.read_file(ours.path)[36:40], self.read_file(theirs.path)[36:40], "entries of the L1 table")
                self.holds(QEMU_TOOL, ours, disk[:512 * KIB])

    def test_refcount_blocks_go(self):
        """Clusters spread far apart have refcount blocks of their own."""
        sizes = []
        for tool in (COFRE_TOOL, QEMU_TOOL):
            image = self.create(QEMU_TOOL, Image(self.path("far.qcow2"), "qcow2"), "200M", options="cluster_size=1k,refcount_bits=64")
            self.io(QEMU_TOOL, image, "write -P 1 0 2M", "write -P 2 150M 3M")
            self.resize(image, "--shrink", "1M", tool=tool)
            self.clean(QEMU_TOOL, image)
            self.holds(QEMU_TOOL, image, b"\1" * MIB)
            sizes.append(os.path.getsize(image.path))
        self.assertLessEqual(sizes[0], sizes[1], "as short as with qemu-img")


class Answers(ResizeCase):

    def alike(self, *arguments, image="x.qcow2"):
        """The same exit code and standard output, and the same length afterwards."""
        results = []
        for tool in (QEMU_TOOL, COFRE_TOOL):
            self.ok(qemu_img("create", "-q", "-f", "qcow2", self.path("x.qcow2"), "1M"))
            self.write_file("x.raw", bytes(1_000_001))
            result = tool.img("resize", *arguments, cwd=self.dir)
            size = qemu_img("info", "--output=json", self.path(image)).json()["virtual-size"]
            results.append((result, size))
        (theirs, their_size), (ours, our_size) = results
        self.assertEqual((ours.code, ours.out, our_size), (theirs.code, theirs.out, their_size), f"{ours}{theirs}")

    def test_sizes(self):
        for size in ("2M", "+1M", "+1", "-512k", "-1M", "-2M", "1M", "512k", "0", "+0", "-0", "x", "", "+", "-", "+-5", "--5",
                     "1.5M", "0x200000", "7E", "16E", "9223372036854775807", "+9223372036854775807", "1 M", "--shrink", "-q", "1000001"):
            for more in ([], ["--shrink"], ["-q", "--shrink"], ["--preallocation=full"]):
                with self.subTest(size=size, more=more):
                    self.alike(*more, "x.qcow2", size)

    def test_raw_sizes(self):
        for size in ("2M", "+1", "-1", "1000001", "1000448", "999999"):
            with self.subTest(size=size):
                self.alike("--shrink", "-f", "raw", "x.raw", size, image="x.raw")

    def test_options(self):
        for arguments in (["x.qcow2"], [], ["2M"], ["x.qcow2", "2M", "-q"], ["x.qcow2", "y", "2M"], ["-U", "x.qcow2", "2M"],
                          ["-f", "foo", "x.qcow2", "2M"], ["-f", "raw", "--image-opts", "driver=qcow2,file.filename=x.qcow2", "2M"],
                          ["--image-opts", "driver=qcow2,file.filename=x.qcow2", "2M"], ["--output=json", "x.qcow2", "2M"],
                          ["--preallocation=foo", "x.qcow2", "2M"], ["--preallocation=metadata", "x.qcow2", "512k"],
                          ["--preallocation", "metadata", "x.qcow2", "2M"], ["-f", "raw", "--preallocation=metadata", "x.raw", "2M"],
                          ["nowhere", "2M"], [".", "2M"], ["-f", "qcow2", "-f", "raw", "x.raw", "2M"], ["--", "x.qcow2", "2M"],
                          ["--pre=full", "x.qcow2", "2M"], ["--shrink", "--", "x.qcow2", "-512k"]):
            with self.subTest(arguments=arguments):
                self.alike(*arguments, image="x.raw" if "x.raw" in arguments else "x.qcow2")

    def test_probed_raw_is_told(self):
        self.write_file("x.raw", bytes(1 * MIB))
        result = self.ok(COFRE_TOOL.img("resize", "x.raw", "2M", cwd=self.dir))
        self.assertIn("-f raw", result.err)

    def test_a_locked_image(self):
        image, _ = self.filled("busy.qcow2")
        with Interactive(QEMU_IO, image.path) as busy:
            busy.command("read 0 512", "ops")
            self.refused(COFRE_TOOL.img("resize", image.path, "5M"), ("lock", "use"), code=1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
