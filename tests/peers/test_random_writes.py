"""Thousands of random writes through `cofre io` against a model, then judged by qemu-img and by cofre."""

import os
import unittest

from cofre_peers import (COFRE_TOOL, LONG, MIB, QEMU_TOOL, Image, PeerCase, aes_options, luks_options, random_disk)
from guest_model import GuestModel

BATCHES = 40 if LONG else 5
BATCH = 100


class RandomWrites(PeerCase):

    def exercise(self, image, content, between=None, discard=True, batches=BATCHES):
        """Batches of random commands; the image is sound and equal to the model after each. `between(n)` runs after batch n."""
        model = GuestModel(content, self.rng)
        for batch in range(batches):
            commands = model.commands(BATCH, discard)
            self.io(COFRE_TOOL, image, *commands)
            actual, result = self.content(COFRE_TOOL, image)
            self.assertEqual(len(actual), len(model.disk), f"{result}")
            at = model.settle(actual)
            if at >= 0:
                last = [c for c in commands if covers(c, at)]
                self.fail(f"batch {batch}: byte {at} is {actual[at]:#x}, the model says {model.disk[at]:#x}; commands "
                          f"that touched it: {last}{result}")
            self.holds(QEMU_TOOL, image, model.disk)
            if image.format == "qcow2":
                self.sound(image)
            if between:
                between(batch)
        return model.disk

    def sound(self, image):
        self.clean(QEMU_TOOL, image)
        self.clean(COFRE_TOOL, image)

    def fresh(self, size, options="", secret="", args=(), name="image.qcow2"):
        return self.create(QEMU_TOOL, Image(self.path(name), "qcow2", secret), size, *args, options=options)

    def base(self, size, format="raw", options=""):
        """A backing file with content: (content, arguments of create)."""
        content = random_disk(self.rng, size)
        raw = self.write_file(f"base-{size}.raw", content)
        if format == "raw":
            return content, ["-b", raw, "-F", "raw"]
        path = self.path(f"base-{size}.qcow2")
        self.ok(QEMU_TOOL.img("convert", "-f", "raw", "-O", "qcow2", *(["-o", options] if options else []), raw, path))
        return content, ["-b", path, "-F", "qcow2"]

    # Geometry.

    def test_default_geometry(self):
        self.exercise(self.fresh(8 * MIB), bytes(8 * MIB))

    def test_smallest_clusters_one_bit_refcounts(self):
        self.exercise(self.fresh(2 * MIB + 512, "cluster_size=512,refcount_bits=1"), bytes(2 * MIB + 512))

    def test_small_clusters_wide_refcounts(self):
        self.exercise(self.fresh(3 * MIB, "cluster_size=1024,refcount_bits=64"), bytes(3 * MIB))

    def test_large_clusters(self):
        self.exercise(self.fresh(9 * MIB + 1024, "cluster_size=2M,refcount_bits=2"), bytes(9 * MIB + 1024))

    def test_version_2(self):
        self.exercise(self.fresh(4 * MIB, "compat=0.10,cluster_size=4096"), bytes(4 * MIB))

    def test_lazy_refcounts(self):
        self.exercise(self.fresh(4 * MIB, "lazy_refcounts=on,cluster_size=4096"), bytes(4 * MIB))

    def test_subclusters(self):
        self.exercise(self.fresh(6 * MIB, "extended_l2=on"), bytes(6 * MIB))

    def test_subclusters_of_small_clusters(self):
        self.exercise(self.fresh(4 * MIB, "extended_l2=on,cluster_size=16k"), bytes(4 * MIB))

    def test_external_data_file(self):
        self.exercise(self.fresh(4 * MIB, f"data_file={self.path('data')}"), bytes(4 * MIB))

    def test_raw_external_data_file(self):
        data = self.path("data")
        disk = self.exercise(self.fresh(4 * MIB, f"data_file={data},data_file_raw=on"), bytes(4 * MIB))
        self.same_bytes(self.read_file(data), disk, f"the data file {data} must be a raw image of the disk")

    # Encryption.

    def test_luks(self):
        image = self.fresh(4 * MIB, luks_options(), self.secret())
        self.exercise(image, bytes(4 * MIB))

    def test_luks_small_clusters_version_2(self):
        image = self.fresh(2 * MIB, luks_options(cipher_alg="aes-128", cipher_mode="cbc", ivgen_alg="essiv",
                                                 ivgen_hash_alg="sha256") + ",compat=0.10,cluster_size=512", self.secret())
        self.exercise(image, bytes(2 * MIB))

    def test_luks_subclusters(self):
        self.exercise(self.fresh(4 * MIB, luks_options() + ",extended_l2=on", self.secret()), bytes(4 * MIB))

    def test_luks_that_cofre_made_over_a_backing_file(self):
        content, backing = self.base(3 * MIB)
        image = Image(self.path("ours.qcow2"), "qcow2", self.secret())
        self.create(COFRE_TOOL, image, 3 * MIB, *backing, options=luks_options(cipher_alg="twofish-256"))
        self.exercise(image, content)

    def test_legacy_aes(self):
        self.exercise(self.fresh(4 * MIB, aes_options(), self.secret()), bytes(4 * MIB))

    def test_legacy_aes_over_a_backing_file(self):
        content, backing = self.base(3 * MIB)
        self.exercise(self.fresh(3 * MIB, aes_options() + ",cluster_size=8k", self.secret(), backing), content)

    def test_luks_container(self):
        image = self.create(QEMU_TOOL, Image(self.path("c.luks"), "luks", self.secret()), 3 * MIB,
                            options=luks_options(prefix=""))
        start, _ = self.content(QEMU_TOOL, image)
        self.exercise(image, start, discard=False)

    def test_raw(self):
        self.exercise(Image(self.write_file("disk.raw", bytes(2 * MIB + 512))), bytes(2 * MIB + 512))

    # Backing files.

    def test_backing_raw(self):
        content, backing = self.base(4 * MIB + 512)
        self.exercise(self.fresh(4 * MIB + 512, args=backing), content)
        self.same_bytes(self.read_file(backing[1]), content, "the backing file must not change")

    def test_backing_version_2(self):
        content, backing = self.base(4 * MIB)
        self.exercise(self.fresh(4 * MIB, "compat=0.10", args=backing), content)

    def test_backing_with_subclusters(self):
        content, backing = self.base(4 * MIB)
        self.exercise(self.fresh(4 * MIB, "extended_l2=on", args=backing), content)

    def test_backing_longer_than_the_image(self):
        content, backing = self.base(4 * MIB)
        self.exercise(self.fresh(3 * MIB - 512, args=backing), content[:3 * MIB - 512])

    def test_backing_shorter_than_the_image(self):
        """The backing file ends inside a cluster; what lies behind its end reads as zeros."""
        content, backing = self.base(2 * MIB + 1536, "qcow2", "cluster_size=4096")
        self.exercise(self.fresh(4 * MIB, args=backing), bytes(content) + bytes(2 * MIB - 1536))

    def test_backing_shorter_with_luks(self):
        content, backing = self.base(1 * MIB + 512)
        image = self.fresh(3 * MIB, luks_options(), self.secret(), backing)
        self.exercise(image, bytes(content) + bytes(2 * MIB - 512))

    def test_three_layers(self):
        """qcow2 over qcow2 over raw, each with a part of the content."""
        content, backing = self.base(3 * MIB)
        middle = self.fresh(3 * MIB, "cluster_size=4096", args=backing, name="middle.qcow2")
        content = self.exercise(middle, content, batches=1)
        before = self.read_file(middle.path)
        self.exercise(self.fresh(3 * MIB, args=["-b", middle.path, "-F", "qcow2"]), content)
        self.same_bytes(self.read_file(middle.path), before, "the backing file must not change")

    # Clusters that are shared or compressed.

    def with_snapshots(self, image, content):
        """Snapshots between the batches, which share every cluster; all are intact at the end."""
        saved = {}

        def snapshot(batch):
            name = f"s{batch}"
            self.ok(QEMU_TOOL.img("snapshot", *image.object_args(), "--image-opts", "-c", name, image.opts()))
            saved[name] = self.content(QEMU_TOOL, image)[0]

        self.exercise(image, content, between=snapshot)
        for name, expected in saved.items():
            out = self.path(name)
            result = self.ok(QEMU_TOOL.img("convert", *image.object_args(), "--image-opts", "-l", name, "-O", "raw",
                                           image.opts(), out))
            self.same_bytes(self.read_file(out), expected, f"snapshot {name} changed{result}")
            os.unlink(out)

    def test_internal_snapshots(self):
        self.with_snapshots(self.fresh(4 * MIB), bytes(4 * MIB))

    def test_internal_snapshots_small_clusters(self):
        self.with_snapshots(self.fresh(1 * MIB, "cluster_size=512,refcount_bits=8"), bytes(1 * MIB))

    def test_internal_snapshots_luks(self):
        self.with_snapshots(self.fresh(2 * MIB, luks_options(), self.secret()), bytes(2 * MIB))

    def test_internal_snapshots_subclusters(self):
        self.with_snapshots(self.fresh(3 * MIB, "extended_l2=on"), bytes(3 * MIB))

    def test_overwriting_compressed_clusters(self):
        for kind, cluster in (("zlib", 65536), ("zstd", 4096)):
            with self.subTest(compression=kind):
                content = random_disk(self.rng, 3 * MIB)
                source = self.write_file("source.raw", content)
                image = Image(self.path("c.qcow2"), "qcow2")
                self.ok(QEMU_TOOL.img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o",
                                      f"compression_type={kind},cluster_size={cluster}", source, image.path))
                self.exercise(image, content)

    def test_both_tools_take_turns(self):
        """Batches by cofre and by qemu-io on the same image, one model."""
        image = self.fresh(4 * MIB, luks_options() + ",cluster_size=4096", self.secret())
        model = GuestModel(bytes(4 * MIB), self.rng)
        for batch in range(2 * BATCHES):
            tool, other = (COFRE_TOOL, QEMU_TOOL) if batch % 2 else (QEMU_TOOL, COFRE_TOOL)
            self.io(tool, image, *model.commands(BATCH))
            actual, result = self.content(other, image)
            self.assertEqual(model.settle(actual), -1, f"{other.name} after {tool.name}, batch {batch}{result}")
        self.sound(image)


