"""A chain of images and the random commands that may befall it: what test_command_sequences.py has two programs do.

The chain follows what the commands do, only as far as the next command needs it: names, sizes, who stands on whom.
"""

import dataclasses
import shlex

from cofre_peers import FAST_KDF_MS, KIB, MIB

OBJECT = ("--object", "secret,id=s0,file=secret")
NEW_OBJECT = ("--object", "secret,id=s1,file=secret2")


@dataclasses.dataclass
class Command:
    """`program` is "img" or "io". `effect` is called if the command succeeded. `out`: what is printed must be the same, too."""
    program: str
    args: list
    effect: object = None
    out: bool = False
    makes_luks: bool = False  # takes seconds of qemu-img's time
    produces: str = ""        # a raw file, whose bytes must be the same; it is removed then

    def line(self):
        return f"qemu-{self.program} {shlex.join(map(str, self.args))}"


@dataclasses.dataclass
class Layer:
    """An image of the chain, as both sides have it."""
    file: str
    size: int
    format: str = "qcow2"
    encryption: str = ""      # "", "aes", "luks"
    version: int = 3
    cluster: int = 65536
    extended: bool = False
    refcount_bits: int = 16
    data_file: str = ""       # "", "cooked", "raw"
    backing: object = None    # Layer
    snapshots: list = dataclasses.field(default_factory=list)
    bitmaps: list = dataclasses.field(default_factory=list)
    keyslots: int = 1
    vm_state: bool = False
    made: int = 0             # by which command
    copied: bool = False      # made from another image by convert or rebase: what of it is known to be zero depended on that one's file

    def opts(self, prefix="", chain=True):
        """--image-opts of this image and everything below it, or of it alone."""
        parts = [f"{prefix}driver={self.format}", f"{prefix}file.filename={self.file}"]
        if self.encryption:
            parts.append(f"{prefix}encrypt.key-secret=s0")
        if self.backing and chain:
            parts.append(self.backing.opts(prefix + "backing."))
        return ",".join(parts)

    def chain(self):
        """This image and those below it."""
        return [self] + (self.backing.chain() if self.backing else [])

    def plain(self):
        return not any(layer.encryption for layer in self.chain())

    def strict(self):
        """Whether a map of it says the same whoever wrote it, see Looks.map_between."""
        return self.backing is None and self.format == "qcow2" and self.data_file != "raw" and not self.copied


