"""Every inconsistency that check names, planted: `-r all` mends it, so that both tools find nothing and the guest's intact
bytes are right, or check says in words why it cannot be mended."""

import unittest

from cofre_peers import COFRE_TOOL, MIB, QEMU_TOOL, Image, PeerCase, cofre, qemu_img
from qcow2_patch import COMPRESSED, COPIED, Patch

CORRUPT, LEAKS = 2, 3
KIB64 = 65536
BITMAPS = 0x23852875  # a header extension


# What is done to an image, and a part of the sentence that tells of it. The guest's bytes stay what they were.
MENDED = {
    "refcount too low": (lambda p: p.write(p.refcount(p.data_cluster(0)), ">H", 0), "refcount 0, references 1"),
    "refcount too high": (lambda p: p.write(p.refcount(p.data_cluster(0)), ">H", 3), "refcount 3, references 1"),
    "refcount of an L2 table": (lambda p: p.write(p.refcount(p.l2_entry(0)), ">H", 0), "refcount 0, references 1"),
    "refcount of the header": (lambda p: p.write(p.refcount(0), ">H", 0), "cluster 0 (offset 0): refcount 0"),
    "leak": (lambda p: p.write(p.refcount(p.grow()), ">H", 1), "leaked cluster"),
    "copied flag missing": (lambda p: p.write(p.l2_entry(0), ">Q", p.data_cluster(0)), "copied flag"),
    "copied flag of L1 missing": (lambda p: p.write(p.l1_entry(0), ">Q", p.l2_entry(0)), "copied flag"),
    "reserved bits of L1": (lambda p: p.write(p.l1_entry(0), ">Q", p.read(p.l1_entry(0), ">Q") | 0x14), "reserved bits"),
    "reserved bits of L2": (lambda p: p.write(p.l2_entry(0), ">Q", p.read(p.l2_entry(0), ">Q") | 0x3e), "reserved bits"),
    "zero cluster misaligned": (lambda p: p.write(p.l2_entry(0x200000), ">Q", COPIED | (p.data_cluster(0) + 512) | 1),
                                "holds no data"),
    "compressed with copied flag": (lambda p: p.write(p.l2_entry(0x300000), ">Q", p.read(p.l2_entry(0x300000), ">Q") | COPIED),
                                    "compressed cluster"),
    "refcount block past the end": (lambda p: p.write(p.get("refcount_offset"), ">Q", 1 << 40), "outside the file"),
    "refcount block misaligned": (lambda p: p.write(p.get("refcount_offset"), ">Q",
                                                    p.read(p.get("refcount_offset"), ">Q") + 512), "not at a cluster's start"),
    "reserved bits of the refcount table": (lambda p: p.write(p.get("refcount_offset"), ">Q",
                                                              p.read(p.get("refcount_offset"), ">Q") | 1), "reserved bits"),
    "refcount block used twice": (lambda p: p.write(p.get("refcount_offset"), ">Q", p.l2_entry(0)), "is referenced"),
    "refcount table used for data": (lambda p: p.write(p.l2_entry(0x200000), ">Q", COPIED | p.get("refcount_offset") | 1),
                                     "used for something else"),
    "refcounts lost": (lambda p: p.fill(p.read(p.get("refcount_offset"), ">Q"), bytes(KIB64)), "refcount 0, references 1"),
}

# Where what an entry should say is lost, nothing is guessed.
TOLD = {
    "L2 table past the end": (lambda p: p.write(p.l1_entry(0), ">Q", COPIED | 1 << 40), "past the file's end"),
    "L2 table misaligned": (lambda p: p.write(p.l1_entry(0), ">Q", p.read(p.l1_entry(0), ">Q") + 512), "not a cluster's start"),
    "data past the end": (lambda p: p.write(p.l2_entry(0), ">Q", COPIED | 1 << 40), "past the file's end"),
    "data misaligned": (lambda p: p.write(p.l2_entry(0), ">Q", COPIED | (p.data_cluster(0) + 512)), "not a cluster's start"),
    "compressed past the end": (lambda p: p.write(p.l2_entry(0x300000), ">Q", COMPRESSED | 1 << 40), "past the file's end"),
}


