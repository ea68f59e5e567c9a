"""Compressed clusters that cofre writes: qemu-img finds the images sound and reads them, and the other way round."""

import itertools
import os
import unittest

from cofre_peers import (COFRE_TOOL, COMPAT_TOOL, DISK_DIR, KIB, LONG, MIB, QEMU_TOOL, Image, PeerCase, cofre, luks_options,
                         qemu_img)
from guest_model import GuestModel


def compressible_disk(rng, size):
    """Text, repeats, noise and zeros in runs that do not care for clusters."""
    disk = bytearray()
    while len(disk) < size:
        kind = rng.random()
        length = rng.choice([300, 4096, 20_000, 150_000]) + rng.randrange(700)
        if kind < 0.45:
            words = [rng.choice(["cluster", "sector", "refcount", "table", str(rng.randrange(10**6))]) for _ in range(500)]
            disk += (" ".join(words).encode() * (length // 2000 + 1))[:length]
        elif kind < 0.65:
            disk += rng.randbytes(length)
        elif kind < 0.75:
            disk += bytes([rng.randrange(1, 256)]) * length
        else:
            disk += bytes(length * 3)
    return disk[:size]


# compat, refcount_bits, extended_l2: what an image can be beside its cluster size and compression.
KINDS = [("0.10", 16, False), *(("1.1", bits, False) for bits in (1, 2, 4, 8, 16, 32, 64)), ("1.1", 16, True), ("1.1", 4, True)]


def all_cells():
    for cluster, (compat, bits, extended), kind in itertools.product([512 << n for n in range(13)], KINDS, ["zlib", "zstd"]):
        if (extended and cluster < 16 * KIB) or (compat == "0.10" and kind == "zstd"):
            continue
        yield cluster, (f"cluster_size={cluster},compat={compat}" + (f",refcount_bits={bits}" if bits != 16 else "") +
                        (",extended_l2=on" if extended else "") + (f",compression_type={kind}" if kind == "zstd" else ""))


def cells(rng):
    """All of them, or every cluster size with some of the other choices."""
    every = list(all_cells())
    if LONG:
        return every
    chosen = []
    for cluster in sorted({c for c, _ in every}):
        chosen += rng.sample([cell for cell in every if cell[0] == cluster], 3)
    return chosen


class CompressedCase(PeerCase):

    def counts(self, image):
        return self.ok(qemu_img("check", "--output=json", image.path)).json()

    def sound(self, image, expected):
        """Both tools find it clean, count the same, and read the same."""
        for tool in (QEMU_TOOL, COFRE_TOOL):
            self.clean(tool, image)
            self.holds(tool, image, expected)
        ours = self.ok(cofre("check", "--output=json", image.path)).json()
        theirs = self.counts(image)
        for key in ("compressed-clusters", "allocated-clusters", "total-clusters", "image-end-offset"):
            self.assertEqual(ours.get(key), theirs.get(key), key)
        return theirs


class Convert(CompressedCase):

    def test_matrix(self):
        for cluster, options in cells(self.rng):
            with self.subTest(options=options):
                self.empty_scratch()
                size = max(MIB, 5 * cluster // 2) + 512 * self.rng.randrange(1, 200)
                disk = compressible_disk(self.rng, size)
                source = self.write_file("source.raw", disk)
                image = Image(self.path("ours.qcow2"), "qcow2")
                self.ok(cofre("convert", "-c", "-O", "qcow2", "-o", options, source, image.path))
                counts = self.sound(image, disk)
                self.assertGreater(counts.get("compressed-clusters", 0), 0, counts)
                self.ok(qemu_img("compare", "-f", "raw", "-F", "qcow2", source, image.path))
                # And onwards: from compressed to compressed, by either.
                theirs = Image(self.path("theirs.qcow2"), "qcow2")
                self.ok(qemu_img("convert", "-c", "-O", "qcow2", "-o", options, image.path, theirs.path))
                again = Image(self.path("again.qcow2"), "qcow2")
                self.ok(cofre("convert", "-c", "-O", "qcow2", theirs.path, again.path))
                self.sound(again, disk)

    def test_as_many_clusters_as_qemu_img(self):
        """The same clusters are left out, stored and compressed, -S or not; noise is stored as it is."""
        clusters = []  # of which nobody doubts whether they compress
        for _ in range(100):
            text = (f"line {self.rng.random()} of a text\n" * 4000).encode()[:65536]
            clusters.append(self.rng.choice([bytes(65536), self.rng.randbytes(65536), text, bytes(65024) + text[:512]]))
        disk = b"".join(clusters)
        source = self.write_file("source.raw", disk)
        for sparse in ([], ["-S", "0"], ["-S", "512"], ["-S", "1M"]):
            with self.subTest(sparse=sparse):
                counts = []
                for tool in (COFRE_TOOL, QEMU_TOOL):
                    image = Image(self.path("out.qcow2"), "qcow2")
                    self.ok(tool.img("convert", "-c", *sparse, "-f", "raw", "-O", "qcow2", source, image.path))
                    self.holds(QEMU_TOOL, image, disk)
                    counts.append([self.counts(image)[f"{kind}-clusters"] for kind in ("compressed", "allocated")])
                self.assertEqual(*counts)

    def test_many_lanes_and_orders(self):
        disk = compressible_disk(self.rng, 24 * MIB)
        source = self.write_file("source.raw", disk)
        for args in (["-m", "1"], ["-m", "16"], ["-m", "16", "-W"]):
            with self.subTest(args=args):
                image = Image(self.path("out.qcow2"), "qcow2")
                result = self.ok(cofre("convert", "-c", *args, "-O", "qcow2", "-o", "cluster_size=4k", source, image.path))
                self.sound(image, disk)
                self.bounded(result)

    def test_over_a_backing_file(self):
        """What the base holds stays there, in whole clusters."""
        below = compressible_disk(self.rng, 3 * MIB)
        base = Image(self.path("base.qcow2"), "qcow2")
        self.ok(cofre("convert", "-c", "-f", "raw", "-O", "qcow2", self.write_file("below.raw", below), base.path))
        top = Image(self.path("top.qcow2"), "qcow2")
        self.ok(qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "-b", base.path, "-F", "qcow2", top.path))
        self.io(QEMU_TOOL, top, "write -P 5 4k 4k", "write -P 6 1000k 300k", "write -z 2M 100k")
        disk, _ = self.content(QEMU_TOOL, top)
        for options in ("cluster_size=64k", "cluster_size=512", "extended_l2=on", "cluster_size=64k,compat=0.10"):
            with self.subTest(options=options):
                image = Image(self.path("out.qcow2"), "qcow2")
                self.ok(cofre("convert", "-c", "-O", "qcow2", "-o", options, "-B", base.path, "-F", "qcow2", top.path,
                              image.path))
                self.holds(QEMU_TOOL, image, disk)
                self.clean(QEMU_TOOL, image)
                self.clean(COFRE_TOOL, image)
                self.assertLess(self.counts(image)["allocated-clusters"], self.counts(base)["allocated-clusters"] *
                                (128 if options == "cluster_size=512" else 1))

    def test_into_an_existing_image(self):
        disk = compressible_disk(self.rng, 2 * MIB + 1024)
        source = self.write_file("source.raw", disk)
        image = self.create(QEMU_TOOL, Image(self.path("out.qcow2"), "qcow2"), 4 * MIB + 512)
        expected = bytes(disk) + bytes(2 * MIB - 512)
        self.ok(cofre("convert", "-c", "-n", "-f", "raw", "-O", "qcow2", source, image.path))
        self.sound(image, expected)
        first = self.counts(image)
        # Over itself: what was there gives its space back.
        self.ok(cofre("convert", "-c", "-n", "-f", "raw", "-O", "qcow2", source, image.path))
        self.sound(image, expected)
        self.assertEqual(self.counts(image)["compressed-clusters"], first["compressed-clusters"])

    def test_direct_io(self):
        disk = compressible_disk(self.rng, 3 * MIB)
        path = os.path.join(DISK_DIR, f"cofre-compressed-{os.getpid()}.qcow2")
        self.addCleanup(lambda: os.path.exists(path) and os.unlink(path))
        image = Image(path, "qcow2")
        self.ok(cofre("convert", "-c", "-t", "none", "-f", "raw", "-O", "qcow2", self.write_file("source.raw", disk), path))
        self.sound(image, disk)

    def test_personality(self):
        disk = compressible_disk(self.rng, MIB)
        image = Image(self.path("out.qcow2"), "qcow2")
        self.ok(COMPAT_TOOL.img("convert", "-c", "-f", "raw", "-O", "qcow2",
                    self.write_file("source.raw", disk), image.path))
        self.sound(image, disk)


class Refusals(CompressedCase):
    """As qemu-img refuses, and no target is left."""

    def both_refuse(self, *words, args, leaves_nothing=True):
        source = self.write_file("source.raw", b"a" * MIB)
        for tool in (COFRE_TOOL, QEMU_TOOL):
            out = self.path("out")
            self.refused(tool.img("convert", "-c", *args, source, out), *words, code=1)
            if leaves_nothing and tool is COFRE_TOOL:
                self.assertFalse(os.path.exists(out))

    def test_formats(self):
        self.both_refuse("Compression not supported for this file format", args=["-O", "raw"])
        objects = ["--object", f"secret,id=s0,file={self.secret()}"]
        self.both_refuse("Compression not supported for this file format",
                         args=["-O", "luks", *objects, "-o", luks_options(prefix="")])

    def test_encryption(self):
        objects = ["--object", f"secret,id=s0,file={self.secret()}"]
        self.both_refuse("Compression and encryption not supported at the same time",
                         args=["-O", "qcow2", *objects, "-o", luks_options()])

    def test_preallocation(self):
        self.both_refuse("Compression and preallocation not supported at the same time",
                         args=["-O", "qcow2", "-o", "preallocation=metadata"])

    def test_data_file(self):
        self.both_refuse("not supported", args=["-O", "qcow2", "-o", f"data_file={self.path('data')}"])

    def test_existing_encrypted_target(self):
        source = self.write_file("source.raw", b"a" * MIB)
        image = self.create(COFRE_TOOL, Image(self.path("e.qcow2"), "qcow2", self.secret()), MIB, options=luks_options())
        self.refused(cofre("convert", "-c", "-n", *image.object_args(), "--target-image-opts", source, image.opts()),
                     "compress")

    def test_existing_raw_target(self):
        source = self.write_file("source.raw", b"a" * MIB)
        raw = self.write_file("out.raw", bytes(MIB))
        for tool in (COFRE_TOOL, QEMU_TOOL):
            self.refused(tool.img("convert", "-c", "-n", "-f", "raw", "-O", "raw", source, raw),
                         "Compression not supported for this file format", code=1)


class Io(CompressedCase):

    def test_the_same_as_qemu_io(self):
        """The same commands with the same outcome, and the same image afterwards."""
        commands = ["write -c -P 1 0 64k", "write -c -P 2 64k 192k", "write -c 512 64k", "write -c 0 512", "write -c -f 0 64k",
                    "write -c -z 512k 64k", "write -c -q 640k 64k", "write -c 0 0", "writev -c 0 64k", "aio_write -c 0 64k",
                    "write -c -u 0 64k", "write -c -P 3 960k 66048", "write -c -P 3 960k 66k", "write -c 4M 64k"]
        images = {}
        for tool in (COFRE_TOOL, QEMU_TOOL):
            images[tool.name] = self.create(tool, Image(self.path(f"{tool.name}.qcow2"), "qcow2"), MIB + 512)
        for command in commands:
            codes = [tool.io("-f", "qcow2", "-c", command, images[tool.name].path).code for tool in (COFRE_TOOL, QEMU_TOOL)]
            self.assertEqual(*codes, command)
        self.ok(qemu_img("compare", images["cofre"].path, images["qemu"].path))
        self.assertEqual(*(self.counts(image).get("compressed-clusters") for image in images.values()))
        for image in images.values():
            self.sound(image, self.content(QEMU_TOOL, image)[0])

    def test_refused_where_it_cannot_be(self):
        raw = self.write_file("raw", bytes(MIB))
        for tool in (COFRE_TOOL, QEMU_TOOL):
            self.refused_command(tool.io("-f", "raw", "-c", "write -c 0 64k", raw))
        image = self.create(COFRE_TOOL, Image(self.path("e.qcow2"), "qcow2", self.secret()), MIB, options=luks_options())
        result = cofre("io", *image.args(), "-c", "write -c 0 64k")
        self.refused_command(result)
        self.assertIn("encryption", result.err)
        self.holds(QEMU_TOOL, image, bytes(MIB))

    def refused_command(self, result):
        self.assertEqual(result.code, 1, f"{result}")
        self.assertIn("write failed", result.out, f"{result}")

    def test_random_writes_over_compressed_clusters(self):
        """Plain and compressed writes, zeros and discards by both tools in turns, against a model."""
        for options, cluster in (("cluster_size=4k,refcount_bits=2", 4096), ("compression_type=zstd", 65536),
                                 ("extended_l2=on", 65536), ("cluster_size=512", 512), ("compat=0.10,cluster_size=16k", 16384)):
            with self.subTest(options=options):
                content = compressible_disk(self.rng, 2 * MIB)
                image = Image(self.path("r.qcow2"), "qcow2")
                self.ok(cofre("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options,
                              self.write_file("source.raw", content), image.path))
                model = GuestModel(content, self.rng)
                for batch in range(4):
                    tool = QEMU_TOOL if batch == 1 else COFRE_TOOL
                    commands = model.commands(25)
                    if tool is COFRE_TOOL:  # qemu-io does not compress over what is there
                        commands += [self.compressed_write(model, cluster) for _ in range(10)]
                        commands += model.commands(10)
                    self.io(tool, image, *commands)
                    actual, result = self.content(QEMU_TOOL, image)
                    self.assertEqual(model.settle(actual), -1, f"batch {batch}{result}")
                    self.clean(QEMU_TOOL, image)
                    self.clean(COFRE_TOOL, image)

    def compressed_write(self, model, cluster):
        size = len(model.disk)
        offset = self.rng.randrange(size // cluster) * cluster
        length = min(cluster * self.rng.randrange(1, 6), size - offset)
        byte = self.rng.randrange(256)
        model.disk[offset:offset + length] = bytes([byte]) * length
        model.known[offset:offset + length] = b"\1" * length
        return f"write -q -c -P {byte} {offset} {length}"

    def test_snapshots_keep_their_clusters(self):
        content = compressible_disk(self.rng, 2 * MIB)
        image = Image(self.path("s.qcow2"), "qcow2")
        self.ok(cofre("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4k",
                      self.write_file("source.raw", content), image.path))
        self.ok(qemu_img("snapshot", "-c", "before", image.path))
        self.io(COFRE_TOOL, image, "write -c -P 7 0 256k", "write -P 8 300k 100k", "write -c -P 9 512k 64k", "discard 1M 256k")
        now, _ = self.content(QEMU_TOOL, image)
        self.sound(image, now)
        self.ok(qemu_img("snapshot", "-a", "before", image.path))
        self.sound(image, content)
        self.ok(qemu_img("snapshot", "-d", "before", image.path))
        self.sound(image, content)


if __name__ == "__main__":
    unittest.main(verbosity=2)
