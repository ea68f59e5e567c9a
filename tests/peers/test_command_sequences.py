"""Random sequences of commands on two copies of the same images: one kept by cofre's personalities, one by qemu-img and qemu-io.

After every command both give the same verdict. Now and then, and at the end, each copy looks the same to either program, to the
letter, and both copies show the same guest bytes, the same map and the same description, and are sound. Sometimes the copies change
hands in the middle. Both work in folders of their own with the same names in them, so that the command lines are the same.

A failure says how to run its sequence again and gives it as a shell script. By hand, with COFRE set (see cofre_peers.py):

  python3 test_command_sequences.py --seed 7                         everything that COFRE_TEST_SEED=7 runs
  python3 test_command_sequences.py --seed 7 --kind chains --number 31    one sequence of it
  python3 test_command_sequences.py --count 1000                     a thousand of each kind
"""

import argparse
import concurrent.futures
import dataclasses
import os
import random
import re
import shutil
import sys
import unittest

# Before the import: the seed is taken there.
ARGUMENTS = argparse.ArgumentParser()
ARGUMENTS.add_argument("--seed")
ARGUMENTS.add_argument("--kind")
ARGUMENTS.add_argument("--number", type=int)
ARGUMENTS.add_argument("--count", type=int)
CHOSEN = ARGUMENTS.parse_args(sys.argv[1:] if __name__ == "__main__" else [])
if CHOSEN.seed:
    os.environ["COFRE_TEST_SEED"] = CHOSEN.seed

from command_chain import OBJECT, Chain  # noqa: E402
from cofre_peers import COFRE, COMPAT_DIR, LONG, QEMU_IMG, QEMU_IO, SANITIZED, SEED, PeerCase, run  # noqa: E402
from dirty_extents import dirty_extents  # noqa: E402

# The same sequences in each `./test`; new ones are for --long and --seed. What those find may be an oddity of QEMU's, and is
# not for whoever only wants to know whether this machine's build is right.
CHOICE = SEED if LONG or os.environ.get("COFRE_TEST_SEED") else 1
SEQUENCES = CHOSEN.count or (600 if LONG else 3 if SANITIZED else 6)
STEPS = 16
LOOK_EVERY = 8
COMMAND_TIMEOUT_S = 120 if SANITIZED else 40

KINDS = {
    "everything": ("resize", "snapshot", "bitmap", "amend", "commit", "rebase", "convert", "check", "add_layer", "export", "compare",
                   "measure"),
    "snapshots": ("snapshot", "snapshot", "snapshot", "resize", "check", "convert", "export"),
    "chains": ("add_layer", "commit", "rebase", "add_layer", "convert", "compare", "export"),
    "bitmaps": ("bitmap", "bitmap", "bitmap", "snapshot", "resize", "convert", "check"),
    "changes": ("amend", "resize", "amend", "convert", "export", "snapshot", "measure"),
}

CALIBRATION_FAULT = "Unable to get accurate CPU usage"

# What differs between two tools or two moments by its nature.
OWN_OF_A_COPY = {"actual-size", "date-sec", "date-nsec", "vm-clock-sec", "vm-clock-nsec", "uuid", "master-key-iters", "iters",
                 "payload-offset"}
# Where on the host things lie, how much was left behind: each program's own affair.
OWN_OF_A_CHECK = {"image-end-offset", "fragmented-clusters", "leaks", "allocated-clusters", "compressed-clusters"}


@dataclasses.dataclass
class Side:
    """One copy of the images and the programs that keep it."""
    name: str
    folder: str
    programs: dict  # "img", "io"
    by_qemu: bool   # QEMU has ever written to the copy: it leaks clusters now and then

    def run(self, program, *args, folder=None):
        return run(self.programs[program], *args, cwd=folder or self.folder, timeout=COMMAND_TIMEOUT_S)


def comparable(value, own):
    if isinstance(value, dict):
        return {key: comparable(item, own) for key, item in value.items() if key not in own}
    if isinstance(value, list):
        return [comparable(item, own) for item in value]
    return value


def without_times(text):
    """What qemu-io and qemu-img print, without what depends on speed, and without the reasons of failures, which are ours."""
    lines = [line for line in text.splitlines() if not re.search(r"\d ops; ", line)]
    return [re.sub(r"^(\w+ failed):.*", r"\1", line) for line in lines]


