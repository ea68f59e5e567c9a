"""Bad input: a clear sentence, a non-zero exit, bounded memory and time, and nothing harmed."""

import os
import resource
import shutil
import signal
import subprocess
import unittest

from cofre_peers import (COFRE, COFRE_TOOL, MIB, QEMU_TOOL, SANITIZED, Image, PeerCase, aes_options, cofre, luks_options,
                         qemu_img, run)
from qcow2_patch import COPIED, COMPRESSED, Patch

QUICK_S = 60 if SANITIZED else 20


class BadInputCase(PeerCase):

    def good_image(self, name="bad.qcow2", options="", secret=""):
        image = self.create(QEMU_TOOL, Image(self.path(name), "qcow2", secret), 4 * MIB, options=options)
        self.io(QEMU_TOOL, image, "write -P 1 0 512k", "write -P 2 1M 64k")
        return image

    def patched(self, change, **how):
        image = self.good_image(**how)
        with Patch(image.path) as patch:
            change(patch)
        return image

    def gently_refused(self, result, *words, code=None):
        self.refused(result, *words, code=code)
        self.bounded(result)
        return result

    def cannot_be_read(self, image, *words):
        """convert gives up with a sentence naming the image, leaves no target and the source as it was."""
        before = self.read_file(image.path)
        out = self.path("out.raw")
        if os.path.exists(out):
            os.unlink(out)
        self.gently_refused(cofre("convert", *image.object_args(), "--image-opts", "-O", "raw", image.opts(), out, timeout=QUICK_S),
                            os.path.basename(image.path), *words)
        self.assertFalse(os.path.exists(out), "a failed convert must leave no target")
        self.assertEqual([], [name for name in os.listdir(self.dir) if name.startswith("out")], "nor a half one")
        self.same_bytes(self.read_file(image.path), before, "the source must not change")

    def io_fails(self, image, command):
        """What `io` says of a command that the image does not allow."""
        result = self.bounded(cofre("io", "-f", "qcow2", "-c", command, image.path, timeout=QUICK_S))
        self.assertEqual(result.code, 1, f"{result}")
        return result.out + result.err

    def survives(self, image):
        """Whatever the damage: every command ends by itself, soon, within its memory."""
        for args in (("info", "-f", "qcow2", image.path), ("check", "-f", "qcow2", image.path), ("map", "-f", "qcow2", image.path),
                     ("convert", "-f", "qcow2", "-O", "raw", image.path, self.path("out.raw")),
                     ("io", "-f", "qcow2", "-r", "-c", "read 0 1M", image.path)):
            result = self.bounded(cofre(*args, timeout=QUICK_S))
            self.assertGreaterEqual(result.code, 0, f"ended by a signal{result}")
            self.assertNotIn("Sanitizer", result.err, f"{result}")
            self.assertNotIn("runtime error", result.err, f"{result}")


