"""House rules: the floors include downward only, files stay short, and some words and calls have no place in the source.

Each rule is a function from a file's path and text to its breaches; the last class proves that each rule can find one.
"""

import os
import re
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# Lowest first. A floor includes itself and floors of lower rank; floors of one rank do not know each other.
RANK = {"base": 0, "witness": 1, "crypto": 1, "io": 1, "block": 2, "storage": 3, "layer": 4, "format": 5, "image": 6, "export": 7, "job": 7,
        "doctor": 7, "tool": 8}

LONGEST = 800
SOURCE = (".h", ".cc")

# Spelled in two parts, so that this file does not break its own rule.
BANNED_WORDS = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK")) + r")\b")
SKIPPED_TESTS = re.compile(r"\bGTEST_" + r"SKIP\b|\bDISABLED" + r"_\w|@unittest\.(?:skip|expectedFailure)\b")
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:home|work|root|Users|mnt/sandboxing)/[\w.-]+")

# The library neither talks, ends the program, nor looks at the environment.
LIBRARY_CALLS = re.compile(
    r"(?<![\w.>])(?:std::|::)?(?:exit|_exit|quick_exit|abort|printf|fprintf|puts|putchar|getenv|secure_getenv|setenv|perror)\s*\("
    r"|std::(?:cout|cerr|clog)\b|\bfmt::print(?:ln)?\s*\(")
# Who may, and which calls: COFRE_AES chooses the AES kernel; the contract checker stops a debug build, as assert() does.
LIBRARY_EXCEPTIONS = [
    (re.compile(r"^src/crypto/(?:cpu|aes/select)[./_]"), "getenv"),
    (re.compile(r"^src/block/checked\.cc$"), "abort"),
    (re.compile(r"^src/block/checked\.cc$"), "fprintf"),
]


def files(*folders, suffixes=SOURCE):
    """(path below the root, text) of every such file."""
    for folder in folders:
        for parent, names, found in os.walk(os.path.join(ROOT, folder)):
            names[:] = sorted(n for n in names if n not in ("build", "__pycache__") and not n.startswith("."))
            for name in sorted(found):
                if name.endswith(suffixes):
                    path = os.path.join(parent, name)
                    with open(path, encoding="utf-8") as file:
                        yield os.path.relpath(path, ROOT), file.read()


def code_only(text):
    """The text with comments and the contents of string literals blanked, lines kept."""
    def blank(match):
        found = match.group(0)
        if found.startswith(("//", "/*")):
            return re.sub(r"[^\n]", " ", found)
        return '""'
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', blank, text, flags=re.S)


def breaches(pattern, path, text):
    return [f"{path}:{number}: {line.strip()}" for number, line in enumerate(text.splitlines(), 1) if pattern.search(line)]


def wrong_includes(path, text):
    floor = path.split(os.sep)[1]
    bad = []
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r'\s*#\s*include\s+"([^"/]+)/', line)
        if not match or match.group(1) == floor or floor not in RANK:
            continue
        other = match.group(1)
        if other not in RANK or RANK[other] >= RANK[floor]:
            bad.append(f"{path}:{number}: {floor} must not include {other}: {line.strip()}")
    return bad


def too_long(path, text):
    lines = text.count("\n")
    return [f"{path}: {lines} lines, at most {LONGEST}"] if lines > LONGEST else []


def no_subject(path, text):
    """A file opens with a comment that says its subject; a .cc may open with its header, which says it."""
    first = text.lstrip().split("\n", 1)[0]
    if path.endswith(".cc") and re.match(rf'#include "(?:.*/)?{re.escape(os.path.basename(path)[:-3])}\.h"', first):
        return []
    return [] if re.match(r"//\s*\w.{10,}|/\*\s*\w?", first) else [f"{path}: starts with '{first}', not with its subject"]


def library_calls(path, text):
    if path.startswith("src/tool/"):
        return []
    found = breaches(LIBRARY_CALLS, path, code_only(text))
    for where, call in LIBRARY_EXCEPTIONS:
        if where.match(path):
            found = [line for line in found if call not in line]
    return found


def banned_words(path, text):
    return breaches(BANNED_WORDS, path, text)


def skipped_tests(path, text):
    return breaches(SKIPPED_TESTS, path, text)


def machine_paths(path, text):
    return breaches(MACHINE_PATHS, path, text)


class House(unittest.TestCase):

    def holds(self, rule, *where, **which):
        looked = 0
        found = []
        for path, text in files(*where, **which):
            looked += 1
            found += rule(path, text)
        self.assertGreater(looked, 0, f"no file found in {where}")
        self.assertEqual(found, [], "\n".join(["", *found]))

    def test_floors_include_downward(self):
        self.holds(wrong_includes, "src")

    def test_every_floor_is_known(self):
        floors = {name for name in os.listdir(os.path.join(ROOT, "src")) if os.path.isdir(os.path.join(ROOT, "src", name))}
        self.assertEqual(floors - set(RANK), set(), "give new floors a rank here and in src/CMakeLists.txt")

    def test_files_are_short(self):
        self.holds(too_long, "src")

    def test_files_say_their_subject(self):
        self.holds(no_subject, "src")

    def test_the_library_neither_prints_nor_exits(self):
        self.holds(library_calls, "src")

    def test_no_open_ends(self):
        self.holds(banned_words, "src", "tests", "bench", "cmake", "docs", suffixes=(*SOURCE, ".py", ".cmake", ".txt", ".md", "compare"))

    def test_no_skipped_tests(self):
        self.holds(skipped_tests, "tests", suffixes=(*SOURCE, ".py"))

    def test_no_paths_of_one_machine(self):
        self.holds(machine_paths, "src", "tests", "bench", "cmake", "docs", suffixes=(*SOURCE, ".py", ".cmake", ".txt", ".md", "compare"))


class TheRulesBite(unittest.TestCase):
    """Every rule finds a breach of it, and lets a lawful neighbour pass."""

    def bites(self, rule, path, bad, good):
        self.assertNotEqual(rule(path, bad), [], f"must be found: {bad}")
        self.assertEqual(rule(path, good), [], f"must pass: {good}")

    def test_includes(self):
        self.bites(wrong_includes, "src/block/a.h", '#include "storage/file.h"', '#include "io/task.h"')
        self.bites(wrong_includes, "src/crypto/a.h", '#include "io/task.h"', '#include "base/error.h"')
        self.bites(wrong_includes, "src/io/a.h", '#include "crypto/secret.h"', '#include "io/task.h"')

    def test_length(self):
        self.bites(too_long, "src/a.h", "\n" * 801, "\n" * 800)

    def test_subject(self):
        self.bites(no_subject, "src/a.h", "#pragma once\n", "// The subject of this file.\n")

    def test_library_calls(self):
        for bad in ("std::exit(1);", "exit(1);", 'printf("x");', "std::cout << 1;", "getenv(name)", 'fmt::print("x")'):
            self.bites(library_calls, "src/io/a.cc", bad, "exit_code(1); at_exit(f); fmt::format(x); // printf(x)")
        self.bites(library_calls, "src/crypto/cpu.cc", "abort();", 'getenv("COFRE_AES")')

    def test_words(self):
        self.bites(banned_words, "src/a.h", "// TO" "DO: later", "// todos los dias")
        self.bites(skipped_tests, "tests/a.cc", "GTEST_" "SKIP();", "GTEST_FAIL();")
        self.bites(machine_paths, "src/a.h", "/ho" "me/me/x", "/usr/include")


if __name__ == "__main__":
    unittest.main(verbosity=2)
