"""check and its repairs, on images broken on purpose: exit codes, counts as qemu-img's, and data intact afterwards."""

import shutil
import unittest

from cofre_peers import (COFRE, COFRE_TOOL, MIB, QEMU_TOOL, Image, Interactive, PeerCase, cofre, luks_options, qemu_img,
                         qemu_io)
from qcow2_patch import COPIED, OFFSET_MASK, Patch

LEAKS, CORRUPT = 3, 2


class CheckCase(PeerCase):

    def setUp(self):
        super().setUp()
        self.image = self.create(QEMU_TOOL, Image(self.path("image.qcow2"), "qcow2"), 4 * MIB)
        self.io(QEMU_TOOL, self.image, "write -P 1 0 512k", "write -P 2 1M 256k", "write -z 2M 64k")
        self.disk, _ = self.content(QEMU_TOOL, self.image)

    def broken(self, change):
        with Patch(self.image.path) as patch:
            change(patch)

    def judged(self, code):
        """Both tools find the same: exit code and the counts of the JSON report."""
        theirs = qemu_img("check", "--output=json", self.image.path)
        ours = cofre("check", "--output=json", self.image.path)
        self.assertEqual(theirs.code, code, f"the test's own premise{theirs}")
        self.assertEqual(ours.code, code, f"{ours}{theirs}")
        for key in ("leaks", "corruptions", "check-errors"):
            self.assertEqual(bool(ours.json().get(key, 0)), bool(theirs.json().get(key, 0)), f"{key}{ours}{theirs}")
        human = self.ok(cofre("check", self.image.path), code)
        self.assertNotIn("No errors were found", human.out, f"{human}")
        return ours

    def repaired(self, how, code=0):
        return self.ok(cofre("check", "-r", how, self.image.path), code)

    def sound_again(self):
        self.clean(QEMU_TOOL, self.image)
        self.clean(COFRE_TOOL, self.image)
        self.holds(QEMU_TOOL, self.image, self.disk)
        self.holds(COFRE_TOOL, self.image, self.disk)


class Leaks(CheckCase):

    def leak(self, patch):
        new = patch.grow(3)
        for n in range(3):
            patch.write(patch.refcount(new + n * patch.cluster_size), ">H", 1)

    def test_found_and_repaired(self):
        self.broken(self.leak)
        ours = self.judged(LEAKS)
        self.assertEqual(ours.json()["leaks"], 3, f"{ours}")
        result = self.repaired("leaks")
        self.assertIn("3 leaked clusters", result.out, f"{result}")
        self.sound_again()

    def test_check_alone_changes_nothing(self):
        self.broken(self.leak)
        before = self.read_file(self.image.path)
        self.ok(cofre("check", self.image.path), LEAKS)
        self.same_bytes(self.read_file(self.image.path), before, "check without -r must not write")

    def test_repair_all_mends_leaks_too(self):
        self.broken(self.leak)
        self.repaired("all")
        self.sound_again()

    def test_json_of_a_repair(self):
        self.broken(self.leak)
        ours = self.ok(cofre("check", "-r", "leaks", "--output=json", self.image.path))
        self.assertEqual(ours.json()["leaks-fixed"], 3, f"{ours}")

    def test_output_is_theirs(self):
        self.broken(self.leak)
        copy = self.path("copy.qcow2")
        shutil.copyfile(self.image.path, copy)
        self.assertEqual(cofre("check", self.image.path).out, qemu_img("check", self.image.path).out)
        self.assertEqual(self.ok(cofre("check", "-r", "leaks", self.image.path)).out,
                         self.ok(qemu_img("check", "-r", "leaks", copy)).out)


