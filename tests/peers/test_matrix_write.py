"""Images of every kind that cofre writes pass qemu-img check and read back identically through qemu-img and qemu-io."""

import os
import unittest

import matrix
from cofre_peers import COFRE_TOOL, QEMU_TOOL, Image, MIB, PeerCase, random_disk


class QemuReadsWhatCofreWrote(PeerCase):

    def test_geometry(self):
        matrix.run_cells(self, COFRE_TOOL, QEMU_TOOL, matrix.geometry_cells(self.rng))

    def test_preallocated_images(self):
        disk = random_disk(self.rng, 2 * MIB)
        source = self.write_file("source.raw", disk)
        for mode in ("metadata", "falloc", "full"):
            for encryption in ("none", "luks"):
                with self.subTest(preallocation=mode, encryption=encryption):
                    image = Image(self.path(f"{mode}-{encryption}.qcow2"), "qcow2",
                                  "" if encryption == "none" else self.secret())
                    options = matrix.Cell(encryption=encryption).options() + f",preallocation={mode}"
                    self.create(COFRE_TOOL, image, len(disk), options=options)
                    self.ok(COFRE_TOOL.img("convert", "-n", *image.object_args(), "--image-opts", "--target-image-opts",
                                           Image(source).opts(), image.opts()))
                    matrix.read_cell(self, QEMU_TOOL, image, disk)

    def test_external_data_file(self):
        for raw in ("on", "off"):
            with self.subTest(data_file_raw=raw):
                image = Image(self.path(f"meta-{raw}.qcow2"), "qcow2")
                data = self.path(f"data-{raw}")
                disk = bytearray(2 * MIB)
                self.create(COFRE_TOOL, image, len(disk), options=f"data_file={data},data_file_raw={raw}")
                self.io(COFRE_TOOL, image, *matrix.scattered_writes(self.rng, disk, 65536))
                matrix.read_cell(self, QEMU_TOOL, image, disk)
                if raw == "on":
                    self.same_bytes(self.read_file(data), disk, f"the data file {data} must be a raw image")

    def test_writes_into_an_image_that_qemu_made(self):
        for encryption in ("none", "aes", "luks"):
            for compat in ("0.10", "1.1"):
                with self.subTest(encryption=encryption, compat=compat):
                    cell = matrix.Cell(encryption=encryption, compat=compat, cluster_size=4096)
                    image, disk = matrix.write_cell(self, QEMU_TOOL, cell)
                    self.io(COFRE_TOOL, image, *matrix.scattered_writes(self.rng, disk, 4096, 40))
                    matrix.read_cell(self, QEMU_TOOL, image, disk)
                    self.io(QEMU_TOOL, image, *matrix.scattered_writes(self.rng, disk, 4096, 40))
                    matrix.read_cell(self, COFRE_TOOL, image, disk)
                os.unlink(image.path)

    def test_unknown_header_extension_is_kept(self):
        """An extension that nobody knows, put in by hand, is there after cofre wrote to the image."""
        image = self.create(QEMU_TOOL, Image(self.path("ext.qcow2"), "qcow2"), MIB)
        header = bytearray(self.read_file(image.path)[:65536])
        end = 112  # the header qemu-img writes; its extensions follow
        while header[end:end + 4] != b"\0\0\0\0":
            end += 8 + (int.from_bytes(header[end + 4:end + 8], "big") + 7) // 8 * 8
        header[end:end + 16] = b"\x12\x34\x56\x78" + (6).to_bytes(4, "big") + b"keepme\0\0"
        with open(image.path, "r+b") as file:
            file.write(header)
        self.io(COFRE_TOOL, image, "write -P 1 0 128k", "flush")
        self.assertIn(b"\x12\x34\x56\x78\0\0\0\x06keepme", self.read_file(image.path)[:65536])
        self.clean(QEMU_TOOL, image)

    def test_unknown_autoclear_bit_is_cleared_by_a_write_and_not_by_a_read(self):
        image = self.create(QEMU_TOOL, Image(self.path("auto.qcow2"), "qcow2"), MIB)
        with open(image.path, "r+b") as file:
            file.seek(88)
            file.write((1 << 40).to_bytes(8, "big"))
        self.ok(COFRE_TOOL.img("info", "-f", "qcow2", image.path))
        self.assertEqual(self.read_file(image.path)[88:96], (1 << 40).to_bytes(8, "big"))
        self.io(COFRE_TOOL, image, "write -P 1 0 64k")
        self.assertEqual(self.read_file(image.path)[88:96], bytes(8))
        self.clean(QEMU_TOOL, image)


if __name__ == "__main__":
    unittest.main(verbosity=2)
