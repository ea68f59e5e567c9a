"""Programs we did not write: OpenSSL, qemu-img with GnuTLS's nettle, a guest; and cofre, kernel by kernel."""

import json
import os
import re
import shutil
import subprocess
import time
import unittest

from witnessing import COFRE, WitnessCase, forms_hit

OBJDUMP = shutil.which("llvm-objdump-19") or shutil.which("objdump")
SECRET = ("--object", "secret,id=s0,data=hunter2")
ROUNDS = re.compile(r"v?aes(?:enc|dec)(?:last)?$")


# A boot sector that reads its first 8 MiB again and again through the BIOS, 32 KiB at a time.
BOOT_SECTOR = bytes.fromhex(
    "fa31c08ed88ec08ed0bc007cfb88162d7cbe307c8a162d7cb442cd136683"
    "06387c40668126387cff3f0000ebe4006690100040000080000000000000").ljust(510, b"\0") + b"\x55\xaa"


def widths(module):
    return {width for instruction, _, width in forms_hit(module) if ROUNDS.match(instruction)}


def cpu_flags():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return set(next(line for line in file if line.startswith("flags")).split())


class Peers(WitnessCase):
    def setUp(self):
        super().setUp()
        self.image = self.path("plain.img")
        with open(self.image, "wb") as file:
            file.write(os.urandom(4 << 20))

    def library_used_by(self, report, *names):
        used = [m for m in report["modules"] if m["sites-hit"] and os.path.basename(m["path"]).startswith(names)]
        self.assertTrue(used, report)
        return used[0]

    def test_openssl(self):
        report, _ = self.watch("openssl", "speed", "-elapsed", "-seconds", "1", "-bytes", "16384", "-evp", "aes-256-xts")
        self.assertEqual(report["exit-code"], 0)
        self.assertIn("OpenSSL's", report["verdict"])
        module = self.module(report, "libcrypto")
        self.assertTrue(widths(module))
        self.assertTrue(all(i.startswith(("aesenc", "vaesenc", "aeskeygen", "vaeskeygen", "aesimc", "vaesimc"))
                            for i, _, _ in forms_hit(module)), "encrypting only")
        self.assertEqual(module["sites"], module["sites-watched"])

    def test_the_sites_are_those_that_a_disassembler_finds(self):
        report, _ = self.watch("openssl", "version")
        path = self.module(report, "libcrypto")["path"]
        listing = subprocess.run([OBJDUMP, "-d", "--no-show-raw-insn", path], capture_output=True, text=True, timeout=300,
                                 check=True).stdout
        found = len(re.findall(r"^\s*[0-9a-f]+:\s+v?aes(?:enc|dec|imc|keygenassist)", listing, re.M))
        self.assertGreater(found, 100)
        self.assertEqual(self.module(report, "libcrypto")["sites"], found)

    def watch_qemu_img(self, *args):
        """qemu-img times its key derivation, and on a busy machine gives up on that now and then."""
        for _ in range(8):
            report, _ = self.watch("qemu-img", *args)
            if report["exit-code"] == 0:
                return report
        return self.fail(f"qemu-img {args} keeps failing: {report}")

    def test_qemu_img_writes_aes_and_luks(self):
        for method, key in (("aes", "aes128"), ("luks", "aes256")):
            with self.subTest(method=method):
                target = self.path(method + ".qcow2")
                cheap = ",encrypt.iter-time=10" if method == "luks" else ""
                report = self.watch_qemu_img("convert", *SECRET, "-O", "qcow2", "-o",
                                             f"encrypt.format={method},encrypt.key-secret=s0{cheap}", self.image, target)
                module = self.library_used_by(report, "libnettle", "libgcrypt")
                self.assertIn("aesenc", {i.removeprefix("v") for i, _, _ in forms_hit(module)})
                if "nettle" in module["path"]:
                    self.assertTrue(all(key in f["name"] for f in module["functions"]), module)
                self.assert_same_as_plain(target)

    def test_qemu_img_reads_luks(self):
        source, target = self.path("from.qcow2"), self.path("to.img")
        subprocess.run([COFRE, "convert", *SECRET, "-O", "qcow2", "-o",
                        "encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10", self.image, source],
                       check=True, timeout=120)
        report = self.watch_qemu_img("convert", *SECRET, "--image-opts", "-O", "raw",
                                     f"driver=qcow2,file.filename={source},encrypt.key-secret=s0", target)
        module = self.library_used_by(report, "libnettle", "libgcrypt")
        self.assertIn("aesdec", {i.removeprefix("v") for i, _, _ in forms_hit(module)})
        with open(self.image, "rb") as plain, open(target, "rb") as copy:
            self.assertTrue(plain.read() == copy.read(), "the decrypted image differs")

    def assert_same_as_plain(self, target):
        """The witnessed program wrote what it should have."""
        compared = subprocess.run(["qemu-img", "compare", *SECRET, "--image-opts",
                                   f"driver=qcow2,file.filename={target},encrypt.key-secret=s0",
                                   f"driver=raw,file.filename={self.image}"], capture_output=True, text=True, timeout=120)
        self.assertEqual(compared.returncode, 0, compared)

    def test_qemu_img_creates_luks(self):
        report = self.watch_qemu_img("create", *SECRET, "-f", "luks", "-o", "key-secret=s0,iter-time=10",
                                     self.path("a.luks"), "1M")
        self.library_used_by(report, "libnettle", "libgcrypt")

    def start_guest(self):
        """QEMU that boots from a LUKS disk, and its monitor's way in and out."""
        source, disk = self.path("boot.img"), self.path("boot.luks")
        with open(source, "wb") as file:
            file.write(BOOT_SECTOR + os.urandom((16 << 20) - 512))
        subprocess.run([COFRE, "convert", *SECRET, "-O", "luks", "-o", "key-secret=s0,iter-time=10", source, disk], check=True,
                       timeout=120)
        guest = self.start("qemu-system-x86_64", "-M", "q35,accel=tcg", "-m", "64", "-display", "none", "-nodefaults",
                           *SECRET, "-drive", f"driver=luks,file.filename={disk},key-secret=s0,if=ide,id=d0", "-qmp",
                           "stdio", stdin=subprocess.PIPE)
        self.addCleanup(guest.stdin.close)
        guest.stdout.readline()
        self.ask(guest, "qmp_capabilities")
        return guest

    def ask(self, guest, command):
        guest.stdin.write(json.dumps({"execute": command}) + "\n")
        guest.stdin.flush()
        while True:
            answer = json.loads(guest.stdout.readline())
            if "event" not in answer:
                return answer["return"]

    def wait_for_reads(self, guest, count):
        """The guest reads so many times more."""
        def reads():
            return self.ask(guest, "query-blockstats")[0]["stats"]["rd_operations"]

        wanted = reads() + count
        while reads() < wanted:
            time.sleep(0.05)

    @unittest.skipUnless(shutil.which("qemu-system-x86_64"), "no qemu-system-x86_64")
    def test_a_guest_that_runs(self):
        guest = self.start_guest()
        self.wait_for_reads(guest, 20)
        report = self.watch_process(guest.pid, seconds=2)
        self.assertNotIn("exit-code", report)
        module = self.library_used_by(report, "libnettle", "libgcrypt")
        self.assertIn("aesdec", {i.removeprefix("v") for i, _, _ in forms_hit(module)})
        self.wait_for_reads(guest, 100)
        self.ask(guest, "quit")
        self.assertEqual(guest.wait(timeout=60), 0)

    def test_cofre_kernel_by_kernel(self):
        flags = cpu_flags()
        needs = {"portable": set(), "aesni": {"aes"}, "vaes256": {"vaes", "avx2"}, "vaes512": {"vaes", "avx512f"}}
        expected = {"portable": set(), "aesni": {128}, "vaes256": {256}, "vaes512": {512}}
        for kernel, need in needs.items():
            if not need <= flags:
                continue
            with self.subTest(kernel=kernel):
                target = self.path(kernel + ".qcow2")
                report, _ = self.watch(COFRE, "convert", *SECRET, "-O", "qcow2",
                                       "-o", "encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10", self.image,
                                       target, env={**os.environ, "COFRE_AES": kernel})
                self.assertEqual(report["exit-code"], 0)
                module = self.module(report, os.path.basename(COFRE))
                self.assertEqual(max(widths(module), default=None), max(expected[kernel], default=None), module)
                self.assert_same_as_plain(target)


if __name__ == "__main__":
    unittest.main()