class Corruptions(CheckCase):

    def test_refcount_too_high(self):
        """A leak, and a flag that promises a refcount of one."""
        self.broken(lambda p: p.write(p.refcount(p.data_cluster(0)), ">H", 3))
        self.judged(CORRUPT)
        self.repaired("all")
        self.sound_again()

    def test_refcount_zero(self):
        self.broken(lambda p: p.write(p.refcount(p.data_cluster(0)), ">H", 0))
        self.judged(CORRUPT)
        self.repaired("all")
        self.sound_again()

    def test_many_refcounts_zero(self):
        def wipe(patch):
            for n in range(8):
                patch.write(patch.refcount(patch.data_cluster(n * 65536)), ">H", 0)
        self.broken(wipe)
        self.judged(CORRUPT)
        self.repaired("all")
        self.sound_again()

    def test_refcount_of_the_l2_table_zero(self):
        self.broken(lambda p: p.write(p.refcount(p.read(p.l1_entry(0), ">Q") & OFFSET_MASK), ">H", 0))
        self.judged(CORRUPT)
        self.repaired("all")
        self.sound_again()

    def test_copied_flag_missing(self):
        """A wrong flag with refcount 1 is found, and set right."""
        self.broken(lambda p: p.write(p.l2_entry(0), ">Q", p.data_cluster(0)))
        self.judged(CORRUPT)
        self.repaired("all")
        self.sound_again()

    def test_copied_flag_on_a_shared_cluster(self):
        def share(patch):
            patch.write(patch.refcount(patch.data_cluster(0)), ">H", 2)
            patch.write(patch.l2_entry(0x40000), ">Q", COPIED | patch.data_cluster(0))
        self.broken(share)
        self.disk = self.content(QEMU_TOOL, self.image)[0]
        theirs = qemu_img("check", self.image.path)
        self.assertEqual(theirs.code, CORRUPT, f"{theirs}")
        self.ok(cofre("check", self.image.path), CORRUPT)
        self.repaired("all")
        self.sound_again()

    def test_l2_entry_behind_the_end_of_the_file(self):
        self.broken(lambda p: p.write(p.l2_entry(0), ">Q", COPIED | (1 << 40)))
        result = self.ok(cofre("check", self.image.path), CORRUPT)
        self.ok(qemu_img("check", self.image.path), CORRUPT)
        self.assertRegex(result.out + result.err, "0x10000000000|1099511627776", f"the finding must name the offset{result}")

    def test_l2_entry_off_a_cluster_boundary(self):
        self.broken(lambda p: p.write(p.l2_entry(0), ">Q", COPIED | (p.data_cluster(0) + 512)))
        self.ok(qemu_img("check", self.image.path), CORRUPT)
        self.ok(cofre("check", self.image.path), CORRUPT)

    def test_l1_entry_off_a_cluster_boundary(self):
        self.broken(lambda p: p.write(p.l1_entry(0), ">Q", p.read(p.l1_entry(0), ">Q") + 512))
        self.ok(qemu_img("check", self.image.path), CORRUPT)
        self.ok(cofre("check", self.image.path), CORRUPT)

    def test_data_cluster_inside_the_l1_table(self):
        """Two users of one cluster, one of them metadata."""
        self.broken(lambda p: p.write(p.l2_entry(0), ">Q", COPIED | p.get("l1_offset")))
        self.ok(qemu_img("check", self.image.path), CORRUPT)
        self.ok(cofre("check", self.image.path), CORRUPT)

    def test_reserved_bits_of_an_l2_entry(self):
        self.broken(lambda p: p.write(p.l2_entry(0), ">Q", COPIED | p.data_cluster(0) | 0x3e))
        theirs = qemu_img("check", self.image.path)
        self.ok(cofre("check", self.image.path), theirs.code)

    def test_refcount_block_behind_the_end_of_the_file(self):
        self.broken(lambda p: p.write(p.get("refcount_offset") + 8, ">Q", 1 << 40))
        self.ok(qemu_img("check", self.image.path), CORRUPT)
        self.ok(cofre("check", self.image.path), CORRUPT)
        self.repaired("all")
        self.sound_again()

    def test_all_refcounts_lost(self):
        """The refcount table's only block is all zeros: everything is rebuilt."""
        def wipe(patch):
            patch.fill(patch.read(patch.get("refcount_offset"), ">Q"), bytes(patch.cluster_size))
        self.broken(wipe)
        self.judged(CORRUPT)
        self.repaired("all")
        self.sound_again()

    def test_repair_leaks_leaves_corruption_alone(self):
        self.broken(lambda p: p.write(p.refcount(p.data_cluster(0)), ">H", 0))
        result = cofre("check", "-r", "leaks", self.image.path)
        self.assertIn(result.code, (1, CORRUPT), f"{result}")
        self.repaired("all")
        self.sound_again()

    def test_corrupt_mark_is_cleared_by_repair(self):
        self.broken(lambda p: p.set("incompatible", 2))
        self.refused(cofre("io", "-c", "write 0 512", self.image.path), self.image.path, "corrupt")
        self.repaired("all")
        self.sound_again()
        self.io(COFRE_TOOL, self.image, "write -P 1 0 512")

    def test_encrypted_image(self):
        image = self.create(QEMU_TOOL, Image(self.path("luks.qcow2"), "qcow2", self.secret()), MIB, options=luks_options())
        self.io(QEMU_TOOL, image, "write -P 1 0 256k")
        disk, _ = self.content(QEMU_TOOL, image)
        with Patch(image.path) as patch:
            patch.write(patch.refcount(patch.data_cluster(0)), ">H", 0)
        self.ok(cofre("check", *image.args()), CORRUPT)
        self.ok(cofre("check", "-r", "all", *image.args()))
        self.clean(QEMU_TOOL, image)
        self.holds(QEMU_TOOL, image, disk)


