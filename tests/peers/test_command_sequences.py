"""Random sequences of commands on two copies of the same images: one kept by cofre's personalities, one by qemu-img and qemu-io.

After every command both give the same verdict. Now and then, and at the end, both copies show the same guest bytes, the same
map, the same description, and are sound, whoever looks. Sometimes the copies change hands in the middle.

Both work in folders of their own with the same names in them, so that the command lines are the same to the letter.
"""

import dataclasses
import os
import shutil
import unittest

from cofre_peers import COFRE, COMPAT_DIR, FAST_KDF_MS, KIB, LONG, MIB, QEMU_IMG, QEMU_IO, SEED, PeerCase, run

SEQUENCES = 400 if LONG else 6
STEPS = 40 if LONG else 25
LOOK_EVERY = 8

CALIBRATION_FAULT = "Unable to get accurate CPU usage"


@dataclasses.dataclass
class Side:
    """One copy of the images and the programs that keep it."""
    name: str
    folder: str
    img_program: str
    io_program: str

    def img(self, *args):
        return run(self.img_program, *args, cwd=self.folder)

    def io(self, *args):
        return run(self.io_program, *args, cwd=self.folder)


@dataclasses.dataclass
class Layer:
    """An image of the chain, as both sides have it."""
    file: str
    format: str
    size: int
    encryption: str = ""      # "", "aes", "luks"
    version: int = 3
    backing: object = None    # Layer
    snapshots: list = dataclasses.field(default_factory=list)
    bitmaps: list = dataclasses.field(default_factory=list)

    def opts(self, prefix="", chain=True):
        """--image-opts of this image and everything below it, or of it alone."""
        parts = [f"{prefix}driver={self.format}", f"{prefix}file.filename={self.file}"]
        if self.encryption:
            parts.append(f"{prefix}encrypt.key-secret=s0")
        if self.backing and chain:
            parts.append(self.backing.opts(prefix + "backing."))
        return ",".join(parts)


OBJECT = ("--object", "secret,id=s0,file=secret")


