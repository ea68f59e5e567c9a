"""Images of other programs as sources: vmdk, vdi, vhdx and vpc of every subformat, made by qemu-img or by hand, read by cofre."""

import os
import struct
import unittest

from cofre_peers import (GIB, KIB, MIB, Image, PeerCase, cofre, first_difference, luks_options, qemu_img, qemu_io, random_disk)

# (format, options of qemu-img create)
KINDS = [("vmdk", "subformat=monolithicSparse"), ("vmdk", "subformat=monolithicFlat"), ("vmdk", "subformat=twoGbMaxExtentSparse"),
         ("vmdk", "subformat=twoGbMaxExtentFlat"), ("vmdk", "subformat=streamOptimized"), ("vmdk", "zeroed_grain=on"),
         ("vmdk", "compat6=on"), ("vmdk", "adapter_type=lsilogic"), ("vdi", ""), ("vhdx", "subformat=dynamic"),
         ("vhdx", "subformat=fixed"), ("vhdx", "block_size=1M"), ("vhdx", "block_size=64M,block_state_zero=off"),
         ("vpc", "subformat=dynamic"), ("vpc", "subformat=fixed"), ("vpc", "subformat=dynamic,force_size=on"),
         ("vpc", "subformat=fixed,force_size=on")]

# One of each way of storing.
SOME_KINDS = [("vmdk", "subformat=monolithicSparse"), ("vmdk", "subformat=twoGbMaxExtentFlat"), ("vmdk", "subformat=streamOptimized"),
              ("vdi", ""), ("vhdx", "subformat=dynamic"), ("vpc", "subformat=dynamic"), ("vpc", "subformat=fixed,force_size=on")]

SECTOR = 512


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >> 8)
    return crc ^ 0xffffffff


def crc_entry(value):
    for _ in range(8):
        value = (value >> 1) ^ (0x82f63b78 if value & 1 else 0)
    return value


CRC_TABLE = [crc_entry(value) for value in range(256)]


class ImportCase(PeerCase):

    def make(self, kind, disk, name="import"):
        """The image that qemu-img makes of a disk."""
        format, options = kind
        raw = self.write_file("disk.raw", disk)
        image = Image(self.path(f"{name}.{format}"), format)
        self.ok(qemu_img("convert", "-f", "raw", "-O", format, *(["-o", options] if options else []), raw, image.path))
        os.unlink(raw)
        return image

    def content(self, image, tool=cofre):
        """The disk that a tool reads in the image."""
        out = self.path("content.raw")
        self.ok(tool("convert", "-O", "raw", *image.args(), out))
        content = self.read_file(out)
        os.unlink(out)
        return content

    def same_content(self, image):
        ours, theirs = self.content(image), self.content(image, qemu_img)
        self.assertEqual(first_difference(ours, theirs), -1, f"{image}")
        return ours

    def same_answer(self, *args, as_json=False):
        theirs, ours = qemu_img(*args), cofre(*args)
        self.assertEqual(ours.code, theirs.code, f"{ours}{theirs}")
        if as_json:
            self.assertEqual(ours.json(), theirs.json(), f"{ours}{theirs}")
        else:
            self.assertEqual(ours.out, theirs.out, f"{ours}{theirs}")

    def patched(self, image, *changes):
        """Writes (offset, bytes) into the image's file."""
        with open(image.path, "r+b") as file:
            for offset, data in changes:
                file.seek(offset)
                file.write(data)
        return image

    def descriptor(self, create_type, *extents, cid="12345678", parent="ffffffff", more=""):
        lines = ["# Disk DescriptorFile", "version=1", f"CID={cid}", f"parentCID={parent}", f'createType="{create_type}"', "", more,
                 "# Extent description", *extents, ""]
        return Image(self.write_file("import.vmdk", "\n".join(lines)), "vmdk")


