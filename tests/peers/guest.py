"""A virtual machine for tests: QEMU without KVM, Debian's kernel and a busybox, and a shell on its serial console.

What it boots is in COFRE_GUEST_DIR; .ci/guest_kernel puts it there.
"""

import os
import re
import select
import signal
import stat
import subprocess
import time

from cofre_peers import TIMEOUT_S

GUEST_DIR = os.environ.get("COFRE_GUEST_DIR", "")
QEMU = os.environ.get("COFRE_QEMU_SYSTEM") or "qemu-system-x86_64"
# In this order.
MODULES = ("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk")
MEMORY_MIB = 192

INIT = """#!/busybox sh
/busybox mkdir -p /bin /proc /sys /dev /tmp /mnt
/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in %s; do insmod /modules/$module.ko; done
stty -echo -onlcr
echo guest-is-up
exec sh -c 'while IFS= read -r line; do eval "$line"; done'
""" % " ".join(MODULES)


def require_guest():
    if not os.path.exists(os.path.join(GUEST_DIR, "complete")):
        raise AssertionError(f"no kernel for a virtual machine in '{GUEST_DIR}': run .ci/guest_kernel (./test does it)")


def initramfs(files):
    """An archive (cpio, "newc") of {path: (mode, content)}."""
    out = bytearray()

    def add(name, mode, content):
        fields = (len(out), mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        out.extend(b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0")
        out.extend(bytes(-len(out) % 4) + content)
        out.extend(bytes(-len(out) % 4))

    for name, (mode, content) in files.items():
        add(name, mode, content)
    add("TRAILER!!!", 0, b"")
    return bytes(out)


def guest_initramfs():
    files = {"modules": (stat.S_IFDIR | 0o755, b"")}
    for name in ("busybox", *(f"modules/{module}.ko" for module in MODULES)):
        with open(os.path.join(GUEST_DIR, name), "rb") as file:
            files[name] = (stat.S_IFREG | 0o755, file.read())
    files["init"] = (stat.S_IFREG | 0o755, INIT.encode())
    return initramfs(files)


class VhostDoor:
    """A disk that comes over vhost-user-blk."""

    def __init__(self, socket, queues=2, packed=False):
        self.socket = socket
        self.options = f"num-queues={queues},packed={'on' if packed else 'off'}"

    def serve_args(self):
        return ["--vhost-user-blk", self.socket]

    def qemu_args(self, number):
        return ["-chardev", f"socket,id=door{number},path={self.socket},reconnect=1",
                "-device", f"vhost-user-blk-pci,chardev=door{number},{self.options}"]


class NbdDoor:
    """A disk that QEMU itself reads over NBD."""

    def __init__(self, socket):
        self.socket = socket

    def serve_args(self):
        return ["--nbd", f"unix:{self.socket}"]

    def qemu_args(self, number):
        return ["-blockdev", f"driver=nbd,node-name=door{number},server.type=unix,server.path={self.socket},"
                             "reconnect-delay=60,discard=unmap",
                "-device", f"virtio-blk-pci,drive=door{number}"]


class Guest:
    """A machine with the disks behind `doors`, within a `with`. They are /dev/vda, /dev/vdb ..."""

    def __init__(self, folder, doors, cpus=2):
        self.doors = doors
        self.initramfs = os.path.join(folder, "initramfs")
        self.cpus = cpus
        self.said = b""
        self.number = 0

    def __enter__(self):
        with open(self.initramfs, "wb") as file:
            file.write(guest_initramfs())
        args = [QEMU, "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(self.cpus), "-m", str(MEMORY_MIB),
                "-object", f"memory-backend-memfd,id=ram,size={MEMORY_MIB}M,share=on",
                "-machine", "q35,memory-backend=ram", "-nodefaults", "-no-user-config", "-nographic", "-no-reboot",
                "-serial", "stdio", "-kernel", os.path.join(GUEST_DIR, "vmlinuz"), "-initrd", self.initramfs,
                "-append", "console=ttyS0 quiet panic=-1 tsc=reliable mitigations=off random.trust_cpu=on"]
        for number, door in enumerate(self.doors):
            args += door.qemu_args(number)
        self.process = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        start_new_session=True)
        os.set_blocking(self.process.stdout.fileno(), False)
        try:
            self.wait_for(rb"guest-is-up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def wait_for(self, pattern, timeout=TIMEOUT_S):
        """The match, once the guest has said it; what was said before it is forgotten."""
        deadline = time.monotonic() + timeout
        while True:
            found = re.search(pattern, self.said, re.DOTALL)
            if found:
                self.said = self.said[found.end():]
                return found
            left = deadline - time.monotonic()
            ready = left > 0 and select.select([self.process.stdout], [], [], left)[0]
            more = self.process.stdout.read() if ready else b""
            if not more:
                raise AssertionError(f"the guest did not say {pattern} but:\n{self.said.decode(errors='replace')}")
            self.said += more

    def begin(self, script):
        """Starts a line of shell; its number for finish()."""
        self.number += 1
        line = f"( {script} ) 2>&1; status=$?; echo; echo end-{self.number}-$status\n"
        self.process.stdin.write(line.encode())
        self.process.stdin.flush()
        return self.number

    def finish(self, number, timeout=TIMEOUT_S):
        """What it printed; it must have succeeded."""
        found = self.wait_for(rb"(.*?)\r?\nend-%d-(\d+)\r?\n" % number, timeout)
        said = found.group(1).decode(errors="replace").replace("\r", "")
        if found.group(2) != b"0":
            raise AssertionError(f"the guest's command failed with {found.group(2).decode()}:\n{said}")
        return said.strip()

    def run(self, script, timeout=TIMEOUT_S):
        return self.finish(self.begin(script), timeout)

    def power_off(self):
        self.process.stdin.write(b"poweroff -f\n")
        self.process.stdin.flush()
        self.process.wait(TIMEOUT_S)
