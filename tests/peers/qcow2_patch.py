"""Just enough of qcow2's layout to find a structure in an image and put wrong bytes there."""

import struct

MAGIC = b"QFI\xfb"
COPIED = 1 << 63
COMPRESSED = 1 << 62
OFFSET_MASK = 0x00fffffffffffe00

# Header fields: (offset, format).
FIELDS = {
    "magic": (0, ">4s"), "version": (4, ">I"), "backing_offset": (8, ">Q"), "backing_size": (16, ">I"),
    "cluster_bits": (20, ">I"), "size": (24, ">Q"), "crypt_method": (32, ">I"), "l1_size": (36, ">I"),
    "l1_offset": (40, ">Q"), "refcount_offset": (48, ">Q"), "refcount_clusters": (56, ">I"),
    "snapshots": (60, ">I"), "snapshots_offset": (64, ">Q"), "incompatible": (72, ">Q"), "compatible": (80, ">Q"),
    "autoclear": (88, ">Q"), "refcount_order": (96, ">I"), "header_length": (100, ">I"),
}


class Patch:
    """An image file open for patching; use in a `with`."""

    def __init__(self, path):
        self.file = open(path, "r+b")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def read(self, offset, format):
        self.file.seek(offset)
        return struct.unpack(format, self.file.read(struct.calcsize(format)))[0]

    def write(self, offset, format, value):
        self.file.seek(offset)
        self.file.write(struct.pack(format, value))

    def fill(self, offset, content):
        self.file.seek(offset)
        self.file.write(content)

    def get(self, field):
        return self.read(*FIELDS[field])

    def set(self, field, value):
        self.write(FIELDS[field][0], FIELDS[field][1], value)

    @property
    def cluster_size(self):
        return 1 << self.get("cluster_bits")

    @property
    def length(self):
        return self.file.seek(0, 2)

    def grow(self, clusters=1):
        """More file, whole clusters; returns the offset of the first new one."""
        start = -(-self.length // self.cluster_size) * self.cluster_size
        self.file.truncate(start + clusters * self.cluster_size)
        return start

    def l1_entry(self, index):
        """File offset of an L1 entry."""
        return self.get("l1_offset") + 8 * index

    def l2_entry(self, guest_offset):
        """File offset of the L2 entry (8-byte entries) that maps a guest offset."""
        entries = self.cluster_size // 8
        cluster = guest_offset // self.cluster_size
        table = self.read(self.l1_entry(cluster // entries), ">Q") & OFFSET_MASK
        return table + 8 * (cluster % entries)

    def data_cluster(self, guest_offset):
        return self.read(self.l2_entry(guest_offset), ">Q") & OFFSET_MASK

    def refcount(self, host_offset):
        """File offset of the 16-bit refcount of a host cluster."""
        index = host_offset // self.cluster_size
        per_block = self.cluster_size // 2
        block = self.read(self.get("refcount_offset") + 8 * (index // per_block), ">Q")
        return block + 2 * (index % per_block)

    def extension(self, kind):
        """File offset of a header extension's data, by its type."""
        at = self.get("header_length") if self.get("version") >= 3 else 72
        while True:
            found, length = self.read(at, ">I"), self.read(at + 4, ">I")
            if found == kind:
                return at + 8
            if found == 0:
                raise KeyError(hex(kind))
            at += 8 + (length + 7) // 8 * 8