class DiscardAndZeroes(PeerCase):
    """What a discard of whole clusters leaves is not a matter of taste: as in QEMU, zeros, never old backing data."""

    def test_discard_hides_the_backing_file(self):
        base = self.write_file("base.raw", b"\x11" * (1 * MIB))
        for options in ("", "extended_l2=on", luks_options()):
            with self.subTest(options=options):
                image = Image(self.path("o.qcow2"), "qcow2", self.secret() if options.startswith("enc") else "")
                self.create(QEMU_TOOL, image, MIB, "-b", base, "-F", "raw", options=options)
                self.io(COFRE_TOOL, image, "write -P 2 0 128k", "discard 64k 128k", "read -P 2 0 64k",
                        "read -P 0 64k 128k", "read -P 0x11 192k 64k")
                self.io(QEMU_TOOL, image, "read -P 2 0 64k", "read -P 0 64k 128k", "read -P 0x11 192k 64k")
                self.clean(QEMU_TOOL, image)

    def test_discard_gives_clusters_back(self):
        image = self.create(QEMU_TOOL, Image(self.path("d.qcow2"), "qcow2"), 4 * MIB)
        self.io(COFRE_TOOL, image, "write -P 5 0 4M")
        self.io(COFRE_TOOL, image, "discard 0 4M", "read -P 0 0 4M")
        self.io(COFRE_TOOL, image, "write -P 6 0 4M", "read -P 6 0 4M")
        self.clean(QEMU_TOOL, image)
        end = self.ok(QEMU_TOOL.img("check", "--output=json", image.path)).json()["image-end-offset"]
        self.assertLess(end, 5 * MIB, "freed clusters must be used again")

    def test_zeroes_cost_no_data_clusters(self):
        image = self.create(QEMU_TOOL, Image(self.path("z.qcow2"), "qcow2"), 64 * MIB)
        self.io(COFRE_TOOL, image, "write -z 0 64M", "read -P 0 0 64M")
        self.assertLess(os.stat(image.path).st_size, 1 * MIB)
        self.clean(QEMU_TOOL, image)


def covers(command, at):
    words = command.split()
    if len(words) < 3 or words[0] == "flush":
        return False
    offset, length = int(words[-2]), int(words[-1])
    return offset <= at < offset + length


if __name__ == "__main__":
    unittest.main(verbosity=2)