class DirtyImages(CheckCase):
    """lazy_refcounts leaves refcounts behind when a program dies; the dirty bit says so."""

    def setUp(self):
        super().setUp()
        self.image = self.create(QEMU_TOOL, Image(self.path("lazy.qcow2"), "qcow2"), 4 * MIB, options="lazy_refcounts=on")
        died = qemu_io("-c", "write -P 7 0 256k", "-c", "write -P 8 1M 64k", "-c", "flush", "-c", "abort", self.image.path)
        self.assertLess(died.code, 0, f"qemu-io must have died{died}")
        with Patch(self.image.path) as patch:
            self.assertEqual(patch.get("incompatible") & 1, 1, "the image must be dirty now")
        self.disk = bytearray(4 * MIB)
        self.disk[:256 * 1024] = b"\x07" * (256 * 1024)
        self.disk[MIB:MIB + 65536] = b"\x08" * 65536

    def dirty(self):
        with Patch(self.image.path) as patch:
            return bool(patch.get("incompatible") & 1)

    def test_reading_works_and_leaves_the_mark(self):
        self.holds(COFRE_TOOL, self.image, self.disk)
        self.assertTrue(self.dirty())

    def test_check_reports_as_qemu_does(self):
        theirs = qemu_img("check", self.image.path)
        self.ok(cofre("check", self.image.path), theirs.code)

    def test_repair_clears_the_mark(self):
        self.repaired("all")
        self.assertFalse(self.dirty())
        self.sound_again()

    def test_writing_repairs_first(self):
        self.io(COFRE_TOOL, self.image, "write -P 9 2M 64k")
        self.disk[2 * MIB:2 * MIB + 65536] = b"\x09" * 65536
        self.assertFalse(self.dirty())
        self.sound_again()

    def test_ours_that_died_is_repaired_by_qemu(self):
        """cofre is killed while it has the image open: qemu-img mends what the dirty bit announces."""
        image = self.create(COFRE_TOOL, Image(self.path("ours.qcow2"), "qcow2"), 4 * MIB, options="lazy_refcounts=on")
        self.killed_after(image, "write -P 7 0 256k", "flush")
        self.ok(qemu_img("check", "-r", "all", image.path))
        self.clean(QEMU_TOOL, image)
        self.io(QEMU_TOOL, image, "read -P 7 0 256k")

    def test_ours_that_died_without_lazy_refcounts_leaks_at_most(self):
        image = self.create(COFRE_TOOL, Image(self.path("ours.qcow2"), "qcow2"), 4 * MIB)
        self.killed_after(image, "write -P 7 0 256k", "flush")
        self.assertIn(qemu_img("check", image.path).code, (0, LEAKS))
        self.io(QEMU_TOOL, image, "read -P 7 0 256k")

    def killed_after(self, image, *commands):
        """cofre dies by a signal once the commands, and a read whose answer shows it, are done."""
        with Interactive(COFRE, "io", image.path) as session:
            session.command("\n".join([*commands, "read -v 0 16"]), "00000000:")
            session.process.kill()