def classes_between_copies(extents, content):
    """A map as a list of [end, class], for comparing maps of two copies: without host offsets, for who allocates where is his own
    affair. The flag `zero` of stored data says whether the host's file has a hole there: likewise. With `content`, all that reads as
    zero is one class, in sectors: over a backing file, or copying one, what a program knows to be zero without reading depends on such
    holes, and zeroes in raw files and raw data files are such holes."""
    joined = []

    def add(end, key):
        if joined and joined[-1][1] == key:
            joined[-1][0] = end
        else:
            joined.append([end, key])

    for extent in extents:
        end = extent["start"] + extent["length"]
        key = {name: extent[name] for name in ("depth", "present", "data", "compressed") if name in extent}
        key["zero"] = extent["zero"] and not extent["data"]
        if content is None:
            add(end, key)
            continue
        for sector in range(extent["start"], end, 512):
            zero = not any(content[sector:sector + 512])
            add(min(sector + 512, end), "zero" if zero else key)
    return joined


class History:
    """The commands so far, as a script that does the same by hand."""

    HEAD = """set -u; rm -rf sequence; mkdir -p sequence/cofre sequence/qemu; cd sequence; cofre=${{COFRE:-{cofre}}}
for side in cofre qemu; do printf 'one for all' >$side/secret; printf two >$side/secret2; done
both() {{ (cd cofre; PATH=$(dirname "$(dirname "$cofre")")/compat:$PATH "$@"; echo "cofre: $?"); (cd qemu; "$@"; echo "qemu: $?"); }}
luks() {{ shift; for side in cofre qemu; do (cd $side; "$cofre" "$@"; echo "cofre for $side: $?"); done; }}
swap() {{ mv cofre x; mv qemu cofre; mv x qemu; }}"""

    def __init__(self, kind, number):
        self.again = f"--seed {CHOICE} --kind {kind} --number {number}{f' --count {CHOSEN.count}' if CHOSEN.count else ''}"
        self.lines = []

    def __str__(self):
        return (f"\n  again: python3 test_command_sequences.py {self.again}\n"
                + "\n".join([self.HEAD.format(cofre=os.path.abspath(COFRE)), *self.lines]) + "\n")


