"""`cofre bench image`: every combination is measured, room is bounded, and nothing stays behind. Never how fast anything is."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
import unittest

from program import COFRE, COMPAT_DIR, ProgramCase

OPERATIONS = ["convert", "read", "write", "randread", "randwrite"]
MIB = 1024 * 1024


class BenchImage(ProgramCase):
    def bench(self, *args, **how):
        return self.ok("bench", "image", "--dir", self.dir, "--rounds", "2", *args, **how)

    def setUp(self):
        super().setUp()
        os.mkdir(self.path("images"))

    def assert_nothing_left(self):
        self.assertEqual(os.listdir(self.path("images")), [])

    def check_figures(self, report, combinations):
        found = {(r["operation"], r["encryption"], r["cluster-size"], r["program"]) for r in report["results"]}
        self.assertEqual(found, combinations)
        self.assertEqual(len(report["results"]), len(found))
        for result in report["results"]:
            with self.subTest(result=result):
                self.assertEqual(len(result["seconds"]), report["rounds"])
                self.assertTrue(all(s >= 0 for s in result["seconds"]))
                self.assertEqual("overhead-seconds" in result, result["program"] == "qemu-io")
                # Of so little work QEMU's programs may have nothing to tell.
                if result["program"] == "cofre" or "bytes-per-second" in result:
                    self.assertGreater(result["bytes-per-second"], 0)
                    self.assertLess(result["bytes-per-second"], 1e13)
                    self.assertEqual("requests-per-second" in result, result["operation"].startswith("rand"))

    def test_json_has_every_combination(self):
        report = json.loads(self.bench("--dir", "images", "--size", "2M", "--output", "json").stdout)
        self.check_figures(report, {(operation, encryption, cluster, "cofre") for operation in OPERATIONS
                                    for encryption in ("none", "aes", "luks") for cluster in (512, 4096, 65536, 2 * MIB)})
        self.assertEqual((report["size"], report["rounds"], report["directory"]), (2 * MIB, 2, "images"))
        self.assertGreater(len(report["crypto"]["runs"]), 0)
        self.assert_nothing_left()

    def test_the_same_requests_as_qemu(self):
        """QEMU opens, reads and writes every kind of image that is measured."""
        report = json.loads(self.bench("--dir", "images", "--size", "8M", "--cluster-size", "512,2M", "--vs", "qemu-img",
                                       "--output=json").stdout)
        self.check_figures(report, {(operation, encryption, cluster, program) for operation in OPERATIONS
                                    for encryption in ("none", "aes", "luks") for cluster in (512, 2 * MIB)
                                    for program in ("cofre", "qemu-img" if "none" == encryption or operation == "convert" else "qemu-io")})
        self.assertIn("qemu-img version", report["programs"]["qemu-img"])
        self.assert_nothing_left()

    def test_the_table_has_what_was_asked_for(self):
        result = self.bench("--dir", "images", "--size", "1M", "--cluster-size", "64k,4k,64k", "--encrypt", "luks,none",
                            "--op", "randread,convert", "-p")
        tables = re.findall(r"^(\w+), (?:GB/s|requests of 4 KiB a second)\n +cluster +none +luks\n +cofre +cofre\n"
                            r" +4 KiB +[\d.]+ +[\d.]+\n +64 KiB +[\d.]+ +[\d.]+$", result.stdout, re.M)
        self.assertEqual(tables, ["convert", "randread"], result.stdout)
        self.assertRegex(result.stderr, r"needs at most \d+ MiB in images")
        self.assertIn("%  cofre randread luks 64 KiB", result.stderr)
        self.assert_nothing_left()

    def test_a_folder_with_a_comma(self):
        os.mkdir(self.path("a,b"))
        self.bench("--dir", "a,b", "--size", "1M", "--cluster-size", "64k", "--encrypt", "luks", "--op", "convert,read", "-q")
        self.assertEqual(os.listdir(self.path("a,b")), [])

    def test_wrong_ones_are_refused(self):
        for arguments, word in ((["--cluster-size", "3k"], "'3k'"), (["--cluster-size", "256"], "'256'"),
                                (["--cluster-size", "4M"], "'4M'"), (["--encrypt", "luks,rot13"], "rot13"),
                                (["--op", "paint"], "paint"), (["--op", "read,,write"], "empty"),
                                (["--size", "1000k"], "1000k"), (["--size", "0"], "--size"), (["--rounds", "0"], "--rounds"),
                                (["--dir", "nowhere"], "nowhere"), (["--vs", "./no-such-qemu-img"], "no-such-qemu-img"),
                                (["--vs", os.path.join(COMPAT_DIR, "qemu-img")], "Cofre itself"),
                                (["--html", "nowhere/page.html"], "nowhere")):
            with self.subTest(arguments=arguments):
                self.assertIn(word, self.refused("bench", "image", "--dir", "images", "--size", "1M", *arguments))
        self.assert_nothing_left()

    def test_failing_requests_of_the_peer_are_told(self):
        """qemu-io exits with 0 even when asynchronous requests failed."""
        with open(self.path("disk.img"), "wb") as file:
            file.truncate(MIB)
        os.mkdir(self.path("peer"))
        scripts = {"qemu-img": 'exec qemu-img "$@"',
                   # Sends the request of another image, behind its end.
                   "qemu-io": 'case $1 in --version) exec qemu-io --version ;; esac\n'
                              'exec qemu-io -f raw -c "aio_read 1G 512" -c aio_flush disk.img'}
        for name, script in scripts.items():
            with open(self.path(f"peer/{name}"), "w", encoding="utf-8") as file:
                file.write(f"#!/bin/sh\n{script}\n")
            os.chmod(self.path(f"peer/{name}"), 0o755)
        said = self.refused("bench", "image", "--dir", "images", "--size", "1M", "--op", "read", "--encrypt", "luks",
                            "--vs", "peer/qemu-img")
        self.assertIn("'peer/qemu-io': a request failed: Input/output error", said)
        self.assert_nothing_left()

    def test_too_little_room_is_refused(self):
        said = self.refused("bench", "image", "--dir", "images", "--size", "1T")
        self.assertGreater(2 << 40, shutil.disk_usage(self.dir).free, "this test needs a disk smaller than 2 TiB")
        self.assertRegex(said, r"needs at most \d+ MiB in 'images', which has \d+ MiB free")
        self.assert_nothing_left()

    # -- while it runs

    def start(self, *args):
        return subprocess.Popen([COFRE, "bench", "image", "--dir", "images", "--rounds", "1000", *args], cwd=self.dir,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def images(self):
        for folder in os.listdir(self.path("images")):
            try:
                return os.listdir(self.path(f"images/{folder}"))
            except FileNotFoundError:
                pass
        return []

    def wait_for_image(self, process):
        deadline = time.monotonic() + 60
        while "image.qcow2" not in self.images():
            self.assertIsNone(process.poll(), "it ended before it could be stopped")
            self.assertLess(time.monotonic(), deadline, "it did not start")
            time.sleep(0.001)

    def test_nothing_stays_after_a_signal(self):
        # In a child process; within this one; in its second signal, which waits for nothing.
        for arguments, numbers, status in ((["--op", "convert"], [signal.SIGINT], 130),
                                           (["--op", "read,randwrite"], [signal.SIGTERM], 143),
                                           (["--op", "write"], [signal.SIGINT, signal.SIGINT], 130),
                                           (["--op", "convert", "--vs", "qemu-img"], [signal.SIGINT], 130)):
            with self.subTest(arguments=arguments, signals=numbers):
                process = self.start("--size", "64M", *arguments)
                self.wait_for_image(process)
                for number in numbers:
                    process.send_signal(number)
                out, err = process.communicate(timeout=60)
                self.assertEqual((process.returncode, out), (status, ""), err)
                self.assert_nothing_left()

    def test_it_takes_no_more_room_than_it_said(self):
        process = subprocess.Popen(
            [COFRE, "bench", "image", "--dir", "images", "--size", "24M", "--rounds", "1", "--cluster-size", "512,2M", "-q",
             "--encrypt", "luks", "--output=json"], cwd=self.dir, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        most = 0
        while process.poll() is None:
            now = 0
            for folder, _, names in os.walk(self.path("images")):
                for name in names:
                    try:
                        now += os.stat(os.path.join(folder, name)).st_blocks * 512
                    except FileNotFoundError:
                        pass
            most = max(most, now)
            time.sleep(0.001)
        report = json.loads(process.communicate()[0])
        self.assertEqual(process.returncode, 0)
        self.assertGreater(most, 24 * MIB)
        self.assertLessEqual(most, report["needs-bytes"])


if __name__ == "__main__":
    unittest.main()