class Backups(CheckCase):
    """check --backup keeps what a repair changes, and --restore puts it back, to the byte."""

    def damages(self):
        def wipe_block(p):
            p.fill(p.read(p.get("refcount_offset"), ">Q"), bytes(p.cluster_size))

        def leak(p):
            p.write(p.refcount(p.grow(1)), ">H", 1)
        return {"refcounts lost": wipe_block, "leak": leak,
                "block outside": lambda p: p.write(p.get("refcount_offset"), ">Q", 1 << 40),
                "flag": lambda p: p.write(p.l2_entry(0), ">Q", p.data_cluster(0)),
                "corrupt bit": lambda p: p.set("incompatible", 2),
                "odd end": lambda p: (p.file.truncate(p.length + 777), p.write(p.refcount(p.data_cluster(0)), ">H", 0))}

    def test_restored_to_the_byte(self):
        good = self.read_file(self.image.path)
        for name, damage in self.damages().items():
            with self.subTest(damage=name):
                self.write_file("image.qcow2", good)
                self.broken(damage)
                before = self.read_file(self.image.path)
                backup = self.path("backup-" + name.replace(" ", "-"))
                result = self.ok(cofre("check", "-r", "all", "--backup", backup, self.image.path))
                self.assertIn("is kept in", result.out)
                self.sound_again()
                self.assertFalse(self.read_file(self.image.path) == before, "the test's own premise")
                self.ok(cofre("check", "--restore", backup, self.image.path))
                self.same_bytes(self.read_file(self.image.path), before, name)
                self.ok(cofre("check", "--restore", backup, self.image.path))  # again does no harm
                self.same_bytes(self.read_file(self.image.path), before, name)

    def test_another_image_is_refused(self):
        other = self.create(QEMU_TOOL, Image(self.path("other.qcow2"), "qcow2"), 5 * MIB)
        self.broken(lambda p: p.write(p.refcount(p.data_cluster(0)), ">H", 0))
        backup = self.path("backup")
        self.ok(cofre("check", "-r", "all", "--backup", backup, self.image.path))
        before = self.read_file(other.path)
        self.refused(cofre("check", "--restore", backup, other.path), "another image")
        self.same_bytes(self.read_file(other.path), before, "refused")

    def test_a_changed_image_is_refused(self):
        self.broken(lambda p: p.write(p.refcount(p.data_cluster(0)), ">H", 0))
        backup = self.path("backup")
        self.ok(cofre("check", "-r", "all", "--backup", backup, self.image.path))
        self.io(QEMU_TOOL, self.image, "write 3M 64k")
        before = self.read_file(self.image.path)
        self.refused(cofre("check", "--restore", backup, self.image.path), "changed since")
        self.same_bytes(self.read_file(self.image.path), before, "refused")

    def test_an_interrupted_backup_still_restores(self):
        """What is not whole in it belongs to a change that never reached the image."""
        self.broken(lambda p: p.write(p.refcount(p.data_cluster(0)), ">H", 0))
        before = self.read_file(self.image.path)
        backup = self.path("backup")
        self.ok(cofre("check", "-r", "all", "--backup", backup, self.image.path))
        whole = self.read_file(backup)
        with open(backup, "wb") as file:
            file.write(whole[:-20] + self.rng.randbytes(3))
        self.ok(cofre("check", "--restore", backup, self.image.path))
        self.same_bytes(self.read_file(self.image.path), before, "restored")
        with open(backup, "wb") as file:
            file.write(whole[:70])  # died in the first record: nothing had changed
        self.ok(cofre("check", "--restore", backup, self.image.path))
        self.same_bytes(self.read_file(self.image.path), before, "nothing to restore")

    def test_wrong_uses(self):
        existing = self.write_file("existing", b"precious")
        self.refused(cofre("check", "-r", "all", "--backup", existing, self.image.path), existing)
        self.assertEqual(self.read_file(existing), b"precious")
        self.refused(cofre("check", "--backup", self.path("b"), self.image.path), "-r")
        self.refused(cofre("check", "-r", "all", "--restore", existing, self.image.path), "exclude")
        self.refused(cofre("check", "--restore", existing, self.image.path), "no backup")


if __name__ == "__main__":
    unittest.main(verbosity=2)