class EveryKind(ImportCase):

    def test_content_map_and_info_are_what_qemu_img_says(self):
        for kind in KINDS:
            size = self.rng.choice((3 * MIB + 5 * SECTOR, 17 * MIB))
            with self.subTest(kind=kind, size=size):
                image = self.make(kind, random_disk(self.rng, size))
                self.same_content(image)
                self.same_answer("info", image.path)
                self.same_answer("info", "--image-opts", image.opts())
                self.same_answer("info", "-f", image.format, "--output=json", image.path, as_json=True)
                if image.format != "vhdx":
                    self.same_answer("map", "-f", image.format, image.path)
                    self.same_answer("map", "-f", image.format, "--output=json", image.path, as_json=True)
                self.empty_scratch()

    def test_maps_of_vhdx_know_more_and_are_true(self):
        """QEMU calls all of a vhdx data without an offset. Here unallocated blocks are zero, others have their offset."""
        for options in ("subformat=dynamic", "block_size=1M", "subformat=fixed,block_size=2M"):
            with self.subTest(options=options):
                disk = random_disk(self.rng, 9 * MIB) + bytes(8 * MIB) + self.rng.randbytes(MIB)
                image = self.make(("vhdx", options), disk)
                file = self.read_file(image.path)
                end = 0
                for extent in self.ok(cofre("map", "--output=json", image.path)).json():
                    self.assertEqual(extent["start"], end)
                    end += extent["length"]
                    if extent["zero"]:
                        self.assertEqual(disk[extent["start"]:end].count(0), extent["length"], f"{extent}")
                    else:
                        at = extent["offset"]
                        self.assertEqual(disk[extent["start"]:end], file[at:at + extent["length"]], f"{extent}")
                self.assertEqual(end, len(disk))
                self.empty_scratch()

    def test_zeros_are_not_read_as_data(self):
        image = self.make(("vhdx", "block_size=1M"), bytes(20 * MIB) + self.rng.randbytes(MIB))
        extents = self.ok(cofre("map", "--output=json", image.path)).json()
        self.assertEqual([extent["zero"] for extent in extents], [True, False], f"{extents}")

    def test_empty_and_large_disks(self):
        for kind, size in ((("vmdk", "subformat=monolithicSparse"), "3T"), (("vmdk", "subformat=twoGbMaxExtentSparse"), "9G"),
                           (("vmdk", "subformat=twoGbMaxExtentFlat"), "5G"), (("vdi", ""), "2T"), (("vpc", ""), "1T"),
                           (("vpc", "force_size=on"), "1000G"), (("vhdx", ""), "50T")):
            with self.subTest(kind=kind, size=size):
                format, options = kind
                image = self.path(f"empty.{format}")
                self.ok(qemu_img("create", "-q", "-f", format, *(["-o", options] if options else []), image, size))
                end = 4 * GIB
                if "G" in size:
                    self.ok(qemu_io("-f", format, "-c", f"write -P 5 {end - MIB} 2M", image))
                self.same_answer("info", "--output=json", image, as_json=True)
                if format != "vhdx":
                    self.same_answer("map", "--output=json", image, as_json=True)
                else:
                    self.bounded(self.ok(cofre("map", "--output=json", image)), 100 * MIB)
                self.empty_scratch()

    def test_written_at_random_by_qemu_io(self):
        for kind in KINDS:
            if "streamOptimized" in kind[1]:
                continue  # written once, from start to end
            with self.subTest(kind=kind):
                format, options = kind
                image = Image(self.path(f"import.{format}"), format)
                self.ok(qemu_img("create", "-q", "-f", format, *(["-o", options] if options else []), image.path, "40M"))
                commands = []
                for _ in range(25):
                    length = self.rng.randrange(1, 400) * SECTOR
                    offset = self.rng.randrange(0, 40 * MIB - length) // SECTOR * SECTOR
                    zero = self.rng.random() < 0.2
                    commands += ["-c", f"write {'-z' if zero else f'-P {self.rng.randrange(1, 256)}'} {offset} {length}"]
                self.ok(qemu_io("-f", format, *commands, image.path))
                self.same_content(image)
                if format != "vhdx":
                    self.same_answer("map", "-f", format, "--output=json", image.path, as_json=True)
                self.empty_scratch()

    def test_other_commands_take_them(self):
        disk = bytearray(random_disk(self.rng, 4 * MIB))
        disk[MIB:MIB + 64 * KIB] = b"\x5a" * 64 * KIB
        for kind in SOME_KINDS:
            with self.subTest(kind=kind):
                image = self.make(kind, disk)
                raw = self.path("same.raw")
                self.ok(qemu_img("convert", "-O", "raw", *image.args(), raw))
                self.ok(cofre("compare", "-f", "raw", "-F", image.format, raw, image.path))
                io = self.ok(cofre("io", "-r", "-f", image.format, "-c", f"read -P 0x5a {MIB + 1} 5000", image.path))
                self.assertIn("read 5000/5000", io.out, f"{io}")
                over = self.path("over.qcow2")
                self.ok(qemu_img("create", "-q", "-f", "qcow2", "-b", image.path, "-F", image.format, over))
                self.ok(qemu_io("-f", "qcow2", "-c", "write -P 7 64k 64k", over))
                self.ok(cofre("compare", "-f", "qcow2", over, over))
                self.same_content(Image(over, "qcow2"))
                self.empty_scratch()

    def test_encrypted_on_import(self):
        secret = self.secret()
        for kind in SOME_KINDS:
            with self.subTest(kind=kind):
                source = self.make(kind, random_disk(self.rng, 6 * MIB))
                target = Image(self.path("safe.qcow2"), "qcow2", secret)
                self.ok(cofre("convert", "-f", source.format, "-O", "qcow2", *target.object_args(), "-o", luks_options(), source.path,
                              target.path))
                self.ok(qemu_img("compare", *target.object_args(), "--image-opts", source.opts(), target.opts()))
                os.unlink(source.path)
                os.unlink(target.path)

    def test_past_the_hosts_cache(self):
        for kind in (("vmdk", "subformat=streamOptimized"), ("vdi", ""), ("vpc", "")):
            with self.subTest(kind=kind):
                image = self.make(kind, random_disk(self.rng, 5 * MIB + SECTOR))
                out = self.path("direct.raw")
                self.ok(cofre("convert", "-T", "none", "-O", "raw", *image.args(), out))
                self.assertEqual(first_difference(self.read_file(out), self.content(image)), -1)