class Findings(PeerCase):

    def setUp(self):
        super().setUp()
        self.image = self.create(QEMU_TOOL, Image(self.path("image.qcow2"), "qcow2"), 4 * MIB)
        self.io(QEMU_TOOL, self.image, "write -P 1 0 512k", "write -P 2 1M 256k", "write -z 2M 64k", "write -c -P 3 3M 64k")
        self.disk, _ = self.content(QEMU_TOOL, self.image)
        self.good = self.read_file(self.image.path)

    def broken(self, damage):
        self.write_file("image.qcow2", self.good)
        with Patch(self.image.path) as patch:
            damage(patch)

    def found(self, words):
        before = self.read_file(self.image.path)
        result = cofre("check", self.image.path)
        self.assertIn(result.code, (CORRUPT, LEAKS), f"{result}")
        self.assertIn(words, result.err, f"{result}")
        self.same_bytes(self.read_file(self.image.path), before, "check alone changes nothing")
        return result

    def test_mended(self):
        for name, (damage, words) in MENDED.items():
            with self.subTest(damage=name):
                self.broken(damage)
                said = self.found(words)
                self.assertRegex(said.err, "-r (all|leaks) ", f"it says what a repair would do{said}")
                self.ok(cofre("check", "-r", "all", self.image.path))
                self.clean(COFRE_TOOL, self.image)
                self.clean(QEMU_TOOL, self.image)
                self.holds(QEMU_TOOL, self.image, self.disk)

    def test_told(self):
        for name, (damage, words) in TOLD.items():
            with self.subTest(damage=name):
                self.broken(damage)
                said = self.found(words)
                self.assertIn("cannot be repaired", said.err, f"{said}")
                self.assertEqual(qemu_img("check", self.image.path).code, CORRUPT)
                self.ok(cofre("check", "-r", "all", self.image.path), CORRUPT)
                self.ok(cofre("io", "-r", "-c", "read -P 2 1M 256k", self.image.path), 1 if "table" in name else 0)

    def test_subclusters(self):
        """Extended L2 entries: the second word of an entry."""
        image = self.create(QEMU_TOOL, Image(self.path("sub.qcow2"), "qcow2"), 4 * MIB, options="extended_l2=on")
        self.io(QEMU_TOOL, image, "write -P 1 0 512k", "write -c -P 3 3M 64k")
        disk, _ = self.content(QEMU_TOOL, image)
        good = self.read_file(image.path)
        cases = {"compressed with a bitmap": (0x300000, 5, "subcluster bitmap", 0),
                 "allocated without a cluster": (0x200000, 7, "no cluster", 0),
                 "both": (0, (1 << 32) | 0xffffffff, "both allocated and zero", CORRUPT)}
        for name, (guest, bitmap, words, code) in cases.items():
            with self.subTest(damage=name):
                self.write_file("sub.qcow2", good)
                with Patch(image.path) as patch:
                    patch.write(patch.l2_entry(0) + 16 * (guest // KIB64) + 8, ">Q", bitmap)
                said = self.ok(cofre("check", image.path), CORRUPT)
                self.assertIn(words, said.err, f"{said}")
                self.ok(cofre("check", "-r", "all", image.path), code)
                if code == 0:
                    self.clean(QEMU_TOOL, image)
                    self.clean(COFRE_TOOL, image)
                    self.holds(QEMU_TOOL, image, disk)
                else:
                    self.assertIn("cannot be repaired", said.err, f"{said}")

    def test_snapshots(self):
        self.ok(qemu_img("snapshot", "-c", "one", self.image.path))
        with Patch(self.image.path) as patch:
            patch.write(patch.get("snapshots_offset"), ">Q", 1 << 40)
        said = self.ok(cofre("check", self.image.path), CORRUPT)
        self.assertIn("delete the snapshot", said.err)

    def test_two_l1_tables_in_one(self):
        self.ok(qemu_img("snapshot", "-c", "one", self.image.path))
        with Patch(self.image.path) as patch:
            patch.write(patch.get("snapshots_offset"), ">Q", patch.get("l1_offset"))
        said = self.ok(cofre("check", self.image.path), CORRUPT)
        self.assertIn("L1 table", said.err)
        self.assertIn("cannot be repaired", said.err)
        self.ok(cofre("check", "-r", "all", self.image.path), CORRUPT)
        self.holds(COFRE_TOOL, self.image, self.disk)

    def test_bitmaps_in_the_l1_table(self):
        """What is an L1 entry in one is the place of a bitmap's table in the other, and every refcount agrees."""
        self.ok(qemu_img("bitmap", "--add", self.image.path, "b"))
        with Patch(self.image.path) as patch:
            place = patch.extension(BITMAPS)
            entry = patch.read(patch.read(place + 16, ">Q"), "32s")
            l1, l2 = patch.get("l1_offset"), patch.l2_entry(0)
            patch.fill(l1 + 8, entry[8:])
            patch.write(l1, ">Q", l2)
            patch.write(place + 16, ">Q", l1)
            for cluster in (l1, l2):
                patch.write(patch.refcount(cluster), ">H", 2)
        said = self.ok(cofre("check", self.image.path), CORRUPT)
        self.assertIn("bitmap directory", said.err)
        said = self.ok(cofre("io", "-c", "write 0 64k", self.image.path), 1)
        self.assertIn("-r all", said.err)
        self.ok(cofre("check", "-r", "all", self.image.path))
        self.io(COFRE_TOOL, self.image, "write -P 7 0 64k", "write -P 1 0 64k")
        self.clean(COFRE_TOOL, self.image)
        self.clean(QEMU_TOOL, self.image)
        self.holds(QEMU_TOOL, self.image, self.disk)


if __name__ == "__main__":
    unittest.main(verbosity=2)
