"""Ctrl-C and SIGTERM during a conversion: the exit status says so, and nothing is left behind."""

import os
import signal
import subprocess
import time
import unittest

from program import COFRE, ProgramCase

MIB = 1024 * 1024


class Interrupt(ProgramCase):
    def setUp(self):
        super().setUp()
        with open(self.path("disk.img"), "wb") as file:
            for _ in range(256):
                file.write(os.urandom(MIB))
        with open(self.path("key"), "wb") as file:
            file.write(b"open sesame")

    def temporary_size(self):
        for name in os.listdir(self.dir):
            if ".cofre-" in name:
                return os.stat(self.path(name)).st_size
        return -1

    def start(self):
        """A conversion slow enough to be met: with the slowest cipher."""
        return subprocess.Popen(
            [COFRE, "convert", "--passphrase-file", "key", "-O", "qcow2", "-o",
             "encrypt.format=luks,encrypt.iter-time=10,encrypt.cipher-alg=serpent-256", "disk.img", "target"],
            cwd=self.dir, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def stop_midway(self, number):
        process = self.start()
        deadline = time.monotonic() + 60
        while self.temporary_size() < 4 * MIB:
            self.assertIsNone(process.poll(), "the conversion ended before it could be stopped")
            self.assertLess(time.monotonic(), deadline, "the conversion did not start")
            time.sleep(0.002)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        return process.returncode, err

    def test_the_status_tells_the_signal_and_nothing_stays(self):
        for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            with self.subTest(signal=number):
                code, err = self.stop_midway(number)
                self.assertEqual(code, status, err)
                self.assertEqual(sorted(os.listdir(self.dir)), ["disk.img", "key"])

    def test_an_existing_target_stays_as_it_was(self):
        with open(self.path("target"), "wb") as file:
            file.write(b"precious")
        code, err = self.stop_midway(signal.SIGINT)
        self.assertEqual(code, 130, err)
        self.assertEqual(sorted(os.listdir(self.dir)), ["disk.img", "key", "target"])
        with open(self.path("target"), "rb") as file:
            self.assertEqual(file.read(), b"precious")

    def stop(self, *args, ready):
        """Sends one SIGTERM to cofre when `ready(process)`. The exit status."""
        process = subprocess.Popen([COFRE, *args], cwd=self.dir, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        self.addCleanup(process.kill)
        deadline = time.monotonic() + 60
        while not ready(process):
            self.assertIsNone(process.poll(), "it ended before it could be stopped")
            self.assertLess(time.monotonic(), deadline, "it did not start")
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        return process.wait(60)

    def has_open(self, process, path):
        folder = f"/proc/{process.pid}/fd"
        return any(os.path.realpath(os.path.join(folder, fd)) == os.path.realpath(path) for fd in os.listdir(folder))

    def test_one_signal_ends_the_derivation_of_a_key(self):
        """Iteration counts come from the user, or from a header that means no good."""
        slow = ["--passphrase-file", "key", "-f", "luks", "-o", "iter-time=100000"]
        self.assertEqual(self.stop("create", *slow, "new.luks", "1M", ready=lambda _: self.temporary_size() >= 0), 143)
        self.ok("create", "-q", *slow[:-1], "iter-time=10", "old.luks", "1M")
        with open(self.path("old.luks"), "r+b") as file:
            file.seek(208 + 4)  # the first keyslot's iterations
            file.write(b"\xff" * 4)
        self.assertEqual(self.stop("io", "--passphrase-file", "key", "-r", "-c", "length", "old.luks",
                                   ready=lambda process: self.has_open(process, self.path("old.luks"))), 143)
        self.assertEqual(sorted(os.listdir(self.dir)), ["disk.img", "key", "old.luks"])


if __name__ == "__main__":
    unittest.main()
