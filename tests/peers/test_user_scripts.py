"""Scripts that users have written for qemu-img and qemu-io, unchanged, on the personalities: user_scripts/*.sh.

Each runs with the real tools first in PATH, with the personalities, and with one or the other at random for each call, so that images
go to and fro between the programs. What it prints and its exit code must be the same."""

import os
import re
import shutil
import stat
import sys
import unittest

from cofre_peers import COMPAT_DIR, QEMU_CALIBRATION_FAULT, QEMU_CALIBRATION_TRIES, QEMU_IMG, QEMU_IO, SANITIZED, PeerCase, run

HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPTS = os.path.join(HERE, "user_scripts")

# What differs from run to run: the time that qemu-io needed, when a snapshot was made. And from program to program: where in
# the file what lies.
MASKS = [
    (re.compile(r"[\d.]+ (sec|hours|min|ms|us)?[^\n]*\([\d.]+ \S+/sec and [\d.]+ ops/sec\)"), "TIME"),
    (re.compile(r"\b\d\d:\d\d:\d\d\.\d+ \([^)]*\)"), "TIME"),
    (re.compile(r"\d\d\d\d-\d\d-\d\d \d\d:\d\d:\d\d"), "DATE"),
    (re.compile(r"Image end offset: \d+"), "END"),
]

# Calls one of two programs, as a hash of the seed and of how many calls there were decides.
CHOOSE = """#!/bin/bash
calls=$(($(cat "{folder}/calls" 2>/dev/null || echo 0) + 1))
echo "$calls" >"{folder}/calls"
choice=$(printf '%s %s' "{seed}" "$calls" | cksum | cut -d' ' -f1)
if ((choice / 7 % 2)); then exec "{ours}" "$@"; else exec "{theirs}" "$@"; fi
"""


def masked(text):
    for pattern, name in MASKS:
        text = pattern.sub(name, text)
    return text


class UserScripts(PeerCase):

    def programs(self, kind):
        """A folder for PATH in which qemu-img and qemu-io are what `kind` says."""
        folder = self.path(f"bin-{kind}")
        os.mkdir(folder)
        seed = self.rng.randrange(1 << 30)
        for name, theirs in (("qemu-img", QEMU_IMG), ("qemu-io", QEMU_IO)):
            ours, theirs = os.path.join(COMPAT_DIR, name), shutil.which(theirs)
            place = os.path.join(folder, name)
            if kind == "mixed":
                with open(place, "w") as file:
                    file.write(CHOOSE.format(folder=folder, seed=seed, ours=ours, theirs=theirs))
                os.chmod(place, stat.S_IRWXU)
            else:
                os.symlink(ours if kind == "cofre" else theirs, place)
        return folder

    def run_script(self, name, kind):
        """One that QEMU's clock spoiled is run again."""
        for attempt in range(QEMU_CALIBRATION_TRIES):
            place = self.path("work")
            shutil.rmtree(place, ignore_errors=True)
            os.mkdir(place)
            result = run("bash", "-c", ". prelude.sh; cd \"$0\"; . \"$1\"", place, os.path.join(SCRIPTS, name), cwd=SCRIPTS, env={
                "PATH": self.programs(kind) + ":" + os.environ["PATH"], "PYTHON": sys.executable,
                "TOOLS": os.path.join(HERE, "user_script_tools.py"), "REAL_QEMU_IMG": shutil.which(QEMU_IMG),
                "REAL_QEMU_NBD": shutil.which("qemu-nbd")})
            shutil.rmtree(self.path(f"bin-{kind}"))
            if QEMU_CALIBRATION_FAULT not in result.err:
                return result
        raise AssertionError(f"QEMU's clock again and again:{result}")

    def same(self, name):
        theirs = self.run_script(name, "qemu")
        self.assertEqual(theirs.code, 0, f"the script itself is wrong:{theirs}")
        for kind in ("mixed",) if SANITIZED else ("cofre", "mixed"):
            with self.subTest(programs=kind):
                ours = self.run_script(name, kind)
                self.assertEqual(masked(ours.out), masked(theirs.out), f"{ours}{theirs}")
                self.assertEqual(ours.code, theirs.code, f"{ours}{theirs}")


def script_test(name):
    return lambda self: self.same(name)


for script in sorted(os.listdir(SCRIPTS)):
    if script.endswith(".sh") and script != "prelude.sh":
        setattr(UserScripts, f"test_{script[:-3]}", script_test(script))

if __name__ == "__main__":
    unittest.main()