class Headers(BadInputCase):

    def test_wrong_fields(self):
        """A field of the header, a value that cannot be, and what the message must speak of."""
        cases = [
            ("magic", b"QFI\x00", ("magic", "qcow2")), ("version", 1, "version"), ("version", 4, "version"),
            ("version", 0xffffffff, "version"), ("cluster_bits", 8, "cluster"), ("cluster_bits", 22, "cluster"),
            ("cluster_bits", 0xffffffff, "cluster"), ("crypt_method", 3, ("encryption", "crypt")),
            ("refcount_order", 7, ("refcount", "reference count")), ("refcount_order", 0xffffffff, ("refcount", "reference count")),
            ("l1_offset", 12345, "L1"), ("l1_offset", (1 << 63), "L1"), ("l1_size", 0xffffffff, "L1"),
            ("l1_size", 0, "L1"), ("refcount_offset", 777, ("refcount", "reference count")), ("refcount_offset", 1 << 62, ("refcount", "reference count")),
            ("refcount_clusters", 0xffffffff, ("refcount", "reference count")), ("refcount_clusters", 0, ("refcount", "reference count")),
            ("snapshots", 65537, "snapshot"), ("snapshots", 0xffffffff, "snapshot"),
            ("backing_size", 4096, "backing"), ("header_length", 100, "header"), ("header_length", 0xfffffff8, "header"),
            ("size", (1 << 63) + 512, ("size", "L1", "large")), ("size", 1 << 62, ("size", "L1", "large")),
        ]
        for field, value, word in cases:
            with self.subTest(field=field, value=value):
                def change(patch):
                    patch.set(field, value)
                    if field == "backing_size":
                        patch.set("backing_offset", 600)
                self.cannot_be_read(self.patched(change), word)

    def test_unknown_incompatible_bits_are_named(self):
        for bit in (5, 17, 63):
            with self.subTest(bit=bit):
                self.cannot_be_read(self.patched(lambda p: p.set("incompatible", 1 << bit)), str(bit))

    def test_unknown_incompatible_bit_with_a_name_in_the_table(self):
        def change(patch):
            table = patch.extension(0x6803f857)
            patch.fill(table, bytes([0, 9]) + b"time travel".ljust(46, b"\0"))
            patch.set("incompatible", 1 << 9)
        self.cannot_be_read(self.patched(change), "time travel")

    def test_unknown_compatible_bits_do_not_matter(self):
        image = self.patched(lambda p: p.set("compatible", 1 << 40))
        self.holds(COFRE_TOOL, image, self.content(QEMU_TOOL, image)[0])

    def test_corrupt_bit(self):
        """Reading works, as with qemu-img; writing is refused with the remedy."""
        image = self.patched(lambda p: p.set("incompatible", 2))
        self.gently_refused(cofre("io", "-c", "write 0 512", image.path), "bad.qcow2", "corrupt", ("check", "-r"))
        self.holds(COFRE_TOOL, image, self.content(QEMU_TOOL, image)[0])

    def test_extension_that_does_not_end(self):
        image = self.patched(lambda p: p.write(p.extension(0x6803f857) - 4, ">I", 0xfffffff0))
        self.cannot_be_read(image, "extension")

    def test_garbage_and_truncated_files(self):
        whole = self.read_file(self.good_image("whole.qcow2").path)
        for length in (0, 3, 4, 71, 72, 100, 103, 111, 4096, 65536, 65537, 196608, 262144):
            with self.subTest(length=length):
                image = Image(self.write_file("cut.qcow2", whole[:length]), "qcow2")
                self.survives(image)
                if length < 104:
                    self.cannot_be_read(image)

    def test_snapshots_tie_the_size_of_a_version_2_image(self):
        """Its snapshots do not note their own sizes. qemu-img refuses too."""
        image = self.create(QEMU_TOOL, Image(self.path("old.qcow2"), "qcow2"), MIB, "-o", "compat=0.10")
        self.ok(qemu_img("snapshot", "-c", "one", image.path))
        self.assertEqual(qemu_img("resize", image.path, "2M").code, 1)
        self.assertIn("1 snapshot(s)", self.io_fails(image, "truncate 2M"))
        self.assertEqual(self.ok(qemu_img("info", "--output=json", image.path)).json()["virtual-size"], MIB)

    def test_a_mapping_onto_the_snapshot_table_is_not_written_through(self):
        image = self.create(QEMU_TOOL, Image(self.path("aimed.qcow2"), "qcow2"), MIB)
        self.ok(run("qemu-io", "-c", "write -P 1 0 64k", image.path))
        self.ok(qemu_img("snapshot", "-c", "one", image.path))
        self.ok(run("qemu-io", "-c", "write -P 2 0 64k", image.path))
        with open(image.path, "r+b") as file:
            data = file.read()
            l1, snapshots = (int.from_bytes(data[at:at + 8], "big") for at in (40, 64))
            l2 = int.from_bytes(data[l1:l1 + 8], "big") & 0x00fffffffffffe00
            file.seek(l2)
            file.write((snapshots | 1 << 63).to_bytes(8, "big"))
            table = data[snapshots:snapshots + 65536]
        self.assertIn("metadata", self.io_fails(image, "write -P 9 0 64k"))
        with open(image.path, "rb") as file:
            file.seek(snapshots)
            self.assertEqual(file.read(65536), table)

    def test_truncated_image_is_found_by_check(self):
        image = self.good_image()
        os.truncate(image.path, os.stat(image.path).st_size - 3 * 65536)
        result = cofre("check", image.path)
        self.assertEqual(result.code, qemu_img("check", image.path).code, f"{result}")

    def test_random_damage(self):
        """Random bytes over the metadata, many times."""
        whole = bytearray(self.read_file(self.good_image("whole.qcow2", options="cluster_size=512").path))
        for _ in range(40):
            data = bytearray(whole)
            for _ in range(self.rng.choice([1, 3, 20])):
                at = self.rng.choice([self.rng.randrange(120), self.rng.randrange(8192)])
                data[at] = self.rng.choice([0, 0xff, self.rng.randrange(256)])
            with self.subTest(seed=self.rng.random()):
                self.survives(Image(self.write_file("hit.qcow2", data), "qcow2"))


