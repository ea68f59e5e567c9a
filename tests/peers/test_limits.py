"""info --limits: what it tells of an NBD export is what nbdinfo sees of it, and of images what their headers make of them."""

import unittest

from cofre_peers import KIB, MIB, QEMU_TOOL, Image, PeerCase, cofre, luks_options, qemu_img, run
from serving import Server

ALWAYS = {"request-alignment", "max-iov", "min-mem-alignment", "opt-mem-alignment"}     # in QEMU's schema


class Limits(PeerCase):

    def limits(self, *args):
        info = self.ok(cofre("info", "--limits", "--output=json", *args)).json()
        self.assertLessEqual(ALWAYS, set(info["limits"]))
        return info["limits"]

    def test_only_when_asked_for(self):
        raw = self.write_file("r.raw", bytes(MIB))
        self.assertNotIn("limits", self.ok(cofre("info", "--output=json", raw)).json())
        self.assertNotIn("Block limits", self.ok(cofre("info", raw)).out)
        self.assertIn("Block limits:\n    request alignment: ", self.ok(cofre("info", "--limits", raw)).out)

    def test_clusters(self):
        for size in (4 * KIB, 64 * KIB, MIB):
            path = self.path("q.qcow2")
            self.ok(qemu_img("create", "-q", "-f", "qcow2", "-o", f"cluster_size={size}", path, "4M"))
            limits = self.limits(path)
            self.assertEqual((limits["discard-alignment"], limits["write-zeroes-alignment"]), (size, size))
            self.assertEqual(limits["opt-transfer"] % size, 0)

    def test_sectors_of_a_container(self):
        box = Image(self.path("box"), "luks", self.secret())
        self.create(QEMU_TOOL, box, MIB, options=luks_options(prefix=""))
        self.assertEqual(self.limits(box.path)["request-alignment"], 512)

    def test_an_export(self):
        socket = self.path("s")
        with Server(socket, "nbdkit", "-f", "-U", socket, "--filter=blocksize-policy", "memory", "16M", "blocksize-minimum=4k",
                    "blocksize-preferred=256k", "blocksize-maximum=1M"):
            told = self.ok(run("nbdinfo", "--json", f"nbd+unix:///?socket={socket}")).json()["exports"][0]
            limits = self.limits("-f", "raw", f"nbd:unix:{socket}")
        # A raw image takes sectors, whatever lies below it.
        self.assertEqual((limits["request-alignment"], told["block_size_minimum"]), (512, 4096))
        self.assertEqual(limits["opt-transfer"], told["block_size_preferred"])

    def test_the_whole_chain(self):
        base, top = self.path("base.qcow2"), self.path("top.qcow2")
        self.ok(qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", base, "1M"))
        self.ok(qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top))
        infos = self.ok(cofre("info", "--limits", "--backing-chain", "--output=json", top)).json()
        self.assertEqual([info["limits"]["discard-alignment"] for info in infos], [64 * KIB, 4 * KIB])


if __name__ == "__main__":
    unittest.main(verbosity=2)
