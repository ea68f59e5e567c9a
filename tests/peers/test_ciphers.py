"""Every cipher, mode and IV generator of LUKS in qcow2, between cofre and qemu-img."""

import unittest

import matrix
from cofre_peers import COFRE_TOOL, LONG, QEMU_TOOL, PeerCase


class Ciphers(PeerCase):

    def test_qemu_reads_every_cipher_that_cofre_writes(self):
        matrix.run_cells(self, COFRE_TOOL, QEMU_TOOL, matrix.cipher_cells(self.rng, matrix.qemu_ciphers()))

    def test_cofre_reads_what_qemu_writes(self):
        ciphers = matrix.qemu_ciphers() if LONG else matrix.FEW_CIPHERS
        matrix.run_cells(self, QEMU_TOOL, COFRE_TOOL, matrix.cipher_cells(self.rng, ciphers))


if __name__ == "__main__":
    unittest.main(verbosity=2)
