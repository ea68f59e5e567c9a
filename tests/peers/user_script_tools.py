"""Helpers of user_scripts/prelude.sh that are easier said in Python: `user_script_tools.py NAME ARGUMENT...`."""

import random
import struct
import sys


def make_disk(path, size):
    """Data that does not compress, data that does, zeros and holes, in pieces of 64 KiB."""
    count = int(size[:-1]) * 1024 * 1024
    rng = random.Random(count)
    with open(path, "wb") as file:
        file.truncate(count)
        for offset in range(0, count, 65536):
            kind = rng.randrange(5)
            if kind >= 3:
                continue
            file.seek(offset)
            file.write((rng.randbytes(65536), bytes([rng.randrange(1, 256)]) * 65536, bytes(65536))[kind])


def poke_refcount(path, count):
    """Sets the 16-bit refcount of the first cluster of guest data."""
    with open(path, "r+b") as file:
        header = file.read(104)
        cluster_bits, = struct.unpack_from(">I", header, 20)
        l1_offset, = struct.unpack_from(">Q", header, 40)
        refcount_table, = struct.unpack_from(">Q", header, 48)
        mask = 0x00fffffffffffe00

        def entry(offset):
            file.seek(offset)
            return struct.unpack(">Q", file.read(8))[0] & mask

        l2_offset = entry(l1_offset)
        data = next(found for index in range(8192) if (found := entry(l2_offset + 8 * index)))
        file.seek(entry(refcount_table) + 2 * (data >> cluster_bits))
        file.write(struct.pack(">H", int(count)))


if __name__ == "__main__":
    {"make_disk": make_disk, "poke_refcount": poke_refcount}[sys.argv[1]](*sys.argv[2:])