class OnlyRead(ImportCase):

    def test_none_is_made(self):
        source = self.write_file("source.raw", bytes(MIB))
        for format in ("vmdk", "vdi", "vhdx", "vpc"):
            target = self.path(f"new.{format}")
            with self.subTest(format=format):
                self.refused(cofre("create", "-f", format, target, "1M"), "only reads", format)
                self.refused(cofre("convert", "-O", format, source, target), "only reads", format)
                self.refused(cofre("create", "-f", format, "-o", "help"), "only reads", format)
                self.assertFalse(os.path.exists(target))

    def test_none_is_written(self):
        source = self.write_file("source.raw", b"\x77" * MIB)
        for kind in SOME_KINDS:
            with self.subTest(kind=kind):
                image = self.make(kind, random_disk(self.rng, MIB))
                before = self.read_file(image.path)
                self.refused(cofre("convert", "-n", "-O", image.format, source, image.path), "only reads")
                self.refused(cofre("io", "-f", image.format, "-c", "write 0 512", image.path), "only reads")
                self.refused(cofre("io", "-r", "-f", image.format, "-c", "write 0 512", image.path))
                self.assertEqual(self.read_file(image.path), before)

    def test_checks_are_refused_as_for_raw(self):
        image = self.make(("vdi", ""), bytes(MIB))
        self.refused(cofre("check", image.path), "does not support checks", code=63)


class Truncated(ImportCase):

    def test_files_cut_anywhere_are_refused(self):
        """A cut within what belongs to the disk is an error, never zeros."""
        for kind in KINDS:
            self.empty_scratch()
            with self.subTest(kind=kind):
                image = self.make(kind, self.rng.randbytes(3 * MIB))
                # The extent's file, where the content is in another one.
                parts = [name for name in os.listdir(self.dir) if name.startswith("import")]
                path = max((self.path(name) for name in parts), key=os.path.getsize)
                whole = self.read_file(path)
                content = self.content(image)
                out = self.path("out.raw")
                last = self.ok(cofre("map", "--output=json", *image.args())).json()[-1]
                most = (last["offset"] + last["length"] if "offset" in last else len(whole)) // 2
                for cut in [0, self.rng.randrange(512), 512, self.rng.randrange(most), most]:
                    with open(path, "wb") as file:
                        file.write(whole[:cut])
                    result = cofre("convert", "-f", image.format, "-O", "raw", image.path, out)
                    self.refused(result)
                    self.assertFalse(os.path.exists(out))
                with open(path, "wb") as file:
                    file.write(whole)
                self.assertEqual(self.content(image), content)