class Chain:
    """The images of one sequence and the commands that may befall them. Every command is (program, arguments)."""

    def __init__(self, rng):
        self.rng = rng
        self.layers = []      # the top last
        self.commands = 0

    @property
    def top(self):
        return self.layers[-1]

    # -- making images

    def geometry(self, encryption):
        rng = self.rng
        options = [f"cluster_size={rng.choice(['512', '4k', '64k', '64k', '1M'])}"]
        version = rng.choice([2, 3, 3, 3])
        options.append(f"compat={'0.10' if version == 2 else '1.1'}")
        if version == 3:
            if rng.random() < 0.3:
                options.append(f"refcount_bits={rng.choice([1, 2, 4, 8, 32, 64])}")
            elif rng.random() < 0.3:
                options.append("lazy_refcounts=on")
            if rng.random() < 0.25 and options[0] in ("cluster_size=64k", "cluster_size=1M"):
                options.append("extended_l2=on")
        if encryption == "luks":
            options.append(f"encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time={FAST_KDF_MS}")
        elif encryption == "aes":
            options.append("encrypt.format=aes,encrypt.key-secret=s0")
        return version, ",".join(options)

    def create_top(self):
        rng = self.rng
        number = len(self.layers)
        encryption = rng.choice(["", "", "", "aes", "luks"])
        version, options = self.geometry(encryption)
        size = rng.choice([1, 2, 3, 4]) * MIB + rng.choice([0, 0, 512, 65536])
        layer = Layer(f"layer{number}-{self.commands}.qcow2", "qcow2", size, encryption, version, self.layers[-1] if self.layers else None)
        backing = []
        if layer.backing:
            options += f",backing_file={layer.backing.file},backing_fmt={layer.backing.format}"
            backing = ["-u"]
        self.layers.append(layer)
        return "img", ["create", "-q", *OBJECT, "-f", "qcow2", *backing, "-o", options, layer.file, str(size)]

    # -- guest requests

    def spot(self, layer, unit=512, longest=300 * KIB):
        length = min(self.rng.choice([unit, 4 * KIB, 64 * KIB, longest]), layer.size)
        length = max(unit, length // unit * unit)
        offset = self.rng.randrange(0, max(1, (layer.size - length) // unit + 1)) * unit
        return offset, length

    def io_commands(self):
        layer = self.rng.choice(self.layers) if self.rng.random() < 0.15 else self.top
        words = []
        for _ in range(self.rng.randrange(1, 6)):
            offset, length = self.spot(layer)
            draw = self.rng.random()
            if draw < 0.5:
                words.append(f"write -P {self.rng.randrange(1, 256)} {offset} {length}")
            elif draw < 0.65:
                words.append(f"write -z {self.rng.choice(['', '-u '])}{offset} {length}")
            elif draw < 0.75:
                words.append(f"discard {offset} {length}")
            elif draw < 0.8:
                words.append("flush")
            else:
                words.append(f"read {offset} {length}")
        return "io", [*OBJECT, "-d", "unmap", "--image-opts", layer.opts(), *(part for word in words for part in ("-c", word))]

    # -- commands of qemu-img; each gives None when it does not apply now

    def resize(self):
        layer = self.top
        size = max(512, (layer.size + self.rng.choice([-MIB, -65536, 512, 65536, MIB, 2 * MIB])) // 512 * 512)
        shrink = ["--shrink"] if size < layer.size or self.rng.random() < 0.2 else []
        if size < layer.size and (layer.snapshots or layer.bitmaps):
            return None
        mode = self.rng.choice(["off", "off", "metadata", "falloc", "full"])
        mode = [f"--preallocation={mode}"] if size > layer.size and not layer.encryption and not layer.backing else []
        layer.size = size
        return "img", ["resize", "-q", *OBJECT, *shrink, *mode, "--image-opts", layer.opts(), str(size)]

    def snapshot(self):
        layer = self.top
        draw = self.rng.random()
        known = self.rng.choice(layer.snapshots) if layer.snapshots else None
        named = [*OBJECT, "--image-opts", layer.opts()]
        if known is None or draw < 0.4:
            if len(layer.snapshots) > 3:
                return None
            layer.snapshots.append((f"s{self.commands}", layer.size))
            return "img", ["snapshot", "-c", layer.snapshots[-1][0], *named]
        if draw < 0.6:
            if layer.version == 2 and known[1] != layer.size:
                return None
            layer.size = known[1]
            return "img", ["snapshot", "-a", known[0], *named]
        if draw < 0.9:
            layer.snapshots.remove(known)
            return "img", ["snapshot", "-d", known[0], *named]
        return "img", ["snapshot", "-a", "nothing", *named]

    def bitmap(self):
        layer = self.top
        if layer.version == 2:
            return None
        named = [*OBJECT, "--image-opts", layer.opts()]
        draw = self.rng.random()
        known = self.rng.choice(layer.bitmaps) if layer.bitmaps else None
        if known is None or draw < 0.35:
            if len(layer.bitmaps) > 3:
                return None
            layer.bitmaps.append(f"b{self.commands}")
            granularity = self.rng.choice([[], ["-g", "512"], ["-g", "4k"], ["-g", "1M"]])
            return "img", ["bitmap", "--add", *granularity, *named, layer.bitmaps[-1]]
        if draw < 0.5:
            layer.bitmaps.remove(known)
            return "img", ["bitmap", "--remove", *named, known]
        if draw < 0.8 or len(layer.bitmaps) < 2:
            return "img", ["bitmap", self.rng.choice(["--clear", "--enable", "--disable"]), *named, known]
        return "img", ["bitmap", "--merge", self.rng.choice(layer.bitmaps), *named, known]

    def amend(self):
        layer = self.top
        choice = self.rng.choice(["compat=1.1", "compat=0.10", "lazy_refcounts=on", "lazy_refcounts=off", "refcount_bits=16",
                                  "refcount_bits=64"])
        if choice == "compat=0.10":
            return None if layer.bitmaps else ("img", ["amend", "-q", *OBJECT, "-o", choice, "--image-opts", layer.opts()])
        return "img", ["amend", "-q", *OBJECT, "-o", choice, "--image-opts", layer.opts()]

    def commit(self):
        if not self.top.backing or self.top.snapshots or self.top.bitmaps or self.top.size > self.top.backing.size:
            return None
        return "img", ["commit", "-q", *OBJECT, *self.rng.choice([[], ["-d"]]), "--image-opts", self.top.opts()]

    def rebase(self):
        """The top onto the image two below, or onto nothing, its content kept."""
        if not self.top.backing or self.top.snapshots or any(layer.encryption for layer in self.layers[:-1]):
            return None
        target = self.top.backing.backing if self.rng.random() < 0.7 else None
        onto = ["-b", target.file, "-F", target.format] if target else ["-b", ""]
        command = ["rebase", "-q", *OBJECT, *onto, "--image-opts", self.top.opts()]
        self.top.backing = target
        self.layers = ([] if target is None else self.layers[:self.layers.index(target) + 1]) + [self.top]
        return "img", command

    def convert(self):
        """Into a new image, which takes the chain's place."""
        encryption = self.rng.choice(["", "", "aes", "luks"])
        version, options = self.geometry(encryption)
        compressed = ["-c"] if not encryption and self.rng.random() < 0.3 else []
        layer = Layer(f"converted-{self.commands}.qcow2", "qcow2", self.top.size, encryption, version)
        command = ["convert", *OBJECT, *compressed, "-O", "qcow2", "-o", options, "--image-opts", self.top.opts(), layer.file]
        self.layers = [layer]
        return "img", command

    def check(self):
        return "img", ["check", "-q", *OBJECT, "-r", self.rng.choice(["leaks", "all"]), "--image-opts", self.top.opts()]

    def add_layer(self):
        return self.create_top() if len(self.layers) < 3 else None

    def next(self, known_commands):
        self.commands += 1
        if self.rng.random() < 0.5:
            return self.io_commands()
        name = self.rng.choice(known_commands)
        return getattr(self, name)()


class CommandSequences(PeerCase):

    COMMANDS = ("resize", "snapshot", "bitmap", "amend", "commit", "rebase", "convert", "check", "add_layer")

    def setUp(self):
        super().setUp()
        self.sides = [self.side("cofre", f"{COMPAT_DIR}/qemu-img", f"{COMPAT_DIR}/qemu-io"), self.side("qemu", QEMU_IMG, QEMU_IO)]

    def known(self, commands):
        """Those that the personality has."""
        programs = {"add_layer": "create"}
        return [name for name in commands if run(self.sides[0].img_program, programs.get(name, name), "--help").code == 0]

    def side(self, name, img_program, io_program):
        folder = self.path(name)
        os.mkdir(folder)
        return Side(name, folder, img_program, io_program)

    def empty(self):
        for side in self.sides:
            shutil.rmtree(side.folder)
            os.mkdir(side.folder)
            with open(os.path.join(side.folder, "secret"), "w", encoding="utf-8") as file:
                file.write("one for all")

    def history(self, lines):
        return f"\n  COFRE_TEST_SEED={SEED} in {self.dir}, commands so far:\n    " + "\n    ".join(lines)

    def both(self, command, lines):
        """Runs it on both sides: the same exit code."""
        program, args = command
        lines.append(f"{program} {' '.join(args)}")
        results = [self.run_on(side, program, args) for side in self.sides]
        self.assertEqual(results[0].code, results[1].code, f"{self.history(lines)}{results[0]}{results[1]}")
        return results

    def run_on(self, side, program, args):
        # LUKS headers are made by cofre on either side: qemu-img spends seconds on each. It reads them soon enough.
        if program == "img" and args[0] in ("create", "convert") and "encrypt.format=luks" in args[args.index("-o") + 1]:
            return run(COFRE, *args, cwd=side.folder)
        return side.img(*args) if program == "img" else side.io(*args)

    def look(self, chain, lines):
        """Everything that can be seen of the top is the same on both sides, by either program's eyes."""
        top = chain.top
        self.same([side.img(*args) for side in self.sides for args in [["check", *OBJECT, "--image-opts", top.opts()]]], lines, "check")
        seen = {"bytes": [], "map": [], "info": []}
        for side in self.sides:
            for eyes in self.sides:
                seen["bytes"].append(self.guest_bytes(side, eyes, top, lines))
                seen["map"].append(self.map_of(side, eyes, top, lines))
                seen["info"].append(self.info_of(side, eyes, top, lines))
        for what, views in seen.items():
            for view in views[1:]:
                if view != views[0]:
                    self.fail(f"{what} differs (copies of cofre and qemu, each seen by cofre and qemu): {self.difference(what, views)}"
                              f"{self.history(lines)}")

    def difference(self, what, views):
        if what == "bytes":
            return [next((i for i, (a, b) in enumerate(zip(views[0], view)) if a != b), len(view)) for view in views]
        return "\n".join(str(view) for view in views)

    def same(self, results, lines, what):
        self.assertEqual(*[(result.code, result.out.count("\n") if result.code else 0) for result in results],
                         f"{what}{self.history(lines)}{''.join(map(str, results))}")
        self.assertIn(results[0].code, (0,), f"{what}{self.history(lines)}{results[0]}")

    def guest_bytes(self, side, eyes, layer, lines):
        out = os.path.join(self.dir, "bytes.raw")
        result = run(eyes.img_program, "convert", *OBJECT, "-O", "raw", "--image-opts", layer.opts(), out, cwd=side.folder)
        self.assertEqual(result.code, 0, f"{self.history(lines)}{result}")
        content = self.read_file(out)
        os.unlink(out)
        return content

    def map_of(self, side, eyes, layer, lines):
        """Where the bytes come from: the map without host offsets, for who allocates where is his own affair. All that reads as
        zero is one: how a program says so (no entry, a zero cluster, a hole of the file) is, too. Neighbours alike are joined."""
        result = run(eyes.img_program, "map", "--output=json", *OBJECT, "--image-opts", layer.opts(), cwd=side.folder)
        self.assertEqual(result.code, 0, f"{self.history(lines)}{result}")
        joined = []
        for extent in result.json():
            zero = extent["zero"] or not extent["present"]
            key = "zero" if zero else {name: extent[name] for name in ("depth", "data", "compressed") if name in extent}
            if joined and joined[-1][1] == key:
                joined[-1][0] = extent["start"] + extent["length"]
            else:
                joined.append([extent["start"] + extent["length"], key])
        return joined

    def info_of(self, side, eyes, layer, lines):
        result = run(eyes.img_program, "info", "--output=json", *OBJECT, "--image-opts", layer.opts(chain=False), cwd=side.folder)
        self.assertEqual(result.code, 0, f"{self.history(lines)}{result}")
        return self.comparable(result.json())

    # What differs between two tools or two moments by its nature.
    OWN = {"actual-size", "date-sec", "date-nsec", "uuid", "payload-offset", "slots", "master-key-iters", "vm-clock-nsec", "vm-clock-sec"}

    def comparable(self, value):
        if isinstance(value, dict):
            return {key: self.comparable(item) for key, item in value.items() if key not in self.OWN}
        if isinstance(value, list):
            return [self.comparable(item) for item in value]
        return value

    def swap(self):
        """Each program goes on with what the other has made."""
        first, second = self.sides
        first.folder, second.folder = second.folder, first.folder

    def sequence(self, commands):
        commands = self.known(commands)
        self.empty()
        chain, lines = Chain(self.rng), []
        self.both(chain.create_top(), lines)
        for step in range(STEPS):
            command = chain.next(commands)
            if command is None:
                continue
            self.both(command, lines)
            if self.rng.random() < 0.1:
                self.swap()
                lines.append("(the copies change hands)")
            if step % LOOK_EVERY == LOOK_EVERY - 1:
                self.look(chain, lines)
        self.look(chain, lines)

    def test_all_commands(self):
        for _ in range(SEQUENCES):
            self.sequence(self.COMMANDS)

    def test_snapshots_above_all(self):
        for _ in range(SEQUENCES):
            self.sequence(("snapshot", "snapshot", "resize", "check"))

    def test_chains_above_all(self):
        for _ in range(SEQUENCES):
            self.sequence(("add_layer", "commit", "rebase", "add_layer", "convert"))

    def test_bitmaps_above_all(self):
        for _ in range(SEQUENCES):
            self.sequence(("bitmap", "bitmap", "snapshot", "resize"))


if __name__ == "__main__":
    unittest.main()
