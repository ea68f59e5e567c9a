"""What a persistent dirty bitmap says, as qemu-nbd tells it."""

import os
import subprocess
import time

from cofre_peers import run


def dirty_extents(case, image_args, bitmap, cwd=None):
    """The dirty extents [(begin, end)] of a bitmap of the image that `image_args` name. `case` is the PeerCase."""
    socket = case.path("nbd")
    server = subprocess.Popen(["qemu-nbd", "--read-only", "--persistent", "-B", bitmap, "-k", socket, *image_args],
                              stderr=subprocess.PIPE, start_new_session=True, cwd=cwd)
    try:
        deadline = time.monotonic() + 60
        while not os.path.exists(socket):
            if server.poll() is not None or time.monotonic() > deadline:
                case.fail(f"qemu-nbd does not serve '{bitmap}' of {image_args}: {server.stderr.read().decode()}")
            time.sleep(0.01)
        extents = case.ok(run("nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{bitmap}", f"nbd+unix:///?socket={socket}")).json()
    finally:
        server.terminate()
        server.wait()
        server.stderr.close()
        if os.path.exists(socket):
            os.unlink(socket)
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
