"""Runs `cofre witness` on programs and reads its report. COFRE, WITNESS_TARGET and WITNESS_LIBRARY name what the build made."""

import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

COFRE = os.environ["COFRE"]
TARGET = os.environ["WITNESS_TARGET"]
LIBRARY = os.environ["WITNESS_LIBRARY"]

# What forms.S has and the tests rely on.
CHAIN_SITES = 7
TARGET_SITES = 38


def why_not_traced():
    """Why nothing can be traced here (a container without ptrace), or None."""
    result = subprocess.run([COFRE, "witness", "--", "/bin/true"], capture_output=True, text=True, timeout=120)
    return result.stderr.strip() if "cannot be traced" in result.stderr else None


class WitnessCase(unittest.TestCase):
    """A scratch folder a test. Tests that need ptrace are skipped where it is forbidden."""

    @classmethod
    def setUpClass(cls):
        cls.not_traced = why_not_traced()

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="cofre-witness-")
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)
        if self.not_traced:
            self.skipTest(self.not_traced)
        self.seed = int(os.environ.get("COFRE_TEST_SEED") or random.randrange(1 << 32))
        self.random = random.Random(self.seed)

    def path(self, name):
        return os.path.join(self.dir, name)

    def start(self, *args, **how):
        """A program that the test ends when it ends itself."""
        process = subprocess.Popen(list(map(str, args)), text=True, stdout=subprocess.PIPE, **how)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.addCleanup(process.stdout.close)
        return process

    def start_chain(self, threads):
        """The target, computing until finish_chain()."""
        process = self.start(TARGET, "chain", threads, 300_000)
        while len(os.listdir(f"/proc/{process.pid}/task")) < threads + 1:
            time.sleep(0.005)
        return process

    def finish_chain(self, process):
        process.send_signal(signal.SIGUSR2)
        self.unharmed(process, alone("chain", 1, 1))

    def run_witness(self, *args, **how):
        report = self.path("report.json")
        result = subprocess.run([COFRE, "witness", "--output=json", "--report", report, *map(str, args)],
                                capture_output=True, text=True, timeout=300, **how)
        self.assertEqual(result.returncode, 0, f"{args}: {result}")
        with open(report, encoding="utf-8") as file:
            return json.load(file), result

    def watch(self, *command, options=(), **how):
        """The report on a command and its output."""
        report, result = self.run_witness(*options, "--", *command, **how)
        return report, result.stdout

    def watch_process(self, pid, seconds=1, options=()):
        return self.run_witness("--pid", pid, "--seconds", seconds, *options)[0]

    def module(self, report, name):
        found = [m for m in report["modules"] if os.path.basename(m["path"]).startswith(name)]
        self.assertEqual(len(found), 1, f"{name} in {report}")
        return found[0]

    def text_that_comes(self, path, seconds=60):
        """What a program writes into a file when it ends."""
        end = time.monotonic() + seconds
        while os.path.getsize(path) == 0 and time.monotonic() < end:
            time.sleep(0.05)
        with open(path, encoding="utf-8") as file:
            return file.read()

    def unharmed(self, process, expected):
        """The process ends well, with the output it has when nobody watches."""
        output = process.communicate(timeout=120)[0]
        self.assertEqual((process.returncode, output), (0, expected), f"COFRE_TEST_SEED={self.seed}")


def alone(*args):
    """What the target prints when nobody watches."""
    return subprocess.run([TARGET, *map(str, args)], capture_output=True, text=True, timeout=120, check=True).stdout


def functions_hit(module):
    return {f["name"]: {i["instruction"]: i["sites-hit"] for i in f["instructions"]} for f in module["functions"]}


def forms_hit(module):
    """(instruction, encoding, width) of everything that was executed."""
    return {(i["instruction"], i["encoding"], i["width-bits"])
            for f in module["functions"] for i in f["instructions"] if i["sites-hit"]}


def wait_until_traced(pid, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with open(f"/proc/{pid}/status", encoding="utf-8") as file:
            if not any(line.split() == ["TracerPid:", "0"] for line in file):
                return True
        time.sleep(0.001)
    return False

