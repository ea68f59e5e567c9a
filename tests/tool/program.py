"""Runs the program under test: COFRE names it, COFRE_COMPAT_DIR holds its personalities."""

import os
import shutil
import subprocess
import tempfile
import unittest

COFRE = os.environ["COFRE"]
COMPAT_DIR = os.environ.get("COFRE_COMPAT_DIR") or os.path.join(os.path.dirname(os.path.dirname(COFRE)), "compat")
SOURCE_DIR = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COMMANDS = ["create", "convert", "info", "check", "audit", "compare", "amend", "bitmap", "measure", "resize", "dd", "map", "rebase", "commit", "snapshot", "serve", "ctl", "doctor", "io",
            "bench", "witness"]
# Commands whose options are those of what stands after their name.
SUBJECTS = {"bench": ["crypto", "requests", "image"]}


class ProgramCase(unittest.TestCase):
    """A scratch folder a test, in which the program runs without a terminal."""

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="cofre-tool-")
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.dir, name)

    def run_program(self, *args, program=COFRE, **how):
        return subprocess.run([program, *map(str, args)], cwd=self.dir, capture_output=True, text=True, timeout=120,
                              start_new_session=True, stdin=how.pop("stdin", subprocess.DEVNULL), **how)

    def ok(self, *args, **how):
        result = self.run_program(*args, **how)
        self.assertEqual(result.returncode, 0, f"{args}: {result}")
        return result

    def refused(self, *args, code=1, **how):
        result = self.run_program(*args, **how)
        self.assertEqual(result.returncode, code, f"{args}: {result}")
        self.assertTrue(result.stderr.strip(), f"{args}: a refusal says why")
        return result.stderr
