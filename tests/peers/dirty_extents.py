"""What a persistent dirty bitmap says, as qemu-nbd tells it."""

from cofre_peers import run
from serving import Server


def dirty_extents(case, image_args, bitmap, cwd=None):
    """The dirty extents [(begin, end)] of a bitmap of the image that `image_args` name. `case` is the PeerCase."""
    with Server(case.path("nbd"), "qemu-nbd", "--read-only", "--persistent", "-B", bitmap, "-k", case.path("nbd"), *image_args,
                cwd=cwd) as server:
        extents = case.ok(run("nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{bitmap}", server.uri())).json()
        server.stop()
    joined = []
    for extent in extents:
        begin, end = extent["offset"], extent["offset"] + extent["length"]
        if extent["type"] == 0:
            continue
        if joined and joined[-1][1] == begin:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((begin, end))
    return joined
