"""audit: plain text planted in every place that encryption misses is found there, clean images are clean, and --fix
leaves nothing but the guest's bytes."""

import os
import unittest

from cofre_peers import COFRE_TOOL, LONG, MIB, QEMU_TOOL, Image, PeerCase, aes_options, cofre, luks_options
from qcow2_patch import Patch

CLEAN, PLAIN, NOTES = 0, 2, 3
TEXT = b"Dear diary, nobody but me will ever read what stands here. " * 40
SEEDS = 20 if LONG else 5


class AuditCase(PeerCase):

    def made(self, name="image.qcow2", method="luks", tool=COFRE_TOOL, size=8 * MIB, extra="", args=()):
        options = luks_options() if method == "luks" else aes_options()
        image = Image(self.path(name), "qcow2", self.secret())
        return self.create(tool, image, size, *args, options=options + ("," + extra if extra else ""))

    def filled(self, **how):
        """An image with random and with even content, as the guest sees it."""
        image = self.made(**how)
        self.io(QEMU_TOOL, image, "write -P 0x61 0 1M", "write -P 0 1M 512k", "write -P 0xff 3M 192k")
        return image

    def snapshot(self, image):
        self.ok(cofre("snapshot", "-c", "one", image.path))

    def audited(self, image, code, *args):
        return self.ok(cofre("audit", "--output=json", *args, image.path), code).json()

    def found(self, image, kind, offset=None, length=None):
        """The finding is there, alone, and names the place."""
        report = self.audited(image, PLAIN)
        self.assertEqual([k for k in report["totals"] if k not in ("zero-data", "repeated-sectors")], [kind], report)
        findings = [f for f in report["findings"] if f["kind"] == kind]
        if offset is not None:
            self.assertLessEqual(findings[0]["offset"], offset, report)
            last = findings[-1]
            self.assertGreaterEqual(last["offset"] + last["length"], offset + (length or 1), report)
            self.assertLessEqual(sum(f["length"] for f in findings), (length or 1) + 2 * 65536, report)
        return report

    def fixed(self, image, code=CLEAN):
        """--fix leaves nothing to find, qemu-img nothing to say, and the guest its bytes."""
        before, _ = self.content(QEMU_TOOL, image)
        result = self.ok(cofre("audit", "--fix", "--output=json", *image.args()), code)
        self.assertIn("fixed", result.json())
        self.clean(QEMU_TOOL, image)
        self.clean(COFRE_TOOL, image)
        self.holds(QEMU_TOOL, image, before)
        if code == CLEAN:
            self.wiped(image.path)

    def wiped(self, path):
        self.assertFalse(b"nobody but me" in self.read_file(path), "plain text is left")

    def plant(self, image, offset, content=TEXT):
        with Patch(image.path) as patch:
            patch.fill(offset, content)


