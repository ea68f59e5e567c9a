"""A server under test: started, waited for, stopped and looked at. For the tests of `cofre serve` and of the personality
qemu-nbd."""

import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.parse

from cofre_peers import COFRE, COMPAT_DIR, TIMEOUT_S, run

QEMU_NBD = os.environ.get("COFRE_QEMU_NBD") or "/usr/bin/qemu-nbd"
OUR_QEMU_NBD = os.path.join(COMPAT_DIR, "qemu-nbd")


def uri_of(path, name=""):
    return f"nbd+unix:///{urllib.parse.quote(name)}?socket={path}"


class Server:
    """A program that serves on `socket` within a `with`; or from start() to close(), and may be killed and started anew."""

    def __init__(self, path, *args, cwd=None):
        self.socket = path
        self.args = [str(a) for a in args]
        self.cwd = cwd
        self.process = None
        self.output = tempfile.TemporaryFile()

    def start(self):
        self.output.truncate(0)
        self.process = subprocess.Popen(self.args, stdin=subprocess.DEVNULL, stdout=self.output, stderr=subprocess.STDOUT,
                                        start_new_session=True, cwd=self.cwd)
        deadline = time.monotonic() + TIMEOUT_S
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"{self.args} does not listen:\n{self.said()}")
            time.sleep(0.01)
        return self

    def ready(self):
        return self.listens()

    def listens(self):
        """A connection that negotiates nothing is no client."""
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(self.socket)
            except OSError:
                return False
        return True

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def close(self):
        self.kill()
        self.output.close()
        # What a killed process had in flight in the kernel may hold its socket for a moment.
        deadline = time.monotonic() + TIMEOUT_S
        while self.listens() and time.monotonic() < deadline:
            time.sleep(0.01)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.close()

    def said(self):
        return os.pread(self.output.fileno(), 1 << 20, 0).decode(errors="replace")

    def uri(self, name=""):
        return uri_of(self.socket, name)

    def wait(self, timeout=TIMEOUT_S):
        """The exit code."""
        return self.process.wait(timeout)

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        return self.wait()


def cofre_serve(path, *args):
    return Server(path, COFRE, "serve", "--nbd", f"unix:{path}", *args)


def python_with_libnbd():
    """Debian's Python, which has the package python3-libnbd, may not be the first on the PATH."""
    for python in ("python3", "/usr/bin/python3"):
        if subprocess.run([python, "-c", "import nbd"], stderr=subprocess.DEVNULL, check=False).returncode == 0:
            return python
    raise AssertionError("no Python with libnbd: apt-get install python3-libnbd (./test does it)")


def nbdsh(uri, code, before=""):
    """Runs Python with `h`, a libnbd handle connected to `uri`; `before` runs before it is connected."""
    return run(python_with_libnbd(), "-c", f"import nbd\nh = nbd.NBD()\n{before}\nh.connect_uri({uri!r})\n{code}")