class Tables(BadInputCase):

    def test_l2_table_behind_the_end(self):
        image = self.patched(lambda p: p.write(p.l1_entry(0), ">Q", COPIED | (1 << 45)))
        self.survives(image)

    def test_data_behind_the_end(self):
        """qemu-img reads zeros there; the bytes are lost, and cofre says so."""
        self.cannot_be_read(self.patched(lambda p: p.write(p.l2_entry(0), ">Q", COPIED | (1 << 45))), ("0x200000000000", str(1 << 45)))

    def test_unaligned_offsets(self):
        """Entries that are no multiple of a cluster: the message names where the entry points."""
        self.cannot_be_read(self.patched(lambda p: p.write(p.l1_entry(0), ">Q", COPIED | (0x40000 + 512))), ("0x40200", str(0x40200)))
        self.cannot_be_read(self.patched(lambda p: p.write(p.l2_entry(0), ">Q", COPIED | (p.data_cluster(0) + 512))),
                            ("0x50200", str(0x50200)))

    def test_l2_table_that_is_the_l1_table(self):
        self.survives(self.patched(lambda p: p.write(p.l1_entry(0), ">Q", COPIED | p.get("l1_offset"))))

    def test_writes_never_reach_metadata(self):
        """L2 entries that point at the L1 table, a refcount block, the L2 table itself: a write is refused,
        and the metadata is what it was."""
        targets = {"l1": lambda p: p.get("l1_offset"), "refcount table": lambda p: p.get("refcount_offset"),
                   "refcount block": lambda p: p.read(p.get("refcount_offset"), ">Q"),
                   "l2": lambda p: p.l2_entry(0) & ~0xffff}
        for name, where in targets.items():
            with self.subTest(target=name):
                offsets = []

                def change(patch):
                    offsets.append(where(patch))
                    patch.write(patch.l2_entry(0), ">Q", COPIED | offsets[0])
                image = self.patched(change)
                before = self.read_file(image.path)
                self.gently_refused(cofre("io", "-f", "qcow2", "-c", "write -P 0x5a 512 512", image.path))
                after = self.read_file(image.path)
                at = offsets[0] + 512
                self.same_bytes(after[at:at + 512], before[at:at + 512], f"metadata at {at:#x} overwritten ({name})")

    def test_allocation_never_takes_a_cluster_in_use(self):
        """A refcount that says 0 for the L1 table: the next allocation must not land on it."""
        image = self.patched(lambda p: p.write(p.refcount(p.get("l1_offset")), ">H", 0))
        before = self.read_file(image.path)
        cofre("io", "-c", "write -P 0x5a 2M 1M", image.path)
        with Patch(image.path) as patch:
            at = patch.get("l1_offset")
        self.same_bytes(self.read_file(image.path)[at:at + 8], before[at:at + 8], "the L1 table was overwritten")

    def test_compressed_cluster_of_garbage(self):
        image = self.patched(lambda p: p.write(p.l2_entry(0), ">Q", COMPRESSED | (1 << 54) | p.data_cluster(0)))
        self.cannot_be_read(image, ("compressed", "inflate", "decompress"))

    def test_compressed_cluster_behind_the_end(self):
        image = self.patched(lambda p: p.write(p.l2_entry(0), ">Q", COMPRESSED | (1 << 40)))
        self.cannot_be_read(image)

    def test_largest_tables_stay_within_memory(self):
        """An L1 table and a refcount table at their limits: allowed, and still in bounds."""
        def change(patch):
            at = patch.grow(512)  # 32 MiB of L1 table
            patch.set("l1_offset", at)
            patch.set("l1_size", 4 * MIB)
        self.survives(self.patched(change))

    def test_subcluster_both_set(self):
        """An extended L2 entry with a subcluster both allocated and zero is corrupt."""
        image = self.create(QEMU_TOOL, Image(self.path("sub.qcow2"), "qcow2"), 4 * MIB, options="extended_l2=on")
        self.io(QEMU_TOOL, image, "write -P 1 0 64k")
        with Patch(image.path) as patch:
            table = patch.read(patch.l1_entry(0), ">Q") & ((1 << 56) - 512)
            patch.write(table + 8, ">Q", (1 << 64) - 1)
        theirs = qemu_img("convert", "-O", "raw", image.path, self.path("t.raw"))
        self.assertNotEqual(theirs.code, 0, f"{theirs}")
        self.cannot_be_read(image)