class Vmdk(ImportCase):

    def test_flat_extents_at_offsets_and_zero_extents(self):
        data = self.rng.randbytes(2 * MIB)
        self.write_file("a.bin", data)
        image = self.descriptor("twoGbMaxExtentFlat", 'RW 1000 FLAT "a.bin" 100', 'RW 24 FLAT "a.bin" 0')
        self.assertEqual(self.same_content(image), data[100 * SECTOR:1100 * SECTOR] + data[:24 * SECTOR])
        self.same_answer("map", "--output=json", image.path, as_json=True)
        image = self.descriptor("twoGbMaxExtentFlat", 'RW 8 FLAT "a.bin" 1', "RW 8 ZERO", 'RDONLY 8 FLAT "a.bin" 9')
        self.assertEqual(self.content(image), data[SECTOR:9 * SECTOR] + bytes(8 * SECTOR) + data[9 * SECTOR:17 * SECTOR])

    def test_names_with_odd_characters_are_of_the_folder(self):
        data = self.rng.randbytes(8 * SECTOR)
        for name in ("nbd:x", "file:a", "a b", "json:{}", "..a"):
            with self.subTest(name=name):
                self.write_file(name, data)
                image = self.descriptor("monolithicFlat", f'RW 8 FLAT "{name}" 0')
                self.assertEqual(self.content(image), data)

    def test_vmfs(self):
        disk = random_disk(self.rng, MIB)
        self.write_file("a-flat.vmdk", disk)
        image = self.descriptor("vmfs", 'RW 2048 VMFS "a-flat.vmdk"')
        self.assertEqual(self.same_content(image), disk)
        self.same_answer("info", image.path)

    def test_esx_sparse(self):
        grain, grains = 64 * KIB, 100
        parts = {n: self.rng.randbytes(grain) for n in self.rng.sample(range(grains), 30)}
        tables_at, data_at = 8, 64  # sectors
        entries = [0] * 4096
        for place, number in enumerate(parts):
            entries[number] = data_at + place * grain // SECTOR
        header = struct.pack("<4sIIIIIII", b"COWD", 1, 3, grains * grain // SECTOR, grain // SECTOR, 4, 1, data_at)
        file = bytearray(data_at * SECTOR)
        file[:len(header)] = header
        file[4 * SECTOR:4 * SECTOR + 4] = struct.pack("<I", tables_at)
        file[tables_at * SECTOR:tables_at * SECTOR + 4 * 4096] = struct.pack("<4096I", *entries)
        self.write_file("esx.vmdk", bytes(file) + b"".join(parts.values()))
        image = self.descriptor("vmfsSparse", f'RW {grains * grain // SECTOR} VMFSSPARSE "esx.vmdk"')
        expected = b"".join(parts.get(n, bytes(grain)) for n in range(grains))
        self.assertEqual(self.same_content(image), expected)
        self.same_answer("map", "--output=json", image.path, as_json=True)
        self.same_answer("info", "--output=json", image.path, as_json=True)
        self.refused(cofre("info", self.path("esx.vmdk")), "descriptor")

    def test_stream_with_its_directory_at_the_end(self):
        """As VMware writes them: the header does not know where the directory is, the footer does."""
        image = self.make(("vmdk", "subformat=streamOptimized"), random_disk(self.rng, 7 * MIB))
        expected = self.content(image)
        file = bytearray(self.read_file(image.path))
        file += bytes(-len(file) % SECTOR)
        marker = struct.pack("<QII", 1, 0, 3).ljust(SECTOR, b"\0")
        footer = bytes(file[:SECTOR])
        file[56:64] = b"\xff" * 8
        whole = bytes(file) + marker + footer + bytes(SECTOR)
        self.write_file("import.vmdk", whole)
        self.assertEqual(self.same_content(image), expected)
        for end in (SECTOR, 2 * SECTOR, 3 * SECTOR, 3 * SECTOR + 1):
            self.write_file("import.vmdk", whole[:-end])
            self.refused(cofre("info", image.path), ("footer", "truncated"))

    def test_damaged_compressed_grain(self):
        image = self.make(("vmdk", "subformat=streamOptimized"), self.rng.randbytes(MIB))
        self.patched(image, (os.path.getsize(image.path) - 40_000, self.rng.randbytes(64)))
        self.refused(cofre("convert", "-O", "raw", image.path, self.path("out.raw")), "damaged")

    def test_images_cannot_reach_out(self):
        outside = os.path.join(os.path.dirname(self.dir), os.path.basename(self.dir) + "-outside")
        with open(outside, "wb") as file:
            file.write(bytes(MIB))
        self.addCleanup(os.unlink, outside)
        os.mkdir(self.path("sub"))
        self.write_file("sub/a.bin", bytes(MIB))
        for name in (outside, "/etc/passwd", "../" + os.path.basename(outside), "sub/a.bin", "./sub/../a.bin", "..", "sub\\a.bin"):
            with self.subTest(name=name):
                image = self.descriptor("monolithicFlat", f'RW 1 FLAT "{name}" 0')
                self.refused(cofre("info", image.path), "own folder")

    def test_parents_are_refused(self):
        base = self.path("base.vmdk")
        self.ok(qemu_img("create", "-q", "-f", "vmdk", base, "1M"))
        over = self.path("over.vmdk")
        self.ok(qemu_img("create", "-q", "-f", "vmdk", "-b", base, "-F", "vmdk", over))
        for command in (("info",), ("map",)):
            self.refused(cofre(*command, over), "parent")

    def test_other_extents_are_refused(self):
        self.write_file("a.bin", bytes(MIB))
        for line, word in (('RW 8 SESPARSE "a.bin"', "SESPARSE"), ('NOACCESS 8 FLAT "a.bin" 0', "accessed"), ('RW 0 FLAT "a.bin" 0', "cannot be"),
                           ('RW 8 FLAT "a.bin"', "cannot be"), ('RW 8 FLAT "a.bin" -8', "cannot be"), ("RW 8 FLAT a.bin 0", "cannot be"),
                           ('RW 99999999999999999999 FLAT "a.bin" 0', "cannot be"), ('RW 4096 FLAT "a.bin" 0', "truncated"),
                           ('RW 8 FLAT "nowhere" 0', "nowhere"), ('RW 8 SPARSE "a.bin"', "signature"), ("", "no extents")):
            with self.subTest(line=line):
                self.refused(cofre("info", self.descriptor("custom", line).path), word)

    def test_very_many_extents_are_refused(self):
        image = self.descriptor("twoGbMaxExtentFlat", *['RW 8 FLAT "a.bin" 0'] * 5000)
        self.bounded(self.refused(cofre("info", image.path), "extents"))


class Vdi(ImportCase):

    def test_static(self):
        image = self.make(("vdi", ""), self.rng.randbytes(3 * MIB))
        self.patched(image, (0x4c, struct.pack("<I", 2)))
        self.same_content(image)
        self.same_answer("map", "--output=json", image.path, as_json=True)
        self.same_answer("info", "--output=json", image.path, as_json=True)

    def test_discarded_blocks_are_zero(self):
        image = self.make(("vdi", ""), self.rng.randbytes(3 * MIB))
        table = struct.unpack("<I", self.read_file(image.path)[0x154:0x158])[0]
        self.patched(image, (table + 4, struct.pack("<I", 0xfffffffe)))
        content = self.same_content(image)
        self.assertEqual(content[MIB:2 * MIB], bytes(MIB))

    def test_refused(self):
        for offset, data, word in ((0x44, struct.pack("<I", 0x10002), "version"), (0x4c, struct.pack("<I", 4), "parent"),
                                   (0x1a8, b"\1" * 16, "parent"), (0x168, struct.pack("<I", 4096), "sectors"),
                                   (0x154, struct.pack("<I", 513), "sector"), (0x178, struct.pack("<I", 12345), "blocks"),
                                   (0x170, struct.pack("<Q", 1 << 63), "disk"), (0x180, struct.pack("<I", 1), "too few"),
                                   (0x180, struct.pack("<I", 0xffffffff), "truncated")):
            with self.subTest(word=word, offset=offset):
                image = self.patched(self.make(("vdi", ""), self.rng.randbytes(3 * MIB)), (offset, data))
                self.refused(cofre("info", "-f", "vdi", image.path), word)


class Vhdx(ImportCase):

    LOG_GUID = bytes(range(1, 17))

    def with_log(self, image, with_entry):
        """Both headers name a log; with an entry that changes nothing but is there to be replayed."""
        file = bytearray(self.read_file(image.path))
        for at in (64 * KIB, 128 * KIB):
            file[at + 48:at + 64] = self.LOG_GUID
            file[at + 4:at + 8] = bytes(4)
            file[at + 4:at + 8] = struct.pack("<I", crc32c(file[at:at + 4096]))
        if with_entry:
            log, = struct.unpack("<Q", file[64 * KIB + 72:64 * KIB + 80])
            entry = bytearray(4096)
            struct.pack_into("<4sIIIQII16sQQ", entry, 0, b"loge", 0, 4096, 0, 1, 0, 0, self.LOG_GUID, len(file), len(file))
            entry[4:8] = struct.pack("<I", crc32c(entry))
            file[log:log + 4096] = entry
        self.write_file(os.path.basename(image.path), file)
        return image

    def test_a_dirty_log_is_refused_until_it_is_replayed(self):
        image = self.with_log(self.make(("vhdx", ""), random_disk(self.rng, 3 * MIB)), True)
        self.refused(qemu_img("convert", "-O", "raw", image.path, self.path("x.raw")), "log")
        self.refused(cofre("info", image.path), "not closed cleanly", "qemu-img check -r all")
        self.ok(qemu_img("check", "-r", "all", image.path))
        self.same_content(image)

    def test_an_empty_log_is_none(self):
        image = self.with_log(self.make(("vhdx", ""), random_disk(self.rng, 3 * MIB)), False)
        self.same_content(image)

    def test_either_header_and_region_table_may_be_damaged_but_not_both(self):
        for first, second, word in ((64 * KIB, 128 * KIB, "headers"), (192 * KIB, 256 * KIB, "region tables")):
            with self.subTest(what=word):
                image = self.make(("vhdx", ""), random_disk(self.rng, MIB))
                before = self.content(image)
                whole = self.read_file(image.path)
                for at in (first, second):
                    self.write_file(os.path.basename(image.path), whole)
                    self.patched(image, (at + 100, b"\xee"))
                    self.assertEqual(self.content(image), before)
                self.patched(image, (first + 100, b"\xee"))
                self.refused(cofre("info", image.path), word, "CRC-32C")

    def test_states_of_blocks(self):
        image = self.make(("vhdx", "block_size=1M"), self.rng.randbytes(9 * MIB))
        table = self.bat(image)
        for block, state in enumerate((0, 1, 2, 3, 5)):
            self.patched(image, (table + 8 * block, struct.pack("<Q", (4 << 20) | state)))
        content = self.same_content(image)
        self.assertEqual(content[:5 * MIB], bytes(5 * MIB))
        for state in (4, 7):
            self.patched(image, (table, struct.pack("<Q", (4 << 20) | state)))
            self.refused(cofre("convert", "-O", "raw", image.path, self.path("x.raw")), f"state {state}")

    def bat(self, image):
        file = self.read_file(image.path)
        for entry in range(2):
            at = 192 * KIB + 16 + 32 * entry
            if file[at:at + 4] == bytes.fromhex("6677c22d"):
                return struct.unpack("<Q", file[at + 16:at + 24])[0]
        self.fail("no block allocation table")

    def test_disks_of_many_chunks(self):
        """The entries of sector bitmaps stand between those of blocks."""
        image = Image(self.path("import.vhdx"), "vhdx")
        self.ok(qemu_img("create", "-q", "-f", "vhdx", "-o", "block_size=1M", image.path, "20G"))
        places = [4095 * MIB, 4096 * MIB, 4097 * MIB, 12 * GIB + 4095 * MIB, 20 * GIB - MIB]
        self.ok(qemu_io("-f", "vhdx", *(part for i, at in enumerate(places) for part in ("-c", f"write -P {i + 1} {at} 1M")), image.path))
        reads = [part for i, at in enumerate(places) for part in ("-c", f"read -P {i + 1} {at} 1M")]
        result = self.ok(cofre("io", "-r", "-f", "vhdx", *reads, image.path))
        self.assertNotIn("Pattern", result.out, f"{result}")
        extents = self.ok(cofre("map", "--output=json", image.path)).json()
        data = sum(extent["length"] for extent in extents if not extent["zero"])
        self.assertEqual(data, len(places) * MIB, f"{extents}")


class Vpc(ImportCase):

    def patched_footers(self, image, at, data):
        """Changes the footer at the end and, in a dynamic image, its copy at the start; with right checksums."""
        file = bytearray(self.read_file(image.path))
        for start in (0, len(file) - SECTOR):
            if file[start:start + 8] != b"conectix":
                continue
            file[start + at:start + at + len(data)] = data
            file[start + 64:start + 68] = bytes(4)
            file[start + 64:start + 68] = struct.pack(">I", ~sum(file[start:start + SECTOR]) & 0xffffffff)
        self.write_file(os.path.basename(image.path), file)

    def test_the_creator_decides_about_the_size(self):
        for options in ("subformat=dynamic", "subformat=fixed", "subformat=dynamic,force_size=on"):
            for creator in (b"vpc ", b"qemu", b"qem2", b"win ", b"d2v ", b"tap\0", b"CTXS", b"vbox", b"\xff\0\xff\0"):
                with self.subTest(options=options, creator=creator):
                    image = self.make(("vpc", options), random_disk(self.rng, 3 * MIB + 7 * SECTOR))
                    self.patched_footers(image, 48, struct.pack(">Q", 3 * MIB + 7 * SECTOR))
                    self.patched_footers(image, 28, creator)
                    self.same_answer("info", "-f", "vpc", "--output=json", image.path, as_json=True)
                    self.same_content(image)

    def test_azure_means_the_size_in_bytes(self):
        """QEMU 7.2 takes the geometry's, and so cuts such disks short."""
        disk = random_disk(self.rng, 3 * MIB + 7 * SECTOR)
        image = self.make(("vpc", ""), disk)
        self.patched_footers(image, 48, struct.pack(">Q", len(disk)))
        self.patched_footers(image, 28, b"wa\0\0")
        self.assertEqual(self.content(image), disk)

    def test_the_size_can_be_forced(self):
        for options in ("", "force_size=on"):
            image = self.make(("vpc", options), random_disk(self.rng, 3 * MIB + 7 * SECTOR))
            self.patched_footers(image, 48, struct.pack(">Q", 3 * MIB + 7 * SECTOR))
            for how in ("current_size", "chs"):
                for creator in (b"qem2", b"vpc "):
                    with self.subTest(options=options, how=how, creator=creator):
                        self.patched_footers(image, 28, creator)
                        opts = f"driver=vpc,file.filename={image.path},force_size_calc={how}"
                        theirs, ours = (self.ok(tool("info", "--image-opts", "--output=json", opts)).json() for tool in (qemu_img, cofre))
                        theirs.pop("filename")  # QEMU's tells the option
                        ours.pop("filename")
                        self.assertEqual(ours, theirs)
        self.refused(cofre("info", "--image-opts", f"driver=vpc,file.filename={image.path},force_size_calc=x"), "force_size_calc")

    def test_the_largest_geometry_stands_for_larger_disks(self):
        image = self.path("large.vpc")
        self.ok(qemu_img("create", "-q", "-f", "vpc", "-o", "force_size=on", image, "1500G"))
        self.patched_footers(Image(image, "vpc"), 28, b"vpc ")
        self.same_answer("info", "--output=json", image, as_json=True)

    def test_refused(self):
        for at, data, word in ((60, struct.pack(">I", 4), "parent"), (60, struct.pack(">I", 9), "type"),
                               (48, struct.pack(">Q", 1 << 50), "larger"), (48, struct.pack(">Q", 1 << 40), "too few"),
                               (16, struct.pack(">Q", 1 << 62), "truncated"), (16, struct.pack(">Q", 0), "dynamic disk header")):
            with self.subTest(word=word):
                image = self.make(("vpc", "force_size=on"), random_disk(self.rng, MIB))
                self.patched_footers(image, at, data)
                self.refused(cofre("info", image.path), word)

    def test_wrong_checksums_are_refused(self):
        for at in (70, SECTOR + 40):
            image = self.patched(self.make(("vpc", ""), random_disk(self.rng, MIB)), (at, b"\x99"))
            self.refused(cofre("info", image.path), "checksum")


if __name__ == "__main__":
    unittest.main(verbosity=2)
