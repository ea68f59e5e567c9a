"""cofre doctor on hosts that forbid something, and on images that qemu-img, qemu-io and cryptsetup made."""

import ctypes
import errno
import os
import resource
import shlex
import struct
import unittest

from cofre_peers import COFRE, COFRE_TOOL, MIB, SANITIZED, Image, aes_options, cofre, cryptsetup, luks_options, qemu_img, qemu_io, run
from doctor import FAILED, DoctorCase
from qcow2_patch import FIELDS, Patch

PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 22, 24, 38
CAP_IPC_LOCK = 14
X86_64, IO_URING_SETUP = 0xC000003E, 425


def forbid_io_uring():
    """A seccomp filter as containers have it: io_uring_setup fails with EPERM."""
    load, equal, give = 0x20, 0x15, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000 | errno.EPERM
    program = [(load, 0, 0, 4), (equal, 0, 3, X86_64), (load, 0, 0, 0), (equal, 0, 1, IO_URING_SETUP),
               (give, 0, 0, refuse), (give, 0, 0, allow)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    filter_program = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, 2, filter_program, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def forbid_locking():
    """No locked memory, for root neither."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0)


class Host(DoctorCase):
    def test_measured_on_this_host(self):
        host = self.doctor(quick=False)["host"]
        self.assertIn("aes-speed", self.ids(host))
        libraries = [s["by"] for s in host["speeds"] if s["library"]]
        self.assertRegex(" ".join(libraries), r"^OpenSSL 3\S* libgcrypt 1\S*$")
        for speed in host["speeds"]:
            self.assertTrue(all(value > 0 for key, value in speed.items() if key.endswith("per-second")), speed)
        self.assertEqual([s["in-use"] for s in host["speeds"] if s["by"] == host["aes-kernel"]["name"]], [True])

    def test_features_are_those_of_proc_cpuinfo(self):
        with open("/proc/cpuinfo", encoding="ascii") as file:
            flags = next(line for line in file if line.startswith("flags")).split()
        usable = self.doctor()["host"]["cpu"]["usable"]
        self.assertEqual({name for name, there in usable.items() if there}, set(usable) & set(flags))

    def test_forced_kernels(self):
        best = self.doctor(env={"COFRE_AES": "portable"})["host"]["aes-kernel"]["best"]
        for kernel, ident in (("portable", "aes-kernel-forced-lesser"), (best, "aes-kernel-forced")):
            with self.subTest(kernel=kernel):
                host = self.doctor(env={"COFRE_AES": kernel})["host"]
                self.assertEqual(host["aes-kernel"], {"name": kernel, "best": best, "forced": kernel})
                self.assertIn(ident, self.ids(host))

    def test_a_kernel_that_is_none_is_told_and_not_an_error(self):
        path = self.path("a.qcow2")
        self.ok(qemu_img("create", "-q", "-f", "qcow2", path, "1M"))
        host = self.doctor(path, quick=False, env={"COFRE_AES": "nonsense"})["host"]
        self.assertEqual(self.ids(host)["aes-kernel-refused"], "attention")
        self.assertIn("nonsense", self.finding(host, "aes-kernel-refused")["sentence"])

    def test_io_uring_forbidden_by_seccomp(self):
        host = self.doctor(preexec=forbid_io_uring)["host"]
        self.assertEqual(host["io"]["backend"], "threads")
        self.assertEqual(host["io"]["io-uring-errno"], errno.EPERM)
        self.assertEqual(self.ids(host)["io-threads"], "note")
        if host["io"].get("io-uring-disabled", 0) == 0:
            self.assertIn("seccomp", self.finding(host, "io-threads")["sentence"])

    @unittest.skipIf(SANITIZED, "AddressSanitizer's mlock() locks nothing and never fails")
    def test_memory_that_cannot_be_locked(self):
        host = self.doctor(preexec=forbid_locking)["host"]
        self.assertEqual(host["memory-lock"]["limit-bytes"], 0)
        self.assertFalse(host["memory-lock"]["locked"])
        self.assertEqual(self.ids(host)["memory-lock-refused"], "attention")

    def test_the_page_for_people(self):
        path = self.path("a\x1b[31m.raw")
        self.write_file(path, bytes(MIB))
        result = cofre("doctor", "--quick", path)
        self.assertIn("Host\n", result.out)
        self.assertRegex(result.out, r"(?m)^  ok         \S")
        self.assertRegex(result.out, r"(?m)^  note       raw, and not encrypted itself")
        self.assertRegex(result.out, r"(Nothing needs|\d+ findings? needs?) attention\.\n$")
        self.assertNotIn("\x1b", result.out, "names from outside do not reach the terminal as they are")
        self.assertTrue(all(len(line) <= 100 or "/" in line for line in result.out.splitlines()), result.out)


class Images(DoctorCase):
    def image(self, name, size="1M", *, format="qcow2", options="", args=()):
        image = Image(self.path(name), format, self.secret() if options else "")
        self.ok(qemu_img("create", "-q", *image.object_args(), "-f", format, *args, *(["-o", options] if options else []),
                         image.path, size))
        return image

    def look(self, image, *args, **how):
        return self.doctor(image.path, *args, **how)["image"]

    def test_luks_by_qemu(self):
        image = self.image("a.qcow2", options=luks_options())
        found = self.look(image)
        self.assertEqual(self.ids(found)["luks"], "ok")
        self.assertEqual(self.ids(found)["luks-few-iterations"], "attention")
        theirs = self.ok(qemu_img("info", "--output=json", image.path)).json()["format-specific"]["data"]["encrypt"]
        luks = found["layers"][0]["luks"]
        for key in ("cipher-alg", "cipher-mode", "ivgen-alg", "hash-alg", "slots", "uuid"):
            self.assertEqual(luks[key], theirs[key])

    def test_many_iterations_need_no_attention(self):
        path = self.path("many.luks")
        self.write_file(path, bytes(4 * MIB))
        self.ok(cryptsetup("luksFormat", "--type", "luks1", "--pbkdf-force-iterations", "600000", "--key-file",
                           self.secret(), path))
        found = self.look(Image(path), quick=False)
        self.assertNotIn("luks-few-iterations", self.ids(found))
        self.assertGreater(found["layers"][0]["unlock"][0]["milliseconds"], 10)
        self.assertRegex(self.finding(found, "luks-keyslots")["sentence"], r"^1 of 8 .* 600000 .* ms to unlock")

    def test_weak_choices(self):
        for settings, ident in ((dict(cipher_mode="cbc", ivgen_alg="plain64"), "luks-predictable-iv"),
                                (dict(cipher_mode="ecb"), "luks-ecb"), (dict(hash_alg="sha1"), "luks-sha1")):
            with self.subTest(**settings):
                image = self.image("weak.luks", format="luks", options=luks_options(prefix="", **settings))
                self.assertIn(ident, self.ids(self.look(image)))
        strong = self.image("strong.luks", format="luks",
                            options=luks_options(prefix="", cipher_mode="cbc", ivgen_alg="essiv", ivgen_hash_alg="sha256"))
        self.assertEqual({i for i, s in self.ids(self.look(strong)).items() if s == "attention"}, {"luks-few-iterations"})

    def test_plain_ivs_wrap_beyond_two_tib(self):
        options = luks_options(ivgen_alg="plain")
        self.assertIn("luks-plain-wraps", self.ids(self.look(self.image("large.qcow2", "3T", options=options))))
        self.assertNotIn("luks-plain-wraps", self.ids(self.look(self.image("small.qcow2", "2T", options=options))))

    def test_no_keyslot(self):
        path = self.path("dead.luks")
        self.write_file(path, bytes(4 * MIB))
        secret = self.secret()
        self.ok(cryptsetup("luksFormat", "--type", "luks1", "--iter-time", "10", "--key-file", secret, path))
        self.ok(cryptsetup("luksKillSlot", "--key-file", secret, path, "0"))
        self.assertEqual(self.ids(self.look(Image(path)))["luks-no-keyslot"], "attention")

    def test_luks2_is_recognized(self):
        path = self.path("two.luks")
        self.write_file(path, bytes(32 * MIB))
        self.ok(cryptsetup("luksFormat", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
                           "--key-file", self.secret(), path))
        self.assertEqual(self.ids(self.look(Image(path)))["luks2"], "note")

    def test_legacy_aes_and_the_command_that_ends_it(self):
        image = self.image("old disk.qcow2", options=aes_options())
        content = self.rng.randbytes(100_000)
        raw = self.write_file("content", content)
        self.ok(qemu_img("convert", "-n", *image.object_args(), "--target-image-opts", raw, image.opts()))
        remedy = self.finding(self.look(image), "qcow2-legacy-aes")["remedy"].replace("KEYFILE", image.secret)
        self.ok(run(COFRE, *shlex.split(remedy)[1:]))
        new = image.named(image.path + ".new")
        self.holds(COFRE_TOOL, new, content + bytes(MIB - len(content)))
        self.assertEqual(self.ids(self.look(new))["luks"], "ok")

    def test_compressed_clusters_are_not_encrypted(self):
        image = self.image("a.qcow2", options=luks_options())
        self.assertNotIn("qcow2-plain-compressed", self.ids(self.look(image)))
        self.ok(qemu_io(*image.args(), "-c", "write -c -P 7 64k 64k"))
        found = self.look(image)
        self.assertEqual(self.ids(found)["qcow2-plain-compressed"], "attention")
        self.assertEqual(found["layers"][0]["compressed-bytes"], 65536)

    def test_bits_of_the_header(self):
        for bit, ident in ((1, "qcow2-dirty"), (2, "qcow2-corrupt")):
            with self.subTest(ident):
                image = self.image("a.qcow2")
                self.assertNotIn(ident, self.ids(self.look(image)))
                with Patch(image.path) as patch:
                    patch.write(*FIELDS["incompatible"], bit)
                self.assertEqual(self.ids(self.look(image))[ident], "attention")

    def test_tables_that_are_bad(self):
        image = self.image("a.qcow2", options=luks_options())
        with Patch(image.path) as patch:
            patch.write(patch.read(*FIELDS["l1_offset"]), ">Q", 0x200)
        self.assertEqual(self.ids(self.look(image))["qcow2-tables-bad"], "attention")

    def test_clusters_and_metadata_cache(self):
        usual = self.ids(self.look(self.image("a.qcow2", "256G")))
        self.assertEqual(usual["qcow2-metadata-cache"], "ok")
        self.assertNotIn("qcow2-small-clusters", usual)
        large = self.look(self.image("b.qcow2", "1T"))
        self.assertIn(f"l2-cache-size={128 * MIB}", self.finding(large, "qcow2-metadata-cache-small")["remedy"])
        self.assertIn("qcow2-small-clusters", self.ids(self.look(self.image("c.qcow2", options="cluster_size=4k"))))

    def test_chains(self):
        base = self.image("base.qcow2")
        top = self.image("top.qcow2", options=luks_options(), args=("-b", "base.qcow2", "-F", "qcow2"))
        found = self.look(top)
        self.assertEqual([layer["encryption"] for layer in found["layers"]], ["luks", "none"])
        self.assertEqual(self.ids(found, base.path)["plain-backing"], "attention")
        self.assertNotIn("plain-backing", self.ids(found, top.path))
        over = self.path("over.qcow2")
        self.ok(qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", "top.qcow2", "-F", "qcow2", over, "1M"))
        self.assertNotIn("backing-format-missing", self.ids(self.doctor(over)["image"], over))
        # Nobody makes such images any more: the extension that names the format becomes an unknown one.
        self.write_file(over, self.read_file(over).replace(b"\xe2\x79\x2a\xca", b"\xe2\x79\x2a\xff"))
        found = self.doctor(over)["image"]
        self.assertEqual(self.ids(found, over)["plain-overlay"], "attention")
        self.assertEqual(self.ids(found, over)["backing-format-missing"], "attention")
        self.assertNotIn("backing-format-missing", self.ids(found, top.path))
        os.unlink(base.path)
        self.assertEqual(self.ids(self.look(top))["backing-unreadable"], "attention")

    def test_a_chain_that_bites_its_tail(self):
        for name, backing in (("head.qcow2", "tail.qcow2"), ("tail.qcow2", "head.qcow2")):
            self.ok(qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", "qcow2", self.path(name), "1M"))
        found = self.doctor(self.path("head.qcow2"))["image"]
        self.assertIn("comes back to itself", self.finding(found, "backing-unreadable")["sentence"])

    def test_speed_of_reading(self):
        image = self.image("a.qcow2", "8M", options=luks_options())
        self.assertIn("read-speed-left-out", self.ids(self.look(image, quick=False)))
        given = ("--passphrase-file", image.secret)
        self.assertIn("read-speed-no-data", self.ids(self.look(image, *given, quick=False)))
        self.ok(qemu_io(*image.args(), "-c", "write -P 7 0 4M"))
        found = self.look(image, *given, quick=False)
        self.assertEqual(found["read-speed"]["measured-bytes"], 4 * MIB)
        self.assertGreater(found["read-speed"]["content-bytes-per-second"], 0)
        self.assertIn("decrypted", self.finding(found, "read-speed")["sentence"])
        by_object = self.doctor(*image.args(), quick=False)["image"]
        self.assertIn("read-speed", self.ids(by_object))
        plain = self.image("plain.qcow2")
        self.ok(qemu_io("-f", "qcow2", "-c", "write 0 64k", plain.path))
        self.assertIn("read-speed", self.ids(self.look(plain, quick=False)))

    def test_what_is_an_error(self):
        image = self.image("a.qcow2", options=luks_options())
        wrong = self.secret("wrong", "wrong")
        self.refused(cofre("doctor", "--passphrase-file", wrong, image.path), "passphrase", code=FAILED)
        self.refused(cofre("doctor", self.path("none")), "none", code=FAILED)
        self.refused(cofre("doctor", "--quick", "a", "b"), "at most one", code=FAILED)


if __name__ == "__main__":
    unittest.main()