class CommandSequences(PeerCase):

    def setUp(self):
        super().setUp()
        ours = {"img": f"{COMPAT_DIR}/qemu-img", "io": f"{COMPAT_DIR}/qemu-io"}
        self.sides = [Side("cofre", self.path("cofre"), ours, False),
                      Side("qemu", self.path("qemu"), {"img": QEMU_IMG, "io": QEMU_IO}, True)]
        self.pool = concurrent.futures.ThreadPoolExecutor(2)
        self.addCleanup(self.pool.shutdown)

    def start(self, kind, number):
        self.rng = random.Random(f"{CHOICE} {kind} {number}")
        self.history = History(kind, number)
        self.sides[0].by_qemu = False
        for side in self.sides:
            side.folder = self.path(side.name)
            shutil.rmtree(side.folder, ignore_errors=True)
            os.mkdir(side.folder)
            for name, content in (("secret", "one for all"), ("secret2", "two")):
                with open(os.path.join(side.folder, name), "w", encoding="utf-8") as file:
                    file.write(content)

    # -- commands

    def both(self, command):
        """Runs it on both sides: the same exit code, and output where that is told."""
        self.history.lines.append(f"{'luks' if command.makes_luks else 'both'} {command.line()}")
        try:
            results = list(self.pool.map(lambda side: self.run_on(side, command), self.sides))
        except AssertionError as late:
            raise AssertionError(f"{late}{self.history}") from None
        told = f"{results[0]}{results[1]}{self.history}"
        self.assertEqual(results[0].code, results[1].code, told)
        self.assertIn(results[0].code, (0, 1), told)
        if command.out:
            self.assertEqual(*[without_times(result.out) for result in results], told)
        if command.produces and results[0].code == 0:
            contents = [self.taken(os.path.join(side.folder, command.produces)) for side in self.sides]
            self.same_bytes(*contents, told)
        if results[0].code == 0 and command.effect:
            command.effect()

    def run_on(self, side, command):
        # qemu-img spends seconds on the key derivation of each LUKS header: cofre makes them on either side. qemu-img reads them soon
        # enough. (test_amend.py and test_new_images.py have headers made by qemu-img.)
        if command.makes_luks:
            return run(COFRE, *command.args, cwd=side.folder)
        return side.run(command.program, *command.args)

    def taken(self, path):
        content = self.read_file(path)
        os.unlink(path)
        return content

    def swap(self):
        """Each program goes on with what the other has made."""
        first, second = self.sides
        first.folder, second.folder = second.folder, first.folder
        first.by_qemu = True
        self.history.lines.append("swap")

    # -- looks

    def look(self, chain):
        top = chain.top
        named, alone = [*OBJECT, "--image-opts", top.opts()], [*OBJECT, "--image-opts", top.opts(chain=False)]
        content = self.content_of_both(named)
        maps = [self.seen_alike(side, "map", "--output=json", *named).json() for side in self.sides]
        told = content[0] if not top.strict() else None
        self.alike([classes_between_copies(extents, told) for extents in maps], "maps")
        infos = [self.seen_alike(side, "info", "--output=json", *alone).json() for side in self.sides]
        self.alike([comparable(info, OWN_OF_A_COPY) for info in infos], "descriptions")
        if top.format == "qcow2":
            checks = [self.sound(side, named) for side in self.sides]
            self.alike([comparable(check, OWN_OF_A_CHECK) for check in checks], "checks")
        for side in self.sides:
            self.seen_alike(side, *self.rng.choice([
                ["info", *alone], ["map", *named], ["check", *named], ["snapshot", "-l", *named],
                ["measure", "--output=json", "-O", "qcow2", *named], ["measure", "-O", "raw", *named],
                ["info", "--output=json", "--backing-chain", *alone]]))

    def look_at_bitmaps(self, chain):
        """One of the top's bitmaps has the same bits in both copies."""
        if chain.top.bitmaps:
            bitmap = self.rng.choice(chain.top.bitmaps)
            args = [*OBJECT, "--image-opts", chain.top.opts()]
            self.alike([dirty_extents(self, args, bitmap, cwd=side.folder) for side in self.sides], f"bits of '{bitmap}'")

    def seen_alike(self, side, *args):
        """A copy as either program sees it: the same to the letter. What qemu-img says of it."""
        ours, theirs = self.pool.map(lambda eyes: eyes.run("img", *args, folder=side.folder), self.sides)
        told = f"{self.copy_of(side)}, seen by either program{ours}{theirs}{self.history}"
        self.assertEqual((ours.code, self.loose(ours)), (theirs.code, self.loose(theirs)), told)
        # 1: a map for people of what has no offset in the file; 3: leaks; 63: of this format there are no checks.
        self.assertIn(theirs.code, (0, 1, 3, 63) if args[0] == "map" else (0, 3, 63), told)
        return theirs

    def loose(self, result):
        """JSON by its content: blanks and the order of keys say nothing."""
        return result.json() if "--output=json" in result.args and result.out else result.out

    def copy_of(self, side):
        return "the copy that cofre keeps" if side is self.sides[0] else "the copy that QEMU keeps"

    def sound(self, side, named):
        """Nothing is wrong, but that QEMU leaks now and then."""
        result = self.seen_alike(side, "check", "--output=json", *named)
        self.assertIn(result.code, (0, 3) if side.by_qemu else (0,), f"{self.copy_of(side)}{result}{self.history}")
        return result.json()

    def alike(self, views, what):
        if views[0] != views[1]:
            differences = [(a, b) for a, b in zip(*map(list, views)) if a != b] if isinstance(views[0], list) else views
            self.fail(f"{what} of the copies differ (cofre's, QEMU's); first: {differences[:1]}\n{views[0]}\n{views[1]}{self.history}")

    def content_of_both(self, named):
        """The guest's bytes of both copies as both programs read them: all the same."""
        views = []
        for side in self.sides:
            def read(eyes, side=side):
                out = self.path(f"content-{eyes.name}")
                return eyes.run("img", "convert", "-O", "raw", *named, out, folder=side.folder), out
            for result, out in self.pool.map(read, self.sides):
                self.assertEqual(result.code, 0, f"{self.copy_of(side)}{result}{self.history}")
                views.append(self.taken(out))
        for view, what in zip(views[1:], ("cofre's copy, qemu-img's eyes", "QEMU's copy, cofre's eyes", "QEMU's copy, qemu-img's eyes")):
            self.same_bytes(view, views[0], f"{what}, beside cofre's copy and eyes{self.history}")
        return views

    # -- sequences

    def sequence(self, kind, number):
        self.start(kind, number)
        chain = Chain(self.rng)
        while not chain.layers:
            self.both(chain.create())
        for step in range(STEPS):
            command = chain.next(KINDS[kind])
            if command is None:
                continue
            self.both(command)
            if self.rng.random() < 0.05:
                self.swap()
            if step % LOOK_EVERY == LOOK_EVERY - 1:
                self.look(chain)
        self.look_at_bitmaps(chain)

    def sequences(self, kind):
        for number in range(SEQUENCES):
            if CHOSEN.number in (None, number) and CHOSEN.kind in (None, kind):
                with self.subTest(kind=kind, number=number):
                    try:
                        self.sequence(kind, number)
                    except AssertionError:
                        print(f"failed: {self.history.again}", flush=True)  # a long run tells all else only at its end
                        raise

    def test_everything(self):
        self.sequences("everything")

    def test_snapshots(self):
        self.sequences("snapshots")

    def test_chains(self):
        self.sequences("chains")

    def test_bitmaps(self):
        self.sequences("bitmaps")

    def test_changes(self):
        self.sequences("changes")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
