"""LUKS1 containers between cofre, cryptsetup and qemu-img."""

import re
import shutil
import unittest

from cofre_peers import (COFRE_TOOL, LONG, MIB, QEMU_TOOL, Image, PeerCase, cofre, cryptsetup, luks_options,
                         random_disk)

PBKDF = ["--pbkdf-force-iterations", "1000"]    # the fewest cryptsetup takes
SIZE = 1 * MIB


class LuksCase(PeerCase):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if not shutil.which("cryptsetup"):
            raise AssertionError("cryptsetup not found: apt-get install cryptsetup-bin (./test does it)")

    def opens(self, container, secret, code=0):
        return self.ok(cryptsetup("open", "--test-passphrase", "--key-file", secret, container), code)

    def dump(self, container):
        """What luksDump prints, as a dictionary of its `name: value` lines."""
        result = self.ok(cryptsetup("luksDump", container))
        return dict(re.findall(r"^([A-Za-z0-9 ]+?):\s+(\S.*)$", result.out, re.M)), result

    def our_container(self, content, **settings):
        source = self.write_file("source.raw", content)
        image = Image(self.path("ours.luks"), "luks", self.secret())
        self.ok(cofre("convert", *image.object_args(), "-f", "raw", "-O", "luks",
                      "-o", luks_options(prefix="", **settings), source, image.path))
        return image

    def their_container(self, *settings):
        image = Image(self.path("theirs.luks"), "luks", self.secret())
        with open(image.path, "wb") as file:
            file.truncate(6 * MIB)
        self.ok(cryptsetup("luksFormat", "--type", "luks1", *PBKDF, *settings, image.path, image.secret))
        return image


class CryptsetupOpensOurs(LuksCase):

    CIPHERS = [("aes-256", "xts", "plain64", 512), ("aes-128", "xts", "plain64", 256), ("aes-128", "cbc", "essiv", 128),
               ("aes-192", "cbc", "essiv", 192), ("aes-256", "cbc", "plain64", 256), ("aes-256", "cbc", "plain", 256),
               ("aes-192", "cbc", "plain64", 192), ("aes-256", "ctr", "plain64", 256), ("aes-256", "xts", "essiv", 512)]

    def test_ciphers(self):
        content = random_disk(self.rng, SIZE)
        for alg, mode, ivgen, key_bits in self.CIPHERS:
            with self.subTest(cipher=alg, mode=mode, ivgen=ivgen):
                settings = {"ivgen_hash_alg": "sha256"} if ivgen == "essiv" else {}
                image = self.our_container(content, cipher_alg=alg, cipher_mode=mode, ivgen_alg=ivgen, **settings)
                said, result = self.dump(image.path)
                self.assertEqual(said["Version"], "1", f"{result}")
                self.assertEqual(said["Cipher name"], "aes", f"{result}")
                self.assertTrue(said["Cipher mode"].startswith(mode), f"{result}")
                self.assertEqual(said["MK bits"], str(key_bits), f"{result}")
                self.opens(image.path, image.secret)
                self.opens(image.path, self.secret("not it", "wrong"), code=2)
                self.holds(COFRE_TOOL, image, content)

    def test_hashes(self):
        content = random_disk(self.rng, SIZE)
        for hash_alg in ("sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160"):
            with self.subTest(hash=hash_alg):
                image = self.our_container(content, hash_alg=hash_alg)
                said, result = self.dump(image.path)
                self.assertEqual(said["Hash spec"], hash_alg, f"{result}")
                self.opens(image.path, image.secret)
                self.holds(QEMU_TOOL, image, content)

    def test_default_header(self):
        """The defaults and the layout that qemu-img and cryptsetup have, to the sector."""
        image = self.our_container(random_disk(self.rng, SIZE))
        said, result = self.dump(image.path)
        self.assertEqual(said["Cipher mode"], "xts-plain64", f"{result}")
        self.assertEqual(said["Hash spec"], "sha256", f"{result}")
        self.assertEqual(said["MK bits"], "512", f"{result}")
        self.assertEqual(said["Payload offset"], "4040", f"{result}")
        self.assertEqual(said["Key Slot 0"], "ENABLED", f"{result}")
        self.assertEqual([said[f"Key Slot {n}"] for n in range(1, 8)], ["DISABLED"] * 7, f"{result}")
        self.assertGreaterEqual(int(said["MK iterations"]), 1000, f"{result}")

    def test_two_containers_share_nothing(self):
        """Same passphrase and content: other salts, other key, other identifier, other bytes."""
        content = bytes(SIZE)
        first = self.our_container(content)
        one, _ = self.dump(first.path)
        one_bytes = self.read_file(first.path)
        second = self.our_container(content)
        two, result = self.dump(second.path)
        for field in ("UUID", "MK digest", "MK salt"):
            self.assertNotEqual(one[field], two[field], f"{field}{result}")
        payload = 4040 * 512
        self.assertNotEqual(one_bytes[payload:payload + 4096], self.read_file(second.path)[payload:payload + 4096])

    def test_iteration_time_is_honoured_without_a_fault(self):
        """QEMU's calibration fails now and then; ours never does, and more time gives more iterations."""
        counts = {}
        for iter_time in (10, 200):
            for _ in range(4):
                image = Image(self.path("it.luks"), "luks", self.secret())
                self.ok(cofre("create", "-q", *image.object_args(), "-f", "luks", "-o",
                              f"key-secret=s0,iter-time={iter_time}", image.path, "1M"))
                said, result = self.dump(image.path)
                counts[iter_time] = int(re.search(r"Iterations:\s+(\d+)", result.out).group(1))
        self.assertGreater(counts[200], counts[10])

    def test_cryptsetup_adds_a_key_to_ours(self):
        content = random_disk(self.rng, SIZE)
        image = self.our_container(content)
        more = self.secret("a second passphrase", "second")
        self.ok(cryptsetup("luksAddKey", *PBKDF, "--key-file", image.secret, image.path, more))
        self.holds(COFRE_TOOL, Image(image.path, "luks", more), content)
        self.holds(COFRE_TOOL, image, content)

    def test_luks_header_inside_qcow2_is_the_same_luks(self):
        """The header taken out of a qcow2 image is a LUKS container's header."""
        image = Image(self.path("in.qcow2"), "qcow2", self.secret())
        self.create(COFRE_TOOL, image, SIZE, options=luks_options())
        data = self.read_file(image.path)
        start = data.index(b"LUKS\xba\xbe")
        header = self.write_file("header.luks", data[start:start + 4040 * 512] + bytes(SIZE))
        self.opens(header, image.secret)


