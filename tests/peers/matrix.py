"""The matrix of image kinds that both tools must agree on, and how one cell of it is written and read.

A cell is one choice on each axis: cluster size, version, refcount width, subclusters, encryption, backing file,
and the way the writer puts data in (`create` + `io`, or `convert`). The full product is long, so a selection is taken in which every
possible pair of choices occurs (all pairs); COFRE_TEST_LONG=1 takes the product.
"""

import dataclasses
import itertools

from cofre_peers import Image, KIB, LONG, MIB, aes_options, luks_options, random_disk

CLUSTER_SIZES = [512 << n for n in range(13)]
REFCOUNT_BITS = [1, 2, 4, 8, 16, 32, 64]

AXES = {
    "cluster_size": CLUSTER_SIZES,
    "compat": ["0.10", "1.1"],
    "refcount_bits": REFCOUNT_BITS,
    "extended_l2": [False, True],
    "encryption": ["none", "aes", "luks"],
    "backing": ["none", "raw", "short qcow2"],
    "way": ["io", "convert"],
}


@dataclasses.dataclass(frozen=True)
class Cell:
    cluster_size: int = 65536
    compat: str = "1.1"
    refcount_bits: int = 16
    extended_l2: bool = False
    encryption: str = "none"
    backing: str = "none"
    way: str = "io"
    cipher: tuple = ()          # further luks settings: (name, value) pairs

    def possible(self):
        if self.compat == "0.10" and (self.refcount_bits != 16 or self.extended_l2):
            return False
        if self.extended_l2 and self.cluster_size < 16 * KIB:
            return False
        return self.backing == "none" or self.way == "io"

    def options(self):
        text = [f"cluster_size={self.cluster_size}", f"compat={self.compat}"]
        if self.refcount_bits != 16:
            text.append(f"refcount_bits={self.refcount_bits}")
        if self.extended_l2:
            text.append("extended_l2=on")
        if self.encryption == "aes":
            text.append(aes_options())
        elif self.encryption == "luks":
            text.append(luks_options(**dict(self.cipher)))
        return ",".join(text)

    def __str__(self):
        return " ".join(f"{f.name}={getattr(self, f.name)}" for f in dataclasses.fields(self))


def product():
    cells = (Cell(**dict(zip(AXES, choice))) for choice in itertools.product(*AXES.values()))
    return [cell for cell in cells if cell.possible()]


# qemu-img needs more than two seconds to create a LUKS header (it measures the machine), so such cells are chosen
# only for what no other cell covers as well.
LUKS_COST = 20


def _pairs(cell):
    choices = [(name, getattr(cell, name)) for name in AXES]
    return set(itertools.combinations(choices, 2))


def all_pairs(rng):
    """Cells in which every pair of choices that can occur does: greedily, the cell that adds most new pairs."""
    cells = product()
    pairs_of = {cell: _pairs(cell) for cell in cells}
    missing = set().union(*pairs_of.values())
    chosen = []
    rng.shuffle(cells)
    while missing:
        cells = [cell for cell in cells if pairs_of[cell] & missing]
        best = max(cells, key=lambda cell: len(pairs_of[cell] & missing) - LUKS_COST * (cell.encryption == "luks"))
        chosen.append(best)
        missing -= pairs_of[best]
    return chosen


def geometry_cells(rng):
    return product() if LONG else all_pairs(rng)


# The ciphers that qemu-img makes in a normal run: each algorithm, mode and IV generator occurs. (In the other
# direction, cofre makes and qemu-img reads every one.)
FEW_CIPHERS = [("aes-128", "cbc", "essiv"), ("aes-192", "xts", "plain"), ("aes-256", "ctr", "plain64"),
               ("aes-128", "ecb", "plain64"), ("serpent-128", "xts", "plain64"), ("serpent-256", "cbc", "plain"),
               ("serpent-192", "xts", "essiv"), ("twofish-128", "ctr", "essiv"), ("twofish-192", "xts", "plain64"),
               ("twofish-256", "cbc", "essiv"), ("cast5-128", "cbc", "plain64"), ("cast5-128", "ctr", "plain")]


# Every cipher that qemu-img 7.2 can create with. It aborts on 192-bit keys outside XTS (their key material is not
# a whole number of sectors), and knows no CAST5 in XTS or with ESSIV; cryptsetup is the peer for the former.
def qemu_ciphers():
    for alg, mode, ivgen in itertools.product(
            ["aes-128", "aes-192", "aes-256", "serpent-128", "serpent-192", "serpent-256",
             "twofish-128", "twofish-192", "twofish-256", "cast5-128"],
            ["ecb", "cbc", "xts", "ctr"], ["plain", "plain64", "essiv"]):
        if alg.endswith("-192") and mode != "xts":
            continue
        if alg == "cast5-128" and (mode == "xts" or ivgen == "essiv"):
            continue
        yield alg, mode, ivgen


