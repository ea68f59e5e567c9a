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

    def audited(self, code, *args, opts=None):
        return self.ok(cofre("audit", "--output=json", *args, "--image-opts", opts or self.opts), code).json()

    def plant(self, path, offset, content):
        with open(path, "r+b") as file:
            file.seek(offset)
            file.write(content)

    def test_audit(self):
        """Of the header's file what is not keys, of the payload's what is not cipher text."""
        text = b"Dear diary, nobody but me will ever read what stands here. " * 8
        self.make("3M")
        self.write_file("payload", bytes(3 * MIB))
        self.ok(cofre("io", *self.objects, "--image-opts", self.opts, "-c", "write -P 0x61 0 3M"))
        clean = self.audited(0)
        self.assertEqual((clean["findings"], clean["bytes-examined"]), ([], 3 * MIB + PAYLOAD_SECTOR * 512))
        header, payload = self.read_file(self.header), self.read_file(self.payload)

        self.plant(self.payload, MIB, text)
        [finding] = self.audited(2)["findings"]
        self.assertEqual((finding["kind"], finding["file"], finding["offset"]), ("plain-data", self.payload, MIB))
        self.write_file("payload", payload)

        material = 512 * int.from_bytes(header[208 + 48 * 3 + 40:208 + 48 * 4 - 4], "big")
        self.plant(self.header, 208 + 48 * 3 + 4, (1000).to_bytes(4, "big") + b"secret salt")
        self.plant(self.header, material, self.rng.randbytes(64 * 4000))
        self.plant(self.header, 3000, text)                             # before the first keyslot's material
        self.plant(self.header, len(header) - len(text), text)          # behind the last one's
        findings = self.audited(2)["findings"]
        self.assertEqual({f["kind"] for f in findings}, {"keyslot-not-erased", "plain-key-area"}, findings)
        self.assertEqual({f["file"] for f in findings}, {self.header}, findings)
        result = self.audited(0, "--fix")
        self.assertEqual((result["findings"], result["fixed"]["keyslots-wiped"]), ([], 1))
        self.assertFalse(b"nobody but me" in self.read_file(self.header), "plain text is left")
        self.same_bytes(self.read_file(self.payload), payload, "the payload must not change")
        after = self.read_file(self.header)
        self.same_bytes(after[:592], header[:592], "the header is as it was")
        self.same_bytes(after[4096:4096 + 64 * 4000], header[4096:4096 + 64 * 4000], "the keyslot in use must not change")
        self.ok(cryptsetup("open", "--type", "luks1", "--test-passphrase", "--key-file", self.key, "--header", self.header, self.payload))
        self.ok(cofre("io", *self.objects, "--image-opts", self.opts, "-c", "read -P 0x61 0 3M"))

    def test_audit_of_a_header_beside_the_whole(self):
        """Where the header says that the payload is further on: what is behind there is not the header's."""
        whole = self.path("whole.luks")
        self.ok(cofre("convert", "-q", *self.objects, "-f", "raw", "-O", "luks", "-o", "key-secret=s0,iter-time=10", self.source, whole))
        content = self.read_file(whole)
        copy = self.write_file("header.luks", content)
        opts = f"driver=luks,key-secret=s0,file.filename={whole},header.filename={copy}"
        report = self.audited(0, opts=opts)
        self.assertEqual(report["bytes-examined"], len(content) + PAYLOAD_SECTOR * 512)
        self.plant(copy, 2048, b"a" * 512)
        self.assertEqual([f["file"] for f in self.audited(2, opts=opts)["findings"]], [copy])
        self.audited(0, "--fix", opts=opts)
        self.same_bytes(self.read_file(copy), content, "wiped")
        self.same_bytes(self.read_file(whole), content, "the image must not change")

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