class OursOpensCryptsetups(LuksCase):

    CIPHERS = [("aes-xts-plain64", 256), ("aes-xts-plain64", 512), ("aes-xts-plain", 512), ("aes-xts-essiv:sha256", 512),
               ("aes-cbc-essiv:sha256", 128), ("aes-cbc-essiv:sha256", 192), ("aes-cbc-essiv:sha256", 256),
               ("aes-cbc-plain", 256), ("aes-cbc-plain64", 192), ("aes-ctr-plain64", 256)]

    def test_ciphers(self):
        """cryptsetup cannot move payload without the kernel's device-mapper, so qemu-img judges the bytes; it aborts on
        192-bit keys outside XTS, where cofre's own reading back and the opened keyslot are what is left."""
        for cipher, bits in self.CIPHERS:
            with self.subTest(cipher=cipher, bits=bits):
                image = self.their_container("--cipher", cipher, "--key-size", str(bits))
                peer = COFRE_TOOL if bits == 192 else QEMU_TOOL
                start, _ = self.content(COFRE_TOOL, image)
                self.holds(peer, image, start)
                self.io(COFRE_TOOL, image, "write -P 0x42 0 64k", "write -P 0x43 1000001 77")
                self.io(peer, image, "read -P 0x42 0 64k", "read -P 0x43 1000001 77")
                self.io(peer, image, "write -P 0x44 512k 64k")
                self.io(COFRE_TOOL, image, "read -P 0x44 512k 64k")
                self.opens(image.path, image.secret)

    def test_hashes(self):
        for hash_alg in ("sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160"):
            with self.subTest(hash=hash_alg):
                image = self.their_container("--hash", hash_alg)
                start, _ = self.content(COFRE_TOOL, image)
                self.holds(QEMU_TOOL, image, start)

    def test_all_eight_key_slots(self):
        image = self.their_container()
        expected, _ = self.content(QEMU_TOOL, image)
        slots = {0: image.secret}
        for slot in range(1, 8):
            slots[slot] = self.secret(f"passphrase of slot {slot}", f"slot{slot}")
            self.ok(cryptsetup("luksAddKey", *PBKDF, "--key-slot", slot, "--key-file", image.secret, image.path, slots[slot]))
        for slot, secret in slots.items():
            with self.subTest(slot=slot):
                self.holds(COFRE_TOOL, Image(image.path, "luks", secret), expected)
        self.ok(cryptsetup("luksKillSlot", "--key-file", slots[7], image.path, "0"))
        self.refused(cofre("convert", *image.object_args(), "--image-opts", "-O", "raw", image.opts(),
                           self.path("out.raw")), ("passphrase", "key"))
        self.holds(COFRE_TOOL, Image(image.path, "luks", slots[5]), expected)

    def test_payload_alignment_of_others(self):
        image = self.their_container("--align-payload", "8192")
        self.io(COFRE_TOOL, image, "write -P 0x42 0 4096")
        self.io(QEMU_TOOL, image, "read -P 0x42 0 4096")

    def test_long_and_foreign_passphrases(self):
        for name, text in (("long", "p" * 512), ("utf8", "cofré ✓ 金庫"), ("newline", "ends with a newline\n")):
            with self.subTest(passphrase=name):
                image = Image(self.path(f"{name}.luks"), "luks", self.secret(text, name))
                self.create(COFRE_TOOL, image, SIZE, options=luks_options(prefix=""))
                self.opens(image.path, image.secret)

    def test_binary_passphrase(self):
        """--passphrase-file takes the file's bytes as they are, as cryptsetup's --key-file does."""
        secret = self.write_file("binary", bytes(range(1, 256)))
        path = self.path("binary.luks")
        self.ok(cofre("create", "-q", "--passphrase-file", secret, "-f", "luks", "-o", "iter-time=10", path, SIZE))
        self.opens(path, secret)

    def test_luks2_is_refused_by_name(self):
        path = self.write_file("v2.luks", bytes(20 * MIB))
        secret = self.secret()
        self.ok(cryptsetup("luksFormat", "--type", "luks2", "--pbkdf", "pbkdf2", *PBKDF, path, secret))
        image = Image(path, "luks", secret)
        self.refused(cofre("convert", *image.object_args(), "--image-opts", "-O", "raw", image.opts(),
                           self.path("out.raw")), path, ("LUKS2", "version 2"))


