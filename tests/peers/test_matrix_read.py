"""Images of every kind that qemu-img and qemu-io write read back identically through cofre."""

import unittest

import matrix
from cofre_peers import COFRE_TOOL, QEMU_TOOL, Image, MIB, PeerCase, random_disk


class ReadsWhatQemuWrote(PeerCase):

    def test_geometry(self):
        matrix.run_cells(self, QEMU_TOOL, COFRE_TOOL, matrix.geometry_cells(self.rng))

    def test_compressed_clusters(self):
        disk = bytearray(random_disk(self.rng, 3 * MIB + 512))
        for offset in range(0, len(disk), 8192):  # text, which compresses
            line = f"line {offset} of a file that compresses well\n".encode()
            disk[offset:offset + 4096] = (line * 200)[:4096]
        del disk[3 * MIB + 512:]
        source = self.write_file("source.raw", disk)
        for kind, cluster in (("zlib", 512), ("zlib", 4096), ("zlib", 65536), ("zlib", 2 * MIB),
                              ("zstd", 4096), ("zstd", 65536), ("zstd", 2 * MIB)):
            with self.subTest(compression=kind, cluster=cluster):
                image = Image(self.path(f"{kind}-{cluster}.qcow2"), "qcow2")
                self.ok(QEMU_TOOL.img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o",
                                      f"compression_type={kind},cluster_size={cluster}", source, image.path))
                matrix.read_cell(self, COFRE_TOOL, image, disk)

    def test_compressed_clusters_with_subclusters(self):
        disk = bytearray(b"subclusters and compression " * 100_000)[:2 * MIB]
        source = self.write_file("source.raw", disk)
        image = Image(self.path("c.qcow2"), "qcow2")
        self.ok(QEMU_TOOL.img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "extended_l2=on", source, image.path))
        matrix.read_cell(self, COFRE_TOOL, image, disk)

    def test_unencrypted_compressed_cluster_in_an_encrypted_image(self):
        """qemu-io's `write -c` leaves such clusters; they are read without decrypting."""
        image = Image(self.path("mixed.qcow2"), "qcow2", self.secret())
        self.create(QEMU_TOOL, image, 1 * MIB, options=matrix.Cell(encryption="luks").options())
        self.io(QEMU_TOOL, image, "write -P 7 0 256k", "write -c -P 9 512k 64k")
        disk = bytearray(MIB)
        disk[:256 * 1024] = b"\x07" * (256 * 1024)
        disk[512 * 1024:576 * 1024] = b"\x09" * (64 * 1024)
        self.holds(COFRE_TOOL, image, disk)

    def test_preallocated_images(self):
        disk = random_disk(self.rng, 2 * MIB)
        source = self.write_file("source.raw", disk)
        for mode in ("metadata", "falloc", "full"):
            for encryption in ("none", "luks"):
                with self.subTest(preallocation=mode, encryption=encryption):
                    image = Image(self.path(f"{mode}-{encryption}.qcow2"), "qcow2",
                                  "" if encryption == "none" else self.secret())
                    options = matrix.Cell(encryption=encryption).options() + f",preallocation={mode}"
                    self.create(QEMU_TOOL, image, len(disk), options=options)
                    self.ok(QEMU_TOOL.img("convert", "-n", *image.object_args(), "--image-opts", "--target-image-opts",
                                          Image(source).opts(), image.opts()))
                    matrix.read_cell(self, COFRE_TOOL, image, disk)

    def test_external_data_file(self):
        for raw in ("on", "off"):
            with self.subTest(data_file_raw=raw):
                image = Image(self.path(f"meta-{raw}.qcow2"), "qcow2")
                data = self.path(f"data-{raw}")
                disk = bytearray(2 * MIB)
                self.create(QEMU_TOOL, image, len(disk), options=f"data_file={data},data_file_raw={raw}")
                self.io(QEMU_TOOL, image, *matrix.scattered_writes(self.rng, disk, 65536))
                matrix.read_cell(self, COFRE_TOOL, image, disk)

    def test_images_with_internal_snapshots(self):
        image = Image(self.path("snap.qcow2"), "qcow2")
        disk = bytearray(2 * MIB)
        self.create(QEMU_TOOL, image, len(disk))
        for name in ("one", "two"):
            self.io(QEMU_TOOL, image, *matrix.scattered_writes(self.rng, disk, 65536))
            self.ok(QEMU_TOOL.img("snapshot", "-c", name, image.path))
        self.io(QEMU_TOOL, image, *matrix.scattered_writes(self.rng, disk, 65536))
        matrix.read_cell(self, COFRE_TOOL, image, disk)


if __name__ == "__main__":
    unittest.main(verbosity=2)
