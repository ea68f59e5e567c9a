"""getopt's habits, help, versions, the personalities, and what a wrong command line is told."""

import os
import subprocess
import unittest

from program import COFRE, COMMANDS, COMPAT_DIR, ProgramCase


class Habits(ProgramCase):
    def setUp(self):
        super().setUp()
        with open(self.path("disk.img"), "wb") as file:
            file.write(os.urandom(200_000))

    def test_short_options_are_bundled_and_take_values_without_a_blank(self):
        self.ok("convert", "-pqOqcow2", "-fraw", "disk.img", "a.qcow2")
        self.ok("compare", "-qfraw", "-Fqcow2", "disk.img", "a.qcow2")
        self.assertIn("file format: qcow2", self.ok("info", "-Ufqcow2", "a.qcow2").stdout)

    def test_options_come_after_arguments_too(self):
        self.ok("convert", "disk.img", "a.qcow2", "-O", "qcow2")
        self.ok("compare", "disk.img", "a.qcow2", "-q")

    def test_long_options_are_abbreviated(self):
        self.ok("convert", "-O", "qcow2", "disk.img", "a.qcow2")
        self.assertTrue(self.ok("info", "--out=json", "--back", "a.qcow2").stdout.startswith("["))
        self.assertIn("ambiguous", self.refused("info", "--pass", "x", "a.qcow2"))

    def test_a_repeated_option_counts_once(self):
        self.ok("convert", "-p", "-p", "-q", "-q", "-O", "raw", "-O", "qcow2", "disk.img", "a.qcow2")
        self.assertIn("file format: qcow2", self.ok("info", "a.qcow2").stdout)

    def test_names_that_begin_with_a_dash_follow_two(self):
        self.ok("convert", "-O", "raw", "--", "disk.img", "-odd")
        self.assertTrue(os.path.exists(self.path("-odd")))
        self.ok("info", "--", "-odd")

    def test_wrong_ones_are_named(self):
        self.assertIn("'--colour'", self.refused("info", "--colour", "disk.img"))
        self.assertIn("-Z", self.refused("info", "-Z", "disk.img"))
        self.assertIn("one image", self.refused("info"))
        self.assertIn("one image", self.refused("info", "a", "b"))
        self.assertIn("'paint'", self.refused("paint"))
        self.assertIn("--help", self.refused())
        self.assertIn("-O", self.refused("convert", "disk.img", "x", "-O"))

    def test_passphrases_never_reach_messages(self):
        for args in (["--object", "secret,id=a,data=hunter2,colour=red"], ["--object", "secret,data=hunter2"],
                     ["--object", '{"qom-type":"secret","data":"hunter2"'], ["--object", "passphrase,data=hunter2"]):
            self.assertNotIn("hunter2", self.refused("info", *args, "disk.img"))


class Answers(ProgramCase):
    def test_every_command_has_help(self):
        for command in COMMANDS:
            text = self.ok(command, "--help").stdout
            self.assertTrue(text.startswith(f"Usage: cofre {command} "), text)
            self.assertTrue(all(len(line) <= 80 for line in text.splitlines()), text)

    def test_version_tells_the_aes_kernel(self):
        text = self.ok("--version").stdout
        self.assertRegex(text, r"^cofre \d+\.\d+\.\d+\nAES kernel: [a-z0-9]+\n$")
        forced = self.ok("--version", env={**os.environ, "COFRE_AES": "portable"}).stdout
        self.assertIn("AES kernel: portable\n", forced)
        self.assertIn("'nonsense'", self.refused("--version", env={**os.environ, "COFRE_AES": "nonsense"}))

    def test_personalities_go_by_the_name(self):
        img = os.path.join(COMPAT_DIR, "qemu-img")
        io = os.path.join(COMPAT_DIR, "qemu-io")
        self.assertRegex(self.ok("--version", program=img).stdout, r"^qemu-img version 7\.2\.\d+ \(cofre ")
        self.assertRegex(self.ok("--version", program=io).stdout, r"^qemu-io version 7\.2\.\d+ \(cofre ")
        self.ok("create", "-q", "-f", "qcow2", "a.qcow2", "1M", program=img)
        self.assertIn("wrote 512/512", self.ok("-c", "write 0 512", "a.qcow2", program=io).stdout)
        self.assertTrue(self.refused("io", "a.qcow2", program=img).startswith("qemu-img: "))

    def test_a_full_standard_output_is_an_error(self):
        self.ok("create", "-q", "a.raw", "1M")
        for command in (["info", "a.raw"], ["io", "-r", "-f", "raw", "-c", "length", "-c", "length", "a.raw"]):
            with self.subTest(command=command[0]), open("/dev/full", "w", encoding="ascii") as full:
                result = subprocess.run([COFRE, *command], cwd=self.dir, stdout=full, stderr=subprocess.PIPE, text=True,
                                        timeout=60)
                self.assertEqual(result.returncode, 1)
                self.assertIn("standard output", result.stderr)

    def test_a_full_standard_error_changes_no_exit_code(self):
        self.ok("create", "-q", "a.raw", "1M")
        for code, command in ((1, ["info", "nowhere"]), (2, ["compare", "a.raw", "nowhere"]), (63, ["check", "a.raw"]),
                              (0, ["convert", "--stats", "-O", "qcow2", "a.raw", "a.qcow2"])):
            with self.subTest(command=command[0]), open("/dev/full", "w", encoding="ascii") as full:
                result = subprocess.run([COFRE, *command], cwd=self.dir, stdout=subprocess.DEVNULL, stderr=full, timeout=60)
                self.assertEqual(result.returncode, code)
        self.ok("check", "-q", "a.qcow2")

    def test_closed_standard_streams_never_become_an_image(self):
        """What is printed goes nowhere: not into the image, nor into the program's own descriptors."""
        self.ok("create", "-q", "a.raw", "1M")
        for closed in ("1>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"):
            with self.subTest(closed=closed):
                result = subprocess.run(["sh", "-c", f'exec "$0" "$@" {closed}', COFRE, "io", "-c", "write -P 7 0 64k", "-c",
                                         "length", "-c", "nonsense", "-c", "read -P 7 0 64k", "a.raw"], cwd=self.dir, timeout=60)
                self.assertEqual(result.returncode, 1)
                with open(self.path("a.raw"), "rb") as file:
                    self.assertEqual(file.read(), b"\7" * 65536 + bytes(1024 * 1024 - 65536))


if __name__ == "__main__":
    unittest.main()