class BothWaysWithQemu(LuksCase):

    def test_qemu_opens_ours(self):
        content = random_disk(self.rng, SIZE + 512)
        for alg, mode, ivgen in [("aes-256", "xts", "plain64"), ("serpent-256", "xts", "plain64"),
                                 ("twofish-192", "xts", "plain"), ("cast5-128", "cbc", "plain64"), ("serpent-128", "cbc", "essiv")]:
            with self.subTest(cipher=alg, mode=mode, ivgen=ivgen):
                settings = {"ivgen_hash_alg": "sha256"} if ivgen == "essiv" else {}
                image = self.our_container(content, cipher_alg=alg, cipher_mode=mode, ivgen_alg=ivgen, **settings)
                self.holds(QEMU_TOOL, image, content)

    def test_we_open_qemus(self):
        content = random_disk(self.rng, SIZE + 512)
        source = self.write_file("source.raw", content)
        ciphers = ["aes-256", "serpent-256", "twofish-256"] if LONG else ["aes-256", "twofish-256"]
        for alg in ciphers:
            with self.subTest(cipher=alg):
                image = Image(self.path(f"{alg}.luks"), "luks", self.secret())
                self.ok(QEMU_TOOL.img("convert", *image.object_args(), "-f", "raw", "-O", "luks", "-o",
                                      luks_options(prefix="", cipher_alg=alg), source, image.path))
                self.holds(COFRE_TOOL, image, content)

    def test_container_probed_by_its_magic(self):
        image = self.our_container(random_disk(self.rng, SIZE))
        ours = self.ok(cofre("info", "--output=json", image.path)).json()
        self.assertEqual(ours["format"], "luks")


class Passphrases(LuksCase):

    def test_wrong_passphrase(self):
        image = self.our_container(random_disk(self.rng, SIZE))
        wrong = Image(image.path, "luks", self.secret("wrong", "wrong"))
        out = self.path("out.raw")
        self.refused(cofre("convert", *wrong.object_args(), "--image-opts", "-O", "raw", wrong.opts(), out),
                     image.path, ("passphrase", "keyslot"))

    def test_passphrase_never_shows_in_messages(self):
        image = self.our_container(random_disk(self.rng, SIZE))
        text = "sesame-open-1234567"
        wrong = Image(image.path, "luks", self.secret(text, "wrong"))
        result = self.refused(cofre("map", *wrong.args()))
        self.assertNotIn(text, result.err + result.out)


if __name__ == "__main__":
    unittest.main(verbosity=2)
