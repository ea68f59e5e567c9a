"""A disk image that `cofre serve --fuse` has mounted as a file, for tests; and whether this system lets anybody mount."""

import ctypes
import os
import shutil
import stat
import subprocess
import tempfile

from cofre_peers import COFRE
from serving import Server

MNT_DETACH = 2


def mounted_type(path):
    """The type of what is mounted on `path`, "" when nothing is."""
    found = ""
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        for line in mounts:
            fields = line.split()
            if fields[1].replace("\\040", " ") == path:
                found = fields[2]
    return found


def why_not():
    """Why no file system can be mounted through /dev/fuse here, "" when one can."""
    try:
        device = os.open("/dev/fuse", os.O_RDWR)
    except OSError as fault:
        return f"/dev/fuse cannot be used: {fault}"
    try:
        if os.geteuid() != 0:
            helper = shutil.which("fusermount3")
            return "" if helper and os.stat(helper).st_mode & stat.S_ISUID else "no fusermount3 that is set-uid root"
        libc = ctypes.CDLL(None, use_errno=True)
        with tempfile.NamedTemporaryFile() as file:
            path = file.name.encode()
            options = f"fd={device},rootmode={stat.S_IFREG:o},user_id=0,group_id=0".encode()
            if libc.mount(b"probe", path, b"fuse", 6, options) != 0:
                return f"mounting is not permitted: {os.strerror(ctypes.get_errno())}"
            libc.umount2(path, MNT_DETACH)
        return ""
    finally:
        os.close(device)


def mount_without_server(path):
    """Leaves what a server of another program leaves that was killed. Needs root."""
    device = os.open("/dev/fuse", os.O_RDWR)
    try:
        if ctypes.CDLL(None).mount(b"other", path.encode(), b"fuse.other", 6,
                                   f"fd={device},rootmode={stat.S_IFREG:o},user_id=0,group_id=0".encode()) != 0:
            raise AssertionError(f"cannot mount on {path}")
    finally:
        os.close(device)


class MountedImage(Server):
    """`path` is where the image is mounted, from start() to stop()."""

    def __init__(self, path, *args):
        super().__init__(path, COFRE, "serve", "--fuse", path, *args)
        self.path = path

    def listens(self):
        return mounted_type(self.path) == "fuse.cofre"

    def ready(self):
        return f"Mounted on {self.path}" in self.said()

    def close(self):
        self.kill()
        if self.listens():
            subprocess.run(["umount", "-l", self.path] if os.geteuid() == 0 else ["fusermount3", "-u", "-z", self.path], check=False)
        super().close()