class CleanImages(AuditCase):

    def test_no_false_alarm(self):
        for seed in range(SEEDS):
            for method in ("luks", "aes"):
                for tool in (QEMU_TOOL, COFRE_TOOL):
                    with self.subTest(seed=seed, method=method, tool=tool.name):
                        maker = COFRE_TOOL if method == "luks" and seed > 0 else tool  # QEMU needs seconds for a header
                        image = self.made(f"{seed}-{method}-{tool.name}.qcow2", method, maker, 16 * MIB)
                        commands = [f"write -P {self.rng.randrange(256)} {self.rng.randrange(200) * 65536} "
                                    f"{self.rng.randrange(1, 20) * 65536}" for _ in range(8)]
                        commands.append(f"discard {self.rng.randrange(100) * 65536} 512k")
                        self.io(tool, image, *commands)
                        report = self.audited(image, CLEAN)
                        self.assertEqual(report["findings"], [])

    def test_shapes_of_images(self):
        for extra in ("cluster_size=4096", "cluster_size=2M", "extended_l2=on", "compat=0.10", "refcount_bits=64"):
            with self.subTest(extra=extra):
                image = self.filled(name=extra.replace("=", "") + ".qcow2", extra=extra)
                self.audited(image, CLEAN)

    def test_snapshots(self):
        image = self.filled()
        self.snapshot(image)
        self.io(QEMU_TOOL, image, "write -P 7 512k 1M")
        self.audited(image, CLEAN)

    def test_a_container(self):
        image = self.create(COFRE_TOOL, Image(self.path("c.luks"), "luks", self.secret()), 4 * MIB,
                            options=luks_options(prefix=""))
        self.io(QEMU_TOOL, image, "write -P 0x61 0 4M")
        self.audited(image, CLEAN)

    def test_keyslots_that_were_erased(self):
        """cofre's and QEMU's erasing leave nothing to find."""
        image = self.filled()
        new = self.secret("another", "new")
        self.ok(cofre("amend", "--change-passphrase", "--passphrase-file", image.secret, "--new-passphrase-file", new,
                      "-q", image.path))
        self.audited(image, CLEAN)

    def test_human_output_and_progress(self):
        image = self.filled()
        result = self.ok(cofre("audit", "-p", image.path))
        self.assertIn("No unencrypted data was found", result.out)
        self.assertIn("(100.00/100%)", result.out)
        self.assertEqual(self.ok(cofre("audit", "-q", image.path)).out, "")


class Notes(AuditCase):

    def test_preallocated_and_never_written(self):
        image = self.filled()
        with Patch(image.path) as patch:
            place = patch.data_cluster(0)
        self.plant(image, place, bytes(65536))
        report = self.audited(image, NOTES)
        self.assertEqual(report["findings"][0]["kind"], "zero-data")
        self.assertEqual((report["findings"][0]["offset"], report["findings"][0]["length"]), (place, 65536))

    def test_cipher_text_twice(self):
        image = self.filled()
        with Patch(image.path) as patch:
            a, b = patch.data_cluster(0), patch.data_cluster(0x80000)
            patch.file.seek(a)
            sector = patch.file.read(512)
        self.plant(image, b + 1024, sector)
        report = self.audited(image, NOTES)
        self.assertEqual([f["kind"] for f in report["findings"]], ["repeated-sectors"])
        self.assertEqual(report["totals"]["repeated-sectors"]["bytes"], 512)

    def test_ecb(self):
        image = self.create(COFRE_TOOL, Image(self.path("ecb.qcow2"), "qcow2", self.secret()), 4 * MIB,
                            options=luks_options(cipher_mode="ecb", ivgen_alg="plain64"))
        self.io(QEMU_TOOL, image, "write -P 0x61 0 1M")
        report = self.audited(image, NOTES)
        self.assertEqual(set(report["totals"]), {"weak-mode", "repeated-blocks", "repeated-sectors"}, report)


