"""The page of `cofre bench image --html`, in Chromium: complete in itself, right, and usable by everybody.

Needs node, npm and chromium, and playwright-core and axe-core from npm's registry: installed once into the build folder.
"""

import json
import os
import re
import shutil
import subprocess
import unittest

from program import COFRE, ProgramCase

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page")
INSTALLED = os.path.join(os.path.dirname(os.path.dirname(COFRE)), "page-test")


def npm(*args):
    return subprocess.run(["npm", *args, "--no-audit", "--no-fund", "--no-update-notifier"], cwd=INSTALLED, capture_output=True,
                          text=True, timeout=240, stdin=subprocess.DEVNULL)


def newest_lock_installed():
    """npm leaves a copy of what it installed."""
    def packages(path):
        with open(path, encoding="utf-8") as file:
            return {name: about["integrity"] for name, about in json.load(file)["packages"].items() if name}
    try:
        return packages(os.path.join(INSTALLED, "node_modules", ".package-lock.json")) == packages(os.path.join(HERE, "package-lock.json"))
    except FileNotFoundError:
        return False


class Page(ProgramCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if newest_lock_installed():
            return
        os.makedirs(INSTALLED, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(os.path.join(HERE, name), INSTALLED)
        installed = npm("ci", "--ignore-scripts")
        if installed.returncode != 0:
            if npm("ping").returncode != 0:
                raise unittest.SkipTest("npm's registry is out of reach, and playwright-core and axe-core are not installed")
            raise AssertionError(f"npm ci failed: {installed.stderr}")

    def check(self, *args):
        report = self.ok("bench", "image", "--rounds", "2", "--dir", self.dir, "--output=json", "--html", "page.html", *args)
        with open(self.path("report.json"), "w", encoding="utf-8") as file:
            file.write(report.stdout)
        result = subprocess.run(["node", os.path.join(HERE, "check_page.cjs"), self.path("page.html"), self.path("report.json")],
                                cwd=self.dir, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL,
                                env={**os.environ, "NODE_PATH": os.path.join(INSTALLED, "node_modules")})
        self.assertEqual((result.returncode, result.stdout), (0, ""), result.stdout + result.stderr)
        return json.loads(report.stdout)

    def test_everything(self):
        self.check("--size", "2M")

    def test_beside_qemu(self):
        self.check("--size", "4M", "--cluster-size", "4k,64k", "--encrypt", "none,luks", "--op", "convert,randread", "--vs", "qemu-img")

    def test_a_single_point(self):
        self.check("--size", "1M", "--cluster-size", "64k", "--encrypt", "luks", "--op", "read")

    def test_names_from_outside_stay_text(self):
        """A folder's name stands in the page; it cannot end the script that it stands in."""
        name = "</script><script>throw 1</script>"
        os.makedirs(self.path(name))
        report = self.check("--size", "1M", "--cluster-size", "64k", "--encrypt", "none", "--op", "read", "--dir", name)
        self.assertEqual(report["directory"], name)
        with open(self.path("page.html"), encoding="utf-8") as file:
            self.assertNotIn(name, file.read())

    def test_a_refused_run_leaves_the_old_page(self):
        with open(self.path("page.html"), "w", encoding="utf-8") as file:
            file.write("the old one")
        self.refused("bench", "image", "--dir", self.dir, "--size", "1T", "--html", "page.html")
        with open(self.path("page.html"), encoding="utf-8") as file:
            self.assertEqual(file.read(), "the old one")
        self.assertEqual([name for name in os.listdir(self.dir) if re.search("cofre", name)], [])


if __name__ == "__main__":
    unittest.main()