class Chain:
    """The images of one sequence."""

    def __init__(self, rng):
        self.rng = rng
        self.layers = []      # the top last
        self.commands = 0

    @property
    def top(self):
        return self.layers[-1]

    def chance(self, probability):
        return self.rng.random() < probability

    def name(self, layer, chain=True):
        """The arguments that name an image."""
        if layer.plain() and self.chance(0.3):
            return ["-f", layer.format, layer.file]
        return [*OBJECT, "--image-opts", layer.opts(chain=chain)]

    def fresh(self, layer):
        """Whether nothing but the last command, which made it, has befallen it."""
        return layer.made == self.commands - 1

    def grows_over_backing(self, layer, size):
        """A version 2 image hides what a longer backing file holds by writing zeros here; qemu-img refuses ("Where qemu-img 7.2 does
        otherwise" in docs/format/qcow2.md)."""
        return layer.version == 2 and layer.backing is not None and size > layer.size

    # -- making images

    def geometry(self, file, size, encryption, backing=None, compressed=False):
        """A new layer and its options for -o."""
        rng = self.rng
        layer = Layer(file, size, encryption=encryption, backing=backing, made=self.commands)
        layer.cluster = rng.choice([512, 4 * KIB, 64 * KIB, 64 * KIB, MIB])
        layer.version = rng.choice([2, 3, 3, 3])
        options = [f"cluster_size={layer.cluster}", f"compat={'0.10' if layer.version == 2 else '1.1'}"]
        if layer.version == 3:
            if self.chance(0.3):
                layer.refcount_bits = rng.choice([1, 2, 4, 8, 32, 64])
                options.append(f"refcount_bits={layer.refcount_bits}")
            elif self.chance(0.3):
                options.append("lazy_refcounts=on")
            if self.chance(0.3) and layer.cluster >= 64 * KIB:
                layer.extended = True
                options.append("extended_l2=on")
            if self.chance(0.2):
                options.append("compression_type=zstd")
            if self.chance(0.12) and not compressed and not backing:
                # Not raw and encrypted: its clusters are preallocated ("Encryption" in docs/format/qcow2.md).
                layer.data_file = rng.choice(["cooked", "raw"]) if not encryption else "cooked"
                options.append(f"data_file={file}.data,data_file_raw={'on' if layer.data_file == 'raw' else 'off'}")
        if encryption == "luks":
            options.append(f"encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time={FAST_KDF_MS}")
        elif encryption == "aes":
            options.append("encrypt.format=aes,encrypt.key-secret=s0")
        elif not backing and self.chance(0.2):
            options.append(f"preallocation={rng.choice(['metadata', 'falloc', 'full'])}")
        return layer, ",".join(options)

    def create(self):
        """A new top."""
        rng = self.rng
        backing = self.layers[-1] if self.layers else None
        size = rng.choice([1, 2, 3, 4]) * MIB + rng.choice([0, 0, 512, 65536])
        if not backing and self.chance(0.1):
            layer = Layer(f"base-{self.commands}.raw", size, format="raw")
            return Command("img", ["create", "-q", "-f", "raw", layer.file, size], lambda: self.layers.append(layer))
        layer, options = self.geometry(f"layer-{self.commands}.qcow2", size, rng.choice(["", "", "", "aes", "luks"]), backing)
        below = []
        if backing and self.chance(0.5):
            options += f",backing_file={backing.file},backing_fmt={backing.format}"
            below = ["-u"]
        elif backing:
            below = ["-b", backing.file, "-F", backing.format] + (["-u"] if not backing.plain() or self.chance(0.5) else [])
        return Command("img", ["create", "-q", *OBJECT, "-f", "qcow2", *below, "-o", options, layer.file, size],
                       lambda: self.layers.append(layer), makes_luks=layer.encryption == "luks")

    def add_layer(self):
        return self.create() if len(self.layers) < 3 else None

    # -- guest requests

    def spot(self, layer, unit=512, longest=300 * KIB):
        if self.chance(0.02):
            return layer.size, unit  # past the end
        length = min(self.rng.choice([unit, 4 * KIB, 64 * KIB, longest]), layer.size)
        length = max(unit, length // unit * unit)
        offset = self.rng.randrange(0, max(1, (layer.size - length) // unit + 1)) * unit
        return offset, length

    def request(self, layer):
        """One command of qemu-io."""
        rng = self.rng
        offset, length = self.spot(layer, rng.choice([512, 512, 512, 512, 1]))
        draw = rng.random()
        if draw < 0.45:
            return f"{rng.choice(['write', 'writev'])} -P {rng.randrange(1, 256)} {offset} {length}"
        offset, length = self.spot(layer)
        if draw < 0.6:
            return f"write -z {rng.choice(['', '-u '])}{offset} {length}"
        if draw < 0.7:
            return f"discard {offset} {length}"
        if draw < 0.75 and layer.format == "qcow2":
            return self.special_request(layer)
        if draw < 0.8:
            return rng.choice(["flush", "length", f"alloc {offset} {length}", "map"])
        return f"read {rng.choice(['', '-P 0 '])}{offset} {length}"

    def special_request(self, layer):
        """Compressed clusters, and the VM state behind the disk."""
        if self.chance(0.6):
            if layer.encryption or layer.data_file or layer.size < 2 * layer.cluster:
                return "flush"  # see "Where qemu-img 7.2 does otherwise" in docs/format/qcow2.md: `write -c` and encryption
            if layer.version == 2 and layer.backing:
                return "flush"
            # Over clusters that hold data: the same table.
            at = f"{self.rng.randrange(0, layer.size // layer.cluster) * layer.cluster} {layer.cluster}"
            return f"discard {at}\nwrite -c -P {self.rng.randrange(1, 256)} {at}"
        if layer.data_file or layer.backing:
            return "flush"  # over a backing file qemu-img shows the backing file's disk where no VM state was written, here it is zero
        layer.vm_state = True
        offset = self.rng.randrange(0, 64) * 512
        return self.rng.choice([f"write -b -P {self.rng.randrange(1, 256)} {offset} 4k", f"read -b -v {offset} 512"])

    def io(self):
        layer = self.rng.choice(self.layers) if self.chance(0.15) else self.top
        words = [word for _ in range(self.rng.randrange(1, 6)) for word in self.request(layer).split("\n")]
        how = self.rng.choice([["-d", "unmap"], ["-d", "unmap"], [], ["-t", "writethrough"], ["-d", "unmap", "-t", "unsafe"]])
        if any(word.startswith("write -c") for word in words):
            how = ["-d", "unmap"]
        # Whether a map tells a zero cluster or holes of the file as data is no matter of `out`: see Looks.map_between.
        same_out = not any(word.split()[0] in ("map", "alloc") for word in words) or layer.strict()
        return Command("io", [*how, *self.name(layer), *(part for word in words for part in ("-c", word))], out=same_out)

    # -- commands of qemu-img; each gives None when it does not apply now

    def resize(self):
        layer = self.top
        size = max(512, (layer.size + self.rng.choice([-MIB, -65536, 512, 65536, MIB, 2 * MIB])) // 512 * 512)
        if size < layer.size:
            # A cluster that is cut: qemu-img shows its bytes again when the disk grows ("A shorter disk" in docs/format/qcow2.md).
            size = -(-size // max(layer.cluster, 64 * KIB)) * max(layer.cluster, 64 * KIB)
        if self.grows_over_backing(layer, size):
            return None
        if layer.vm_state and size != layer.size:
            return None  # new bytes may be VM state with qemu-img, and are zeros here (the same place)
        shrink = ["--shrink"] if size < layer.size and self.chance(0.9) or self.chance(0.2) else []
        mode = self.rng.choice(["off", "metadata"])
        # With qemu-img new bytes of preallocated clusters that had been in use before read as what they held then (the same place).
        if mode != "off" and not self.fresh(layer):
            mode = "off"
        if self.fresh(layer):
            mode = self.rng.choice([mode, "falloc", "full"])
        # Preallocated clusters of encrypted images are zero clusters here, and noise with qemu-img ("Encryption", the same place).
        mode = [f"--preallocation={mode}"] if size > layer.size and not layer.encryption and self.chance(0.7) else []
        if layer.format == "raw" and mode:
            mode = self.rng.choice([[], ["--preallocation=full"]])
        told = f"+{size - layer.size}" if size > layer.size and self.chance(0.3) else str(size)

        def effect():
            layer.size = size
        return Command("img", ["resize", "-q", *shrink, *mode, *self.name(layer), told], effect)

    def snapshot(self):
        layer = self.top
        draw = self.rng.random()
        known = self.rng.choice(layer.snapshots) if layer.snapshots else None
        named = self.name(layer)
        if "-f" in named:
            named = named[2:]  # `snapshot` has no -f
        if known is None or draw < 0.4:
            if len(layer.snapshots) > 3:
                return None
            made = (f"s{self.commands}", layer.size)
            return Command("img", ["snapshot", "-c", made[0], *named], lambda: layer.snapshots.append(made))
        if draw < 0.6:
            def applied():
                layer.size = known[1]
            return Command("img", ["snapshot", "-a", known[0], *named], applied)
        if draw < 0.9:
            return Command("img", ["snapshot", "-d", known[0], *named], lambda: layer.snapshots.remove(known))
        return Command("img", ["snapshot", self.rng.choice(["-a", "-d"]), "nothing", *named])

    def bitmap(self):
        layer = self.top
        named = self.name(layer, chain=False)
        draw = self.rng.random()
        known = self.rng.choice(layer.bitmaps) if layer.bitmaps else None
        if known is None or draw < 0.35:
            if len(layer.bitmaps) > 3:
                return None
            made = f"b{self.commands}"
            granularity = self.rng.choice([[], ["-g", "512"], ["-g", "4k"], ["-g", "1M"], ["-g", "3k"]])
            further = self.rng.choice([[], [], ["--disable"]])
            return Command("img", ["bitmap", "--add", *further, *granularity, *named, made], lambda: layer.bitmaps.append(made))
        if draw < 0.5:
            return Command("img", ["bitmap", "--remove", *named, known], lambda: layer.bitmaps.remove(known))
        if draw < 0.8 or len(layer.bitmaps) < 2:
            what = self.rng.choice([["--clear"], ["--enable"], ["--disable"], ["--clear", "--enable"]])
            return Command("img", ["bitmap", *what, *named, known])
        return Command("img", ["bitmap", "--merge", self.rng.choice(layer.bitmaps), *named, known])

    def amend(self):
        layer = self.top
        if layer.format == "raw":
            return None
        choice = self.rng.choice(["compat=1.1", "compat=0.10", "lazy_refcounts=on", "lazy_refcounts=off", "refcount_bits=16",
                                  "refcount_bits=64", "refcount_bits=1", "size", "keyslot", "keyslot"])
        if choice == "keyslot":
            return self.amend_keyslot(layer)
        size = layer.size + self.rng.choice([0, 65536])
        bits = int(choice.split("=")[1]) if choice.startswith("refcount_bits") else layer.refcount_bits
        if bits != layer.refcount_bits and layer.cluster * 8 // min(bits, layer.refcount_bits) > 200_000:
            return None  # qemu-img takes minutes: it looks at every count of a refcount block, again and again
        if choice == "size":
            if layer.vm_state or self.grows_over_backing(layer, size):
                return None
            choice = f"size={size}"
        elif choice == "compat=0.10" and (layer.backing or layer.snapshots):
            return None  # other zero clusters are filled ("Where qemu-img 7.2 does otherwise" in docs/format/qcow2.md)

        def effect():
            if choice.startswith("size"):
                layer.size = size
            elif choice.startswith("refcount_bits"):
                layer.refcount_bits = bits
            elif choice.startswith("compat"):
                layer.version = 2 if choice.endswith("0.10") else 3
        return Command("img", ["amend", "-q", "-o", choice, *self.name(layer)], effect)

    def amend_keyslot(self, layer):
        """One passphrase more or one less; the first stays."""
        if layer.encryption != "luks":
            return None
        if layer.keyslots > 1:
            options = f"encrypt.state=inactive,encrypt.keyslot={layer.keyslots - 1}"
            change = -1
        else:
            options = f"encrypt.state=active,encrypt.new-secret=s1,encrypt.iter-time={FAST_KDF_MS}"
            change = 1

        def effect():
            layer.keyslots += change
        return Command("img", ["amend", "-q", *OBJECT, *NEW_OBJECT, "-o", options, "--image-opts", layer.opts()], effect,
                       makes_luks=change > 0)

    def commit(self):
        """The top's data into the image below it, or into a lower one, whereupon those between are of no use."""
        top = self.top
        if not top.backing:
            return None
        if top.backing.vm_state and top.size > top.backing.size:
            return None
        # A relative -b is refused by qemu-img beside options that make the name json, and understood here.
        base = self.rng.choice(top.chain()[1:]) if top.plain() and self.chance(0.4) else None
        drop = ["-d"] if self.chance(0.5) else []
        named = ["-f", "qcow2", top.file] if base else self.name(top)
        target = base or top.backing
        if self.grows_over_backing(target, top.size):
            return None

        def effect():
            target.size, target.copied = max(target.size, top.size), True
            if base and base is not top.backing:
                self.layers = base.chain()[::-1]
                # Whoever stood on the committed data now stands on the base.
        return Command("img", ["commit", "-q", *drop, *(["-b", base.file] if base else []), *named], effect)

    def rebase(self):
        """The top onto another image below, or onto nothing: its content kept, or (-u) only the name."""
        top = self.top
        if not top.backing:
            return None
        target = self.rng.choice(top.chain()[1:] + [None])
        onto = ["-b", target.file, "-F", target.format] if target else ["-b", ""]
        unsafe = self.chance(0.25)
        named = self.name(top, chain=not unsafe)
        if target and not top.plain():
            if not unsafe:
                return None  # a relative -b beside a json name (as in commit), and a name alone is no key
            named = [*OBJECT, "--image-opts", top.opts(chain=False)]
        elif target:
            named = ["-f", "qcow2", top.file]

        def effect():
            top.backing, top.copied = target, True
            self.layers = ([] if target is None else self.layers[:self.layers.index(target) + 1]) + [top]
        return Command("img", ["rebase", "-q", *(["-u"] if unsafe else []), *onto, *named], effect)

    def convert(self):
        """Into a new image, which takes the chain's place."""
        top = self.top
        compressed = self.chance(0.3)
        encryption = self.rng.choice(["", "", "aes", "luks"]) if not compressed else ""
        backing = top.backing if top.backing and top.backing.plain() and not top.snapshots and self.chance(0.4) else None
        snapshot = self.rng.choice(top.snapshots) if top.snapshots and self.chance(0.5) else None
        if snapshot and snapshot[1] != top.size:
            snapshot = None  # qemu-img shows it in the disk's present size ("Snapshots" in docs/format/qcow2.md)
        layer, options = self.geometry(f"converted-{self.commands}.qcow2", top.size, encryption, backing, compressed)
        how = ["-c"] if compressed else []
        how += self.rng.choice([[], [], ["-S", "0"], ["-S", "4k"], ["-S", "64k"]])
        how += self.rng.choice([[], ["-W"], ["-m", "3"], ["-W", "-m", "16"]])
        if snapshot:
            how += ["-l", self.rng.choice([snapshot[0], f"snapshot.name={snapshot[0]}"])]
        if backing:
            how += ["-B", backing.file, "-F", backing.format]
            if "-S" in how and "0" in how:
                return None  # what is known to be zero below is data then, and what is known depends on holes of that file
        if top.bitmaps and not snapshot and self.chance(0.5):
            how.append("--bitmaps")
            layer.bitmaps = list(top.bitmaps)

        layer.copied = True

        def effect():
            self.layers = ([] if not backing else backing.chain()[::-1]) + [layer]
        return Command("img", ["convert", *OBJECT, *how, "-O", "qcow2", "-o", options, "--image-opts", top.opts(), layer.file],
                       effect, makes_luks=encryption == "luks")

    def export(self):
        """Into a raw file."""
        top = self.top
        if top.plain() and self.chance(0.5):
            numbers = [f"bs={self.rng.choice([512, '4k', '64k', 1000])}"]
            numbers += self.rng.choice([[], ["count=13"]]) + self.rng.choice([[], ["skip=2"], ["skip=9999"]])
            return Command("img", ["dd", "-f", top.format, "-O", "raw", *numbers, f"if={top.file}", "of=out.raw"], produces="out.raw")
        how = self.rng.choice([[], ["-S", "0"], ["-S", "4k"], ["-S", "1M"]])
        return Command("img", ["convert", *OBJECT, *how, "-O", "raw", "--image-opts", top.opts(), "out.raw"], produces="out.raw")

    def compare(self):
        other = self.rng.choice(self.layers)
        return Command("img", ["compare", *OBJECT, "--image-opts", self.top.opts(), other.opts()], out=True)

    def measure(self):
        size = self.rng.choice([512, MIB, 3 * MIB + 512, 1 << 30, 1 << 44])
        _, options = self.geometry("unused", size, "")
        options = ",".join(option for option in options.split(",") if not option.startswith("data_file"))
        return Command("img", ["measure", "--output=json", "-O", "qcow2", "-o", options, "--size", size], out=True)

    def check(self):
        if self.top.format == "raw":
            return None
        if self.top.bitmaps and self.top.snapshots:
            return None  # qemu-img loses the snapshots ("Where qemu-img 7.2 does otherwise" in docs/format/qcow2.md)
        return Command("img", ["check", "-q", "-r", self.rng.choice(["leaks", "all"]), *self.name(self.top)])

    def next(self, names):
        self.commands += 1
        if self.chance(0.45):
            return self.io()
        return getattr(self, self.rng.choice(names))()