class Planted(AuditCase):

    def test_compressed_clusters(self):
        for method in ("luks", "aes"):
            with self.subTest(method=method):
                image = self.filled(name=method + ".qcow2", method=method)
                self.io(QEMU_TOOL, image, "write -c -P 0x55 2M 64k", "write -c -P 0x56 4M 64k")
                self.found(image, "compressed-cluster")
                self.fixed(image)

    def test_compressed_cluster_of_a_snapshot(self):
        image = self.filled()
        self.io(QEMU_TOOL, image, "write -c -P 0x55 2M 64k")
        self.snapshot(image)
        self.io(QEMU_TOOL, image, "write -P 1 2M 64k")
        report = self.found(image, "compressed-snapshot")
        self.assertIn("convert -l", report["totals"]["compressed-snapshot"]["remedy"])
        self.fixed(image, PLAIN)

    def test_free_clusters(self):
        image = self.filled()
        with Patch(image.path) as patch:
            place = patch.grow(4)
        self.io(QEMU_TOOL, image, "write -P 3 6M 64k")  # something in use behind it
        with Patch(image.path) as patch:
            in_use = {patch.data_cluster(6 * MIB)}
            free = [place + n * 65536 for n in range(4) if place + n * 65536 not in in_use]
        self.plant(image, free[-1] + 700)
        report = self.audited(image, PLAIN)
        self.assertTrue(set(report["totals"]) <= {"plain-free", "plain-tail"}, report)
        self.fixed(image)

    def test_freed_cluster_of_a_discard(self):
        image = self.filled()
        with Patch(image.path) as patch:
            place = patch.data_cluster(0x40000)
        self.io(QEMU_TOOL, image, "discard 256k 64k")
        self.plant(image, place + 4096)
        self.found(image, "plain-free", place + 4096, len(TEXT))
        self.fixed(image)

    def test_leaked_cluster(self):
        image = self.filled()
        with Patch(image.path) as patch:
            place = patch.grow()
            patch.write(patch.refcount(place), ">H", 1)
        self.plant(image, place + 9)
        self.found(image, "plain-leaked", place + 9, len(TEXT))
        self.fixed(image)

    def test_tail_of_the_file(self):
        image = self.filled()
        place = os.path.getsize(image.path)
        self.plant(image, place, TEXT[:777])
        self.found(image, "plain-tail", place, 777)
        self.fixed(image)

    def test_slack_of_the_header(self):
        image = self.filled()
        self.plant(image, 5000, b"pw")
        self.found(image, "plain-slack", 5000, 2)
        self.fixed(image)

    def test_slack_behind_the_l1_table(self):
        image = self.filled()
        with Patch(image.path) as patch:
            place = patch.get("l1_offset") + 8 * patch.get("l1_size") + 33
        self.plant(image, place)
        self.found(image, "plain-slack", place, len(TEXT))
        self.fixed(image)

    def test_behind_a_zero_cluster(self):
        image = self.made(extra="preallocation=metadata", tool=COFRE_TOOL)
        with Patch(image.path) as patch:
            place = patch.data_cluster(0)
            patch.file.truncate(max(patch.length, place + 65536))
        self.plant(image, place)
        self.found(image, "plain-reserved", place, len(TEXT))
        self.fixed(image)

    def test_data_clusters(self):
        image = self.filled()
        with Patch(image.path) as patch:
            place = patch.data_cluster(0)
        self.plant(image, place)
        self.found(image, "plain-data", place, len(TEXT))
        self.fixed(image, PLAIN)  # it is the guest's: told, not touched

    def test_data_of_a_snapshot(self):
        image = self.filled()
        self.snapshot(image)
        with Patch(image.path) as patch:
            place = patch.data_cluster(0)
        self.io(QEMU_TOOL, image, "write -P 7 0 64k")
        self.plant(image, place)
        self.found(image, "plain-snapshot", place, len(TEXT))

    def test_a_short_text_in_cipher_text(self):
        image = self.filled()
        with Patch(image.path) as patch:
            place = patch.data_cluster(0)
        self.plant(image, place + 100, TEXT[:60])
        self.found(image, "plain-data", place + 100, 60)

    def test_dense_plain_text(self):
        """Base64 by its frequencies in a sector; what is a little uneven by those of 64 KiB."""
        image = self.filled()
        with Patch(image.path) as patch:
            place = patch.data_cluster(0x40000)
        self.io(QEMU_TOOL, image, "discard 256k 64k")
        self.plant(image, place, bytes(self.rng.choice(range(0, 256, 2)) for _ in range(65536)))
        self.found(image, "plain-free", place, 65536)
        self.fixed(image)

    def test_external_data_file(self):
        data = self.path("data.raw")
        image = self.made(extra=f"data_file={data}")
        self.io(QEMU_TOOL, image, "write -P 0x61 0 1M")
        self.audited(image, CLEAN)
        with open(data, "r+b") as file:
            file.seek(4 * MIB)
            file.write(TEXT)
        report = self.audited(image, PLAIN)
        self.assertEqual(report["findings"][0]["file"], data)
        self.assertEqual(report["findings"][0]["offset"], 4 * MIB)
        self.fixed(image)
        self.wiped(data)

    def test_plain_backing_file(self):
        base = self.create(QEMU_TOOL, Image(self.path("base.qcow2"), "qcow2"), 8 * MIB)
        image = self.made(args=("-b", base.path, "-F", "qcow2"))
        self.io(QEMU_TOOL, image, "write -P 0x61 0 1M")
        report = self.found(image, "plain-image")
        self.assertEqual(report["findings"][0]["file"], base.path)
        self.assertIn("convert", report["totals"]["plain-image"]["remedy"])

    def test_findings_in_an_encrypted_backing_file(self):
        base = self.filled(name="base.qcow2")
        image = self.made(args=("-b", base.path, "-F", "qcow2"))
        place = os.path.getsize(base.path)
        self.plant(base, place)
        report = self.found(image, "plain-tail")
        self.assertEqual(report["findings"][0]["file"], base.path)

    def test_keyslots(self):
        image = self.filled()
        with Patch(image.path) as patch:
            luks = patch.read(patch.extension(0x0537be77), ">Q")
            slot = luks + 208 + 48 * 3
            material = luks + 512 * patch.read(slot + 40, ">I")
            patch.write(slot + 4, ">I", 1000)
            patch.fill(slot + 8, b"secret salt")
            patch.fill(material, self.rng.randbytes(64 * 4000))
        report = self.found(image, "keyslot-not-erased", material, 256000)
        self.assertEqual(report["findings"][0]["detail"], "keyslot 3")
        self.fixed(image)
        with Patch(image.path) as patch:
            patch.fill(material + 4096, TEXT)
        self.found(image, "plain-key-area", material + 4096, len(TEXT))
        self.fixed(image)

    def test_a_plain_image(self):
        image = self.create(QEMU_TOOL, Image(self.path("plain.qcow2"), "qcow2"), MIB)
        self.found(image, "plain-image")
        self.refused(cofre("audit", "--fix", image.path), image.path, "not encrypted", code=1)

    def test_a_container(self):
        image = self.create(COFRE_TOOL, Image(self.path("c.luks"), "luks", self.secret()), 4 * MIB,
                            options=luks_options(prefix=""))
        self.io(QEMU_TOOL, image, "write -P 0x61 0 4M")
        place = os.path.getsize(image.path) - 2 * MIB
        self.plant(image, place)
        self.found(image, "plain-data", place, len(TEXT))
        self.plant(image, 4080)  # between the header and the first keyslot's material
        self.assertIn("plain-key-area", self.audited(image, PLAIN)["totals"])


class Refusals(AuditCase):

    def test_a_damaged_image_is_not_wiped(self):
        image = self.filled()
        with Patch(image.path) as patch:
            patch.write(patch.refcount(patch.data_cluster(0)), ">H", 0)
        before = self.read_file(image.path)
        self.refused(cofre("audit", "--fix", *image.args()), image.path, "check -r all", code=1)
        self.same_bytes(self.read_file(image.path), before, "refused before the first write")

    def test_references_that_cannot_be_followed(self):
        image = self.filled()
        with Patch(image.path) as patch:
            patch.write(patch.l2_entry(0), ">Q", (1 << 63) | (1 << 40))
        report = self.ok(cofre("audit", "--output=json", image.path), 1).json()
        self.assertEqual(report["broken-references"], 1)

    def test_fix_with_a_wrong_passphrase(self):
        image = self.filled()
        self.io(QEMU_TOOL, image, "write -c -P 0x55 2M 64k")
        before = self.read_file(image.path)
        wrong = self.secret("wrong", "wrong")
        self.refused(cofre("audit", "--fix", "--passphrase-file", wrong, image.path), code=1)
        self.same_bytes(self.read_file(image.path), before, "refused before the first write")


if __name__ == "__main__":
    unittest.main(verbosity=2)
