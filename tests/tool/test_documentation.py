"""Every option of --help stands in the manual page and in each shell's completion, and the other way round."""

import os
import re
import unittest

from program import COMMANDS, SOURCE_DIR, SUBJECTS, ProgramCase


def read(*path):
    with open(os.path.join(SOURCE_DIR, *path), encoding="utf-8") as file:
        return file.read()


def manual_options(page):
    """The options that the page's list of options describes."""
    listed = re.search(r"The options are:(.*?)\n\.El", page, re.S).group(1)
    options = set()
    for line in re.findall(r"^\.It (Fl .*)$", listed, re.M):
        for part in re.findall(r"Fl ([^ ]+)", line.replace("\\-", "-")):
            options.add("-" + part)
    return options


def bash_options(text, command):
    shared = dict(re.findall(r'local (secrets|source)="([^"]*)"', text))
    line = re.search(rf'^    {command}\) echo "([^"]*)"', text, re.M).group(1)
    for name, value in shared.items():
        line = line.replace("$" + name, value)
    return set(line.split())


class Documentation(ProgramCase):
    def help_options(self, command):
        options = set()
        for words in [[command], *([command, subject] for subject in SUBJECTS.get(command, []))]:
            text = self.ok(*words, "--help").stdout
            for line in re.findall(r"^  (-[^ ].*)$", text, re.M):
                options.update(re.findall(r"(?:^|, )(--?[A-Za-z-]+)", line.split("  ")[0]))
        self.assertIn("--help", options)
        return options

    def test_manual_pages_have_every_option(self):
        for command in COMMANDS:
            with self.subTest(command=command):
                self.assertEqual(manual_options(read("man", f"cofre-{command}.1")), self.help_options(command))

    def test_bash_completes_every_option(self):
        text = read("completions", "cofre.bash")
        for command in COMMANDS:
            with self.subTest(command=command):
                self.assertEqual(bash_options(text, command), self.help_options(command))

    def test_zsh_completes_every_option(self):
        text = read("completions", "_cofre")
        common = re.search(r"^secrets=.*?^\)$", text, re.M | re.S).group(0)
        source = re.search(r"^source=.*?^\)$", text, re.M | re.S).group(0)
        for command in COMMANDS:
            own = re.search(rf"^  {command}\)\n(.*?);;$", text, re.M | re.S).group(1)
            whole = own + common + (source if "$source" in own else "")
            for option in self.help_options(command):
                with self.subTest(command=command, option=option):
                    self.assertRegex(whole, rf"['\"*,{{]{re.escape(option)}[\[,}}]")

    def test_fish_completes_every_option(self):
        lines = read("completions", "cofre.fish").splitlines()
        for command in COMMANDS:
            mine = " ".join(line for line in lines if line.startswith("complete")
                            and ("__cofre_is" not in line or re.search(rf"__cofre_is [a-z ]*\b{command}\b", line))
                            or (command != "create" and "$readers" in line))
            for option in self.help_options(command):
                flag = f"-l {option[2:]} " if option.startswith("--") else f"-s {option[1:]} "
                with self.subTest(command=command, option=option):
                    self.assertIn(flag, mine)

    def test_the_first_page_names_every_command(self):
        page = read("man", "cofre.1")
        overview = self.ok("--help").stdout
        for command in COMMANDS:
            self.assertIn(f"cofre-{command} 1", page)
            self.assertRegex(overview, rf"(?m)^  {command} ")

    def test_creation_options_are_in_the_manual(self):
        page = read("man", "cofre-create.1").replace("\\-", "-")
        for fmt in ("raw", "luks", "qcow2"):
            for name in re.findall(r"^  ([a-z_.-]+)=<", self.ok("create", "-f", fmt, "-o", "help").stdout, re.M):
                with self.subTest(format=fmt, option=name):
                    self.assertRegex(page, rf"\b{re.escape(name)}\b")


if __name__ == "__main__":
    unittest.main()
