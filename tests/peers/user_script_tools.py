"""Helpers of user_scripts/prelude.sh that are easier said in Python: `user_script_tools.py NAME ARGUMENT...`."""

import random
import sys

from qcow2_patch import Patch


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
    with Patch(path) as patch:
        guest = range(0, patch.get("size"), patch.cluster_size)
        first = next(cluster for offset in guest if (cluster := patch.data_cluster(offset)))
        patch.write(patch.refcount(first), ">H", int(count))


if __name__ == "__main__":
    {"make_disk": make_disk, "poke_refcount": poke_refcount}[sys.argv[1]](*sys.argv[2:])
