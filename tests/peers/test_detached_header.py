"""LUKS headers in files of their own. cryptsetup opens those that Cofre makes, and Cofre those of cryptsetup; that the payload
beside them is right is seen by qemu-img, from header and payload put together into one ordinary container."""

import os
import unittest

from cofre_peers import MIB, QEMU_TOOL, Image, PeerCase, cofre, cryptsetup, qemu_img, random_disk

PAYLOAD_SECTOR = 4040       # of an ordinary container with a 64-byte key
PAYLOAD_SECTOR_AT = 104     # in the header


class DetachedHeader(PeerCase):

    def setUp(self):
        super().setUp()
        self.key = self.secret()
        self.header = self.path("header.luks")
        self.payload = self.path("payload")
        self.disk = random_disk(self.rng, 3 * MIB + 512)
        self.source = self.write_file("source.raw", self.disk)
        self.objects = ["--object", f"secret,id=s0,file={self.key}"]
        self.opts = f"driver=luks,key-secret=s0,file.filename={self.payload},header.filename={self.header}"

    def make(self, *more):
        return self.ok(cofre("create", "-q", *self.objects, "-f", "luks", "-o",
                             "detached-header=true,key-secret=s0,iter-time=10", self.header, *more))

    def make_payload(self):
        self.write_file("payload", bytes(len(self.disk)))

    def convert_into(self):
        self.ok(cofre("convert", *self.objects, "-n", "-f", "raw", "--target-image-opts", self.source, self.opts))

    def joined(self):
        """An ordinary container of the two files."""
        header = bytearray(self.read_file(self.header)[:PAYLOAD_SECTOR * 512].ljust(PAYLOAD_SECTOR * 512, b"\0"))
        self.assertEqual(header[PAYLOAD_SECTOR_AT:PAYLOAD_SECTOR_AT + 4], bytes(4))
        header[PAYLOAD_SECTOR_AT:PAYLOAD_SECTOR_AT + 4] = PAYLOAD_SECTOR.to_bytes(4, "big")
        return Image(self.write_file("joined.luks", bytes(header) + self.read_file(self.payload)), "luks", self.key)

    def test_a_header_alone(self):
        for size in ((), ("1G",)):
            self.make(*size)
            self.assertEqual(os.path.getsize(self.header), PAYLOAD_SECTOR * 512)
        self.assertIn("Payload offset:\t0", self.ok(cryptsetup("luksDump", self.header)).out)
        self.make_payload()
        self.ok(cryptsetup("open", "--type", "luks1", "--test-passphrase", "--key-file", self.key, "--header", self.header,
                           self.payload))
        self.refused(cofre("convert", *self.objects, "--image-opts", f"driver=luks,key-secret=s0,file.filename={self.header}",
                           self.path("o")), "detached", "header.filename")

    def test_written_here(self):
        self.make()
        self.make_payload()
        before = self.read_file(self.header)
        self.convert_into()
        self.same_bytes(self.read_file(self.header), before, "the header must not change")
        self.assertEqual(os.path.getsize(self.payload), len(self.disk))
        self.holds(QEMU_TOOL, self.joined(), self.disk)
        self.ok(cofre("convert", *self.objects, "--image-opts", "-O", "raw", self.opts, self.path("back.raw")))
        self.same_bytes(self.read_file(self.path("back.raw")), self.disk, "there and back")
        self.ok(cofre("compare", *self.objects, "--image-opts", self.opts, f"driver=raw,file.filename={self.source}"))

    def test_written_by_qemu(self):
        """An ordinary container taken apart."""
        whole = Image(self.path("whole.luks"), "luks", self.key)
        self.ok(qemu_img("convert", *self.objects, "-f", "raw", "-O", "luks", "-o", "key-secret=s0,iter-time=10", self.source, whole.path))
        content = self.read_file(whole.path)
        header = bytearray(content[:PAYLOAD_SECTOR * 512])
        header[PAYLOAD_SECTOR_AT:PAYLOAD_SECTOR_AT + 4] = bytes(4)
        self.write_file("header.luks", header)
        self.write_file("payload", content[PAYLOAD_SECTOR * 512:])
        self.ok(cofre("compare", *self.objects, "--image-opts", self.opts, f"driver=raw,file.filename={self.source}"))
        # A copy of the header beside the whole: the offset counts in the payload's file.
        self.write_file("header.luks", content[:PAYLOAD_SECTOR * 512])
        self.write_file("payload", content)
        self.ok(cofre("compare", *self.objects, "--image-opts", self.opts, f"driver=raw,file.filename={self.source}"))

    def test_made_by_cryptsetup(self):
        self.make_payload()
        self.ok(cryptsetup("luksFormat", "--type", "luks1", "--iter-time", "10", "--key-file", self.key, "--header", self.header,
                           "--key-size", "512", "--hash", "sha256", self.payload))
        self.assertIn("Payload offset:\t0", self.ok(cryptsetup("luksDump", self.header)).out)
        self.convert_into()
        self.ok(cofre("compare", *self.objects, "--image-opts", self.opts, f"driver=raw,file.filename={self.source}"))

    def test_guest_writes(self):
        self.make()
        self.make_payload()
        self.convert_into()
        self.ok(cofre("io", *self.objects, "--image-opts", self.opts, "-c", "write -P 7 1M 64k", "-c", "flush", "-c", "read -P 7 1M 64k"))
        expected = bytearray(self.disk)
        expected[MIB:MIB + 65536] = b"\7" * 65536
        self.holds(QEMU_TOOL, self.joined(), expected)

    def test_info(self):
        self.make()
        self.make_payload()
        info = self.ok(cofre("info", "--output=json", "--image-opts", self.opts)).json()
        self.assertEqual((info["format"], info["virtual-size"]), ("luks", len(self.disk)))
        self.assertTrue(info["format-specific"]["data"]["detached-header"])
        self.assertIn(f'"filename": "{self.header}"', info["filename"])
        self.assertIn("detached header: true", self.ok(cofre("info", "--image-opts", self.opts)).out)

    def test_passphrases_are_the_header_s(self):
        self.make()
        self.make_payload()
        self.convert_into()
        payload = self.read_file(self.payload)
        new = self.write_file("new", "another one")
        self.ok(cofre("amend", *self.objects, "--object", f"secret,id=s1,file={new}", "--image-opts", "-o",
                      "state=active,new-secret=s1,iter-time=10", self.opts))
        self.same_bytes(self.read_file(self.payload), payload, "the payload must not change")
        for key in (self.key, new):
            self.ok(cryptsetup("open", "--type", "luks1", "--test-passphrase", "--key-file", key, "--header", self.header, self.payload))

    def test_refusals(self):
        self.make()
        self.make_payload()
        header = self.read_file(self.header)
        wrong = self.write_file("wrong", "wrong")
        for args, word in ((["--object", f"secret,id=s0,file={wrong}", "--image-opts", self.opts], "passphrase"),
                           ([*self.objects, "--image-opts", self.opts.replace("header.luks", "nowhere")], "nowhere"),
                           ([*self.objects, "--image-opts", self.opts + ",header.nosuch=1"], "nosuch"),
                           ([*self.objects, "--image-opts", self.opts.replace("header.luks", "source.raw")], "LUKS")):
            with self.subTest(args=args):
                self.refused(cofre("convert", *args, self.path("o")), word)
                self.assertFalse(os.path.exists(self.path("o")))
        self.refused(cofre("convert", *self.objects, "--image-opts", self.opts, self.header), "LUKS header")
        self.refused(cofre("convert", *self.objects, "-f", "raw", "-O", "luks", "-o", "detached-header=on,key-secret=s0", self.source,
                           self.path("o")), "-n")
        self.same_bytes(self.read_file(self.header), header, "refused")


if __name__ == "__main__":
    unittest.main(verbosity=2)