def cipher_cells(rng, ciphers):
    """One cell a cipher; the rest of the cell is drawn."""
    for alg, mode, ivgen in ciphers:
        settings = [("cipher_alg", alg), ("cipher_mode", mode), ("ivgen_alg", ivgen)]
        if ivgen == "essiv":
            settings.append(("ivgen_hash_alg", "sha256"))
        settings.append(("hash_alg", rng.choice(["sha1", "sha256", "sha512"])))
        yield Cell(cluster_size=rng.choice([4 * KIB, 64 * KIB]), compat=rng.choice(["0.10", "1.1"]),
                   encryption="luks", backing=rng.choice(["none", "raw"]), cipher=tuple(settings))


def run_cells(case, writer, reader, cells):
    """Each cell written by one tool and read by the other, in a scratch folder of its own."""
    for cell in cells:
        with case.subTest(cell=str(cell)):
            image, disk = write_cell(case, writer, cell)
            read_cell(case, reader, image, disk)
        case.empty_scratch()


def disk_size(cell, rng):
    """Some clusters and a bit: ends inside a cluster, on a sector."""
    return max(2 * MIB, 3 * cell.cluster_size) + 512 * rng.randrange(1, 8)


def make_backing(case, tool, cell, size):
    """The backing file of the cell: (its content, arguments of create)."""
    if cell.backing == "none":
        return bytes(), []
    if cell.backing == "raw":
        content = random_disk(case.rng, size)
        path = case.write_file("base.raw", content)
        return content, ["-b", path, "-F", "raw"]
    short = size // 2 // 512 * 512 + 512
    content = random_disk(case.rng, short)
    source = case.write_file("base.src", content)
    path = case.path("base.qcow2")
    case.ok(tool.img("convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4096", source, path))
    return content, ["-b", path, "-F", "qcow2"]


def scattered_writes(rng, disk, cluster_size, count=14):
    """qemu-io commands, and what they do to `disk`: any alignment, zeros of both kinds, the two ends."""
    commands = []
    for n in range(count):
        length = min(rng.choice([1, 512, 700, 4096, cluster_size, cluster_size + 513, 100_000]), len(disk))
        offset = rng.choice([0, len(disk) - length, rng.randrange(len(disk) - length + 1),
                             min(rng.randrange(len(disk)) // cluster_size * cluster_size, len(disk) - length)])
        if n % 5 == 4:
            commands.append(f"write -z {rng.choice(['', '-u '])}{offset} {length}")
            disk[offset:offset + length] = bytes(length)
        else:
            pattern = rng.randrange(1, 256)
            commands.append(f"write -P {pattern} {offset} {length}")
            disk[offset:offset + length] = bytes([pattern]) * length
    commands.append("flush")
    return commands


def write_cell(case, tool, cell):
    """Makes the cell's image with `tool`; returns it and the guest's bytes."""
    secret = "" if cell.encryption == "none" else case.secret()
    image = Image(case.path("image.qcow2"), "qcow2", secret)
    size = disk_size(cell, case.rng)
    if cell.way == "convert":
        disk = random_disk(case.rng, size)
        source = case.write_file("source.raw", disk)
        case.ok(tool.img("convert", *image.object_args(), "-f", "raw", "-O", "qcow2", "-o", cell.options(),
                         source, image.path))
        return image, disk
    content, backing = make_backing(case, tool, cell, size)
    disk = bytearray(content) + bytearray(size - len(content))
    case.create(tool, image, size, *backing, options=cell.options())
    case.io(tool, image, *scattered_writes(case.rng, disk, cell.cluster_size))
    return image, disk


def uniform_run(disk, rng):
    """(offset, length, byte) of some run of one byte in the disk, for `read -P`."""
    offset = rng.randrange(len(disk)) // 512 * 512
    byte = disk[offset]
    end = offset + 1
    while end < len(disk) and disk[end] == byte and end - offset < 8192:
        end += 1
    return offset, end - offset, byte


def read_cell(case, tool, image, disk):
    """`tool` finds the image sound and reads what was written, by three ways."""
    case.clean(tool, image)
    case.holds(tool, image, disk)
    raw = Image(case.write_file("expected.raw", disk))
    result = case.ok(tool.img("compare", *image.object_args(), "--image-opts", image.opts(), raw.opts()))
    case.assertIn("Images are identical.", result.out, f"{result}")
    runs = [uniform_run(disk, case.rng) for _ in range(6)]
    case.io(tool, image, *(f"read -P {byte} {offset} {length}" for offset, length, byte in runs))