class Backing(BadInputCase):

    def overlay(self, name, base, *args):
        path = self.path(name)
        self.ok(qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", base, "-F", "qcow2", path, "4M"))
        return Image(path, "qcow2")

    def test_missing(self):
        self.cannot_be_read(self.overlay("top.qcow2", self.path("nowhere.qcow2")), "nowhere.qcow2")

    def test_itself(self):
        self.cannot_be_read(self.overlay("self.qcow2", "self.qcow2"), ("loop", "itself", "cycle"))

    def test_loop_of_two(self):
        self.overlay("b.qcow2", "a.qcow2")
        self.cannot_be_read(self.overlay("a.qcow2", "b.qcow2"), ("loop", "itself", "cycle"))
        for args in (["info", "--backing-chain"], ["check"], ["map"], ["compare", self.path("b.qcow2")]):
            with self.subTest(command=args[0]):
                result = self.bounded(cofre(*args, self.path("a.qcow2"), timeout=QUICK_S))
                if args[0] != "check":
                    self.refused(result)

    def test_base_is_damaged(self):
        base = self.patched(lambda p: p.set("version", 9), name="base.qcow2")
        self.cannot_be_read(self.overlay("top.qcow2", base.path), "base.qcow2", "version")

    def test_name_is_no_device_or_url(self):
        """A backing name from an untrusted image opens no network connection."""
        for name in ("http://127.0.0.1:9/x", "nbd://127.0.0.1:9/x", "ssh://h/x"):
            with self.subTest(name=name):
                self.cannot_be_read(self.overlay("top.qcow2", name), ("unsupported", "not supported", "unknown", "protocol", "cannot open"))

    def test_long_chain_is_bounded(self):
        base = self.good_image("0.qcow2")
        for n in range(1, 60):
            self.overlay(f"{n}.qcow2", f"{n - 1}.qcow2")
        result = self.bounded(cofre("convert", "-O", "raw", self.path("59.qcow2"), self.path("out.raw"), timeout=QUICK_S))
        if result.code == 0:
            self.same_bytes(self.read_file(self.path("out.raw")), self.content(QEMU_TOOL, base)[0], result)
        else:
            self.refused(result, ("chain", "depth", "deep"))


class Secrets(BadInputCase):

    def test_wrong_passphrase(self):
        image = self.good_image(options=luks_options(), secret=self.secret())
        wrong = Image(image.path, "qcow2", self.secret("wrong", "wrong"))
        self.cannot_be_read(wrong, ("passphrase", "keyslot"))

    def test_wrong_passphrase_cannot_write(self):
        image = self.good_image(options=luks_options(), secret=self.secret())
        before = self.read_file(image.path)
        wrong = Image(image.path, "qcow2", self.secret("wrong", "wrong"))
        self.gently_refused(cofre("io", *wrong.args(), "-c", "write 0 512"), "bad.qcow2")
        self.same_bytes(self.read_file(image.path), before, "a wrong passphrase must not write")

    def test_encrypted_image_without_key(self):
        for options in (luks_options(), aes_options()):
            with self.subTest(options=options):
                image = self.good_image(options=options, secret=self.secret())
                self.cannot_be_read(Image(image.path, "qcow2"), ("passphrase", "secret"))

    def test_missing_secret_object(self):
        image = self.good_image(options=luks_options(), secret=self.secret())
        named = Image(image.path, "qcow2", extra="encrypt.key-secret=nosuch")
        self.gently_refused(cofre("convert", *named.args()[:-1], "-O", "raw", named.opts(), self.path("out.raw")), "nosuch", "--object")
        self.assertFalse(os.path.exists(self.path("out.raw")))

    def test_key_for_a_plain_image(self):
        image = self.good_image()
        named = Image(image.path, "qcow2", self.secret())
        theirs = qemu_img("check", *named.args())
        ours = cofre("check", *named.args())
        self.assertEqual(ours.code, theirs.code, f"{ours}{theirs}")

    def test_creating_without_a_key(self):
        for options in ("encrypt.format=luks", "encrypt.format=aes"):
            with self.subTest(options=options):
                path = self.path("new.qcow2")
                self.gently_refused(cofre("create", "-f", "qcow2", "-o", options, path, "1M"), "--passphrase-file")
                self.assertFalse(os.path.exists(path))

    def test_bad_ciphers(self):
        secret = self.secret()
        for settings in ({"cipher_alg": "rot13"}, {"cipher_mode": "ofb"}, {"ivgen_alg": "dice"}, {"hash_alg": "crc32"},
                         {"cipher_alg": "cast5-128", "cipher_mode": "xts"}):
            with self.subTest(settings=settings):
                path = self.path("new.qcow2")
                self.gently_refused(cofre("create", "--object", f"secret,id=s0,file={secret}", "-f", "qcow2", "-o",
                                          luks_options(**settings), path, "1M"), *list(settings.values())[-1:])
                self.assertFalse(os.path.exists(path))

    def test_damaged_luks_header(self):
        """Bytes of the LUKS header inside the image, one field at a time."""
        good = self.good_image(options=luks_options(), secret=self.secret())
        data = self.read_file(good.path)
        start = data.index(b"LUKS\xba\xbe")
        cases = {"magic": (0, b"LUKX"), "version": (6, b"\x00\x02"), "cipher": (8, b"rot13\0"), "mode": (40, b"xts-dice\0"),
                 "hash": (72, b"crc32\0\0\0"), "key length": (108, b"\x00\x00\x00\x00"), "huge key": (108, b"\xff\xff\xff\xff"),
                 "iterations": (164, b"\0\0\0\0"), "stripes": (208 + 44, b"\xff\xff\xff\xff"), "no stripes": (208 + 44, b"\0\0\0\0"),
                 "material offset": (208 + 40, b"\xff\xff\xff\xff"), "slot state": (208, b"\x12\x34\x56\x78"),
                 "slot iterations": (208 + 4, b"\0\0\0\0")}
        for name, (offset, content) in cases.items():
            with self.subTest(field=name):
                hit = bytearray(data)
                hit[start + offset:start + offset + len(content)] = content
                self.cannot_be_read(Image(self.write_file("hit.qcow2", hit), "qcow2", good.secret))

    def test_luks_extension_out_of_the_file(self):
        good = self.good_image(options=luks_options(), secret=self.secret())
        for offset, length in ((1 << 50, 4096), (512, 4096), (0x30000, 1 << 50), (0x30000, 16)):
            with self.subTest(offset=offset, length=length):
                shutil.copyfile(good.path, self.path("hit.qcow2"))
                with Patch(self.path("hit.qcow2")) as patch:
                    at = patch.extension(0x0537be77)
                    patch.write(at, ">Q", offset)
                    patch.write(at + 8, ">Q", length)
                self.cannot_be_read(Image(self.path("hit.qcow2"), "qcow2", good.secret))

    def test_absurd_key_length(self):
        """A key of two thousand million bytes: refused before anything of that size is made."""
        good = self.good_image(options=luks_options(), secret=self.secret())
        data = bytearray(self.read_file(good.path))
        start = data.index(b"LUKS\xba\xbe")
        data[start + 108:start + 112] = b"\x7f\xff\xff\xff"
        self.cannot_be_read(Image(self.write_file("huge-key.qcow2", data), "qcow2", good.secret))


class Targets(BadInputCase):

    def setUp(self):
        super().setUp()
        self.disk = self.rng.randbytes(4 * MIB)
        self.source = self.write_file("source.raw", self.disk)

    def test_target_is_the_source(self):
        image = self.good_image()
        before = self.read_file(image.path)
        os.link(image.path, self.path("hard.qcow2"))
        os.symlink(image.path, self.path("soft.qcow2"))
        for name in ("bad.qcow2", "hard.qcow2", "soft.qcow2", "./bad.qcow2"):
            for format in ("raw", "qcow2"):
                for more in ([], ["-n"], ["-U"]):
                    with self.subTest(target=name, format=format, more=more):
                        self.gently_refused(cofre("convert", *more, "-f", "qcow2", "-O", format, image.path, name, cwd=self.dir))
                        self.same_bytes(self.read_file(image.path), before, "source = target must not be touched")

    def test_target_is_the_sources_backing_file(self):
        base = self.good_image("base.qcow2")
        before = self.read_file(base.path)
        self.ok(qemu_img("create", "-q", "-f", "qcow2", "-b", base.path, "-F", "qcow2", self.path("top.qcow2")))
        self.gently_refused(cofre("convert", "-O", "qcow2", self.path("top.qcow2"), base.path), "base.qcow2")
        self.same_bytes(self.read_file(base.path), before, "a backing file of the source must not be touched")

    def test_data_file_of_the_target_is_a_file_in_use(self):
        """The source, also when -U lets go of its locks; the backing file; the image itself."""
        os.link(self.source, self.path("hard.raw"))
        for data in (self.source, "hard.raw"):
            for more in ([], ["-U"]):
                with self.subTest(data=data, more=more):
                    self.gently_refused(cofre("convert", *more, "-f", "raw", "-O", "qcow2", "-o", f"data_file={data}",
                                              self.source, "out.qcow2", cwd=self.dir))
        for what, args in (("backing file", ["-b", self.source, "-F", "raw", "out.qcow2"]), ("itself", ["hard.raw", "4M"])):
            with self.subTest(data=what):
                self.gently_refused(cofre("create", "-f", "qcow2", "-o", f"data_file={self.source}", *args, cwd=self.dir),
                                    "data file", code=1)
        for command in (["create", "-f", "qcow2", "-o", "data_file=x.qcow2", "x.qcow2", "4M"],
                        ["convert", "-O", "qcow2", "-o", "data_file=x.qcow2", self.source, "x.qcow2"]):
            with self.subTest(command=command[0]):
                self.gently_refused(cofre(*command, cwd=self.dir), "x.qcow2", "data file", code=1)
        self.same_bytes(self.read_file(self.source), self.disk, "a file in use must not be touched")
        self.assertEqual(sorted(os.listdir(self.dir)), ["hard.raw", "source.raw"])

    def test_missing_source(self):
        for args in (("convert", "-O", "raw", "nowhere", "out.raw"), ("info", "nowhere"), ("map", "nowhere")):
            with self.subTest(command=args[0]):
                self.gently_refused(cofre(*args, cwd=self.dir), "nowhere", code=1)
        self.assertFalse(os.path.exists(self.path("out.raw")))

    def test_missing_source_leaves_an_existing_target(self):
        target = self.write_file("precious", b"precious")
        self.gently_refused(cofre("convert", "-O", "qcow2", self.path("nowhere"), target), "nowhere")
        self.assertEqual(self.read_file(target), b"precious")

    def test_damaged_source_leaves_an_existing_target(self):
        """The fault comes late, at the last cluster: the old target is still there."""
        image = self.patched(lambda p: p.write(p.l2_entry(0x100000), ">Q", COPIED | (p.data_cluster(0x100000) + 512)))
        target = self.write_file("precious.qcow2", b"precious" * 1000)
        self.gently_refused(cofre("convert", "-O", "qcow2", image.path, target), "bad.qcow2")
        self.assertEqual(self.read_file(target), b"precious" * 1000)
        self.assertEqual(sorted(os.listdir(self.dir)), ["bad.qcow2", "precious.qcow2", "source.raw"])

    def test_target_folder_missing(self):
        self.gently_refused(cofre("convert", "-O", "qcow2", self.source, self.path("no/such/folder/x.qcow2")), "folder/x.qcow2")

    def test_target_is_a_folder(self):
        os.mkdir(self.path("folder"))
        self.gently_refused(cofre("convert", "-O", "qcow2", self.source, self.path("folder")), "folder")
        self.assertTrue(os.path.isdir(self.path("folder")))

    def test_source_is_a_folder(self):
        self.gently_refused(cofre("convert", "-O", "qcow2", self.dir, self.path("out.qcow2")), os.path.basename(self.dir))
        self.assertFalse(os.path.exists(self.path("out.qcow2")))

    def full_disk(self, *args):
        """cofre with files limited to 1 MiB each, as if the disk were full there (EFBIG instead of ENOSPC)."""
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 * MIB, 1 * MIB))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        return cofre(*args, preexec=limit)

    def test_full_disk_leaves_no_half_target(self):
        secret = self.secret()
        for name, args in {"qcow2": ["-O", "qcow2"], "raw": ["-O", "raw", "-S", "0"],
                           "luks": ["--object", f"secret,id=s0,file={secret}", "-O", "qcow2", "-o", luks_options()],
                           "preallocated": ["-O", "qcow2", "-o", "preallocation=full"]}.items():
            with self.subTest(target=name):
                before = sorted(os.listdir(self.dir))
                result = self.full_disk("convert", "-f", "raw", *args, self.source, self.path("full.img"))
                self.gently_refused(result, "full.img")
                self.assertEqual(sorted(os.listdir(self.dir)), before, f"nothing may be left{result}")

    def test_full_disk_leaves_an_existing_target(self):
        target = self.write_file("precious.qcow2", b"precious" * 1000)
        self.gently_refused(self.full_disk("convert", "-f", "raw", "-O", "qcow2", self.source, target), "precious.qcow2")
        self.assertEqual(self.read_file(target), b"precious" * 1000)

    def test_full_disk_with_n_leaves_the_target_an_image(self):
        """With -n the target is written in place, so it stays, and is sound."""
        target = self.create(QEMU_TOOL, Image(self.path("t.qcow2"), "qcow2"), 4 * MIB)
        self.gently_refused(self.full_disk("convert", "-n", "-f", "raw", "-O", "qcow2", self.source, target.path), "t.qcow2")
        self.assertIn(qemu_img("check", target.path).code, (0, 3))

    def test_full_file_system(self):
        """A real one: a small tmpfs, where mounting is permitted; elsewhere /dev/full stands for it."""
        mount = self.path("small")
        os.mkdir(mount)
        if run("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", mount).code != 0:
            self.gently_refused(cofre("convert", "-n", "-f", "raw", "-O", "raw", self.source, "/dev/full"), "/dev/full")
            return
        self.addCleanup(run, "umount", mount)
        result = cofre("convert", "-f", "raw", "-O", "qcow2", self.source, os.path.join(mount, "full.qcow2"))
        self.gently_refused(result, "full.qcow2", ("space", "full"))
        self.assertEqual(os.listdir(mount), [], f"nothing may be left{result}")

    def test_killed_convert_leaves_the_existing_target(self):
        """SIGTERM in the middle: no half image under the target's name."""
        big = self.path("big.raw")
        with open(big, "wb") as file:
            for _ in range(64):
                file.write(self.rng.randbytes(4 * MIB))
        for existing in (False, True):
            with self.subTest(existing=existing):
                target = self.path("killed.qcow2")
                if existing:
                    self.write_file("killed.qcow2", b"precious")
                process = subprocess.Popen([COFRE, "convert", "-p", "-f", "raw", "-O", "qcow2", big, target],
                                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                process.stdout.read(1)      # the first sign of progress
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=QUICK_S)
                if process.returncode == 0:
                    self.ok(qemu_img("compare", big, target))
                elif existing:
                    self.assertEqual(self.read_file(target), b"precious")
                else:
                    self.assertFalse(os.path.exists(target))

    def test_bad_sizes(self):
        for size in ("-1", "abc", "9E", "16E", "1Z", "", "1M1", "0x10"):
            with self.subTest(size=size):
                theirs = qemu_img("create", "-f", "qcow2", self.path("t.qcow2"), size)
                ours = cofre("create", "-f", "qcow2", self.path("o.qcow2"), size)
                self.assertEqual(ours.code == 0, theirs.code == 0, f"{ours}{theirs}")
                if ours.code:
                    self.refused(ours)
                    self.assertFalse(os.path.exists(self.path("o.qcow2")), f"{ours}")

    def test_create_without_size_or_base(self):
        self.gently_refused(cofre("create", "-f", "qcow2", self.path("o.qcow2")), "size")
        self.assertFalse(os.path.exists(self.path("o.qcow2")))

    def test_create_over_a_missing_backing_file(self):
        self.gently_refused(cofre("create", "-f", "qcow2", "-b", self.path("nowhere"), "-F", "raw", self.path("o.qcow2")), "nowhere")
        self.assertFalse(os.path.exists(self.path("o.qcow2")))

    def test_create_failing_leaves_an_existing_file(self):
        target = self.write_file("precious.qcow2", b"precious" * 1000)
        self.gently_refused(cofre("create", "-f", "qcow2", "-o", "cluster_size=1000", target, "1M"), "cluster")
        self.assertEqual(self.read_file(target), b"precious" * 1000)

    def test_io_out_of_bounds(self):
        image = self.good_image()
        for command in ("write 4M 512", "read 4M 512", "write 4194303 2", "read -1 512", "write 0 -1", "read 0 5M",
                        "write 9223372036854775807 512", "nosuch 0 1", "write", "write 0", "write -P 256 0 512", "write -P x 0 512"):
            with self.subTest(command=command):
                theirs = QEMU_TOOL.io("-c", command, image.path)
                ours = COFRE_TOOL.io("-c", command, image.path)
                self.assertEqual(ours.code != 0, theirs.code != 0, f"{ours}{theirs}")
                self.assertGreaterEqual(ours.code, 0, f"{ours}")
        self.clean(QEMU_TOOL, image)

    def test_huge_image_costs_no_memory(self):
        path = self.path("huge.qcow2")
        self.bounded(self.ok(cofre("create", "-q", "-f", "qcow2", path, "60T")))
        for args in (("info", path), ("check", path), ("map", path), ("compare", path, path)):
            with self.subTest(command=args[0]):
                self.bounded(self.ok(cofre(*args, timeout=QUICK_S)))


if __name__ == "__main__":
    unittest.main(verbosity=2)
