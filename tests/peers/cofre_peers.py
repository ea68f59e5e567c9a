"""What every peer test needs: the tools, a scratch folder, seeded data, images and how to name them to a tool.

A peer test runs the real `cofre` beside the programs whose formats it reads and writes: qemu-img, qemu-io and
cryptsetup. Environment:

  COFRE                 the program under test (needed)
  COFRE_QEMU_IMG        qemu-img to test against (default: the one on the PATH); likewise COFRE_QEMU_IO
  COFRE_COMPAT_DIR      folder of the personalities (qemu-img, qemu-io), next to COFRE's by default
  COFRE_DISK_DIR        a folder on a real file system, for O_DIRECT (default: the system's temporary folder)
  COFRE_SANITIZED       set when COFRE carries a sanitizer: memory bounds are wider
  COFRE_TEST_SEED       replays the random choices of an earlier run
  COFRE_TEST_LONG       set for the full products instead of a selection
"""

import dataclasses
import functools
import json
import os
import random
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
import unittest

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

LONG = bool(os.environ.get("COFRE_TEST_LONG"))
SANITIZED = bool(os.environ.get("COFRE_SANITIZED"))
SEED = int(os.environ.get("COFRE_TEST_SEED") or time.time_ns() % 1_000_000_000)
TIMEOUT_S = 600 if LONG or SANITIZED else 180

COFRE = os.environ.get("COFRE", "")
QEMU_IMG = os.environ.get("COFRE_QEMU_IMG") or "qemu-img"
QEMU_IO = os.environ.get("COFRE_QEMU_IO") or "qemu-io"
COMPAT_DIR = os.environ.get("COFRE_COMPAT_DIR") or os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(COFRE))), "compat")
DISK_DIR = os.environ.get("COFRE_DISK_DIR") or tempfile.gettempdir()

# QEMU measures CPU time to choose the iteration count and now and then gives up: such a run is repeated.
QEMU_CALIBRATION_FAULT = "Unable to get accurate CPU usage"
QEMU_CALIBRATION_TRIES = 60

# The settings that make tests with passphrases fast. Never for real images.
FAST_KDF_MS = 10


# --------------------------------------------------------------------------------------------- running programs

@dataclasses.dataclass
class Result:
    """A finished command. str() tells all that a failed assertion should show."""
    args: list
    code: int
    out: str
    err: str
    peak_rss_bytes: int
    seconds: float

    def __str__(self):
        return (f"\n  command: {shlex.join(self.args)}\n  exit code: {self.code}"
                f"\n  stdout: {self.out[-2000:]}\n  stderr: {self.err[-3000:]}"
                f"\n  COFRE_TEST_SEED={SEED}")

    def json(self):
        try:
            return json.loads(self.out)
        except ValueError as fault:
            raise AssertionError(f"not JSON ({fault}):{self}") from fault


def run(*args, stdin=None, env=None, cwd=None, timeout=TIMEOUT_S, preexec=None):
    """Runs a command to its end, in a session of its own (so without a terminal). A command that outlives
    `timeout` seconds is killed and raises AssertionError."""
    args = [str(a) for a in args]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.monotonic()
        process = subprocess.Popen(
            args, stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL, stdout=out, stderr=err,
            env={**os.environ, **(env or {})}, cwd=cwd, start_new_session=True, preexec_fn=preexec)
        late = threading.Event()

        def kill():
            late.set()
            process.kill()

        timer = threading.Timer(timeout, kill)
        timer.start()
        try:
            if stdin is not None:
                try:
                    process.stdin.write(stdin.encode() if isinstance(stdin, str) else stdin)
                    process.stdin.close()
                except BrokenPipeError:
                    pass
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        result = Result(args, process.returncode, out.read().decode(errors="replace"),
                        err.read().decode(errors="replace"), usage.ru_maxrss * KIB, time.monotonic() - started)
    if late.is_set():
        raise AssertionError(f"no end within {timeout} s:{result}")
    return result


def cofre(*args, **how):
    return run(COFRE, *args, **how)


def qemu_img(*args, **how):
    """qemu-img; a run that failed only in QEMU's iteration calibration is repeated."""
    for _ in range(QEMU_CALIBRATION_TRIES):
        result = run(QEMU_IMG, *args, **how)
        if QEMU_CALIBRATION_FAULT not in result.err:
            break
    return result


def qemu_io(*args, **how):
    return run(QEMU_IO, *args, **how)


def cryptsetup(*args, **how):
    return run("cryptsetup", "--batch-mode", *args, **how)


@dataclasses.dataclass(frozen=True)
class Tool:
    """One of the two makers and readers of images: `img` has qemu-img's commands, `io` is qemu-io's."""
    name: str
    img: object
    io: object


def compat(program, *args, **how):
    """Cofre by the name of one of QEMU's programs."""
    return run(os.path.join(COMPAT_DIR, program), *args, **how)


COFRE_TOOL = Tool("cofre", cofre, lambda *a, **how: cofre("io", *a, **how))
COMPAT_TOOL = Tool("cofre as qemu-img", functools.partial(compat, "qemu-img"), functools.partial(compat, "qemu-io"))
QEMU_TOOL = Tool("qemu", qemu_img, qemu_io)


class Interactive:
    """A program that stays open and reads commands from a pipe: `cofre io` or `qemu-io` without -c."""

    def __init__(self, *args):
        self.args = [str(a) for a in args]
        self.process = subprocess.Popen(self.args, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.process.stdin.close()
            self.process.wait(TIMEOUT_S)
        except BrokenPipeError:
            pass
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()

    def command(self, line, answer):
        """Sends one line and reads on until `answer` stands in what the program prints."""
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        seen = b""
        killer = threading.Timer(TIMEOUT_S, self.process.kill)
        killer.start()
        try:
            while answer.encode() not in seen:
                byte = os.read(self.process.stdout.fileno(), 4096)
                if not byte:
                    raise AssertionError(f"{shlex.join(self.args)} ended after '{line}':\n"
                                         f"{seen.decode(errors='replace')}")
                seen += byte
        finally:
            killer.cancel()
        return seen.decode(errors="replace")


# -------------------------------------------------------------------------------------------------------- images

@dataclasses.dataclass
class Image:
    """An image file and what a tool must be told to open it."""
    path: str
    format: str = "raw"
    secret: str = ""            # path of the passphrase file, "" when not encrypted
    secret_id: str = "s0"
    extra: str = ""             # further options in --image-opts syntax

    def object_args(self):
        return ["--object", f"secret,id={self.secret_id},file={self.secret}"] if self.secret else []

    def opts(self):
        """The image in --image-opts syntax."""
        text = f"driver={self.format},file.filename={self.path}"
        if self.secret:
            text += f",{self.key_option()}={self.secret_id}"
        return text + (f",{self.extra}" if self.extra else "")

    def key_option(self):
        return "key-secret" if self.format == "luks" else "encrypt.key-secret"

    def args(self):
        """The arguments that name this one image to any command."""
        return [*self.object_args(), "--image-opts", self.opts()]

    def named(self, path):
        return dataclasses.replace(self, path=path)


def luks_options(secret_id="s0", prefix="encrypt.", **settings):
    """`-o` text for LUKS in qcow2 (prefix "encrypt.") or for a container of its own (prefix "")."""
    parts = [f"{prefix}format=luks"] if prefix else []
    parts += [f"{prefix}key-secret={secret_id}", f"{prefix}iter-time={FAST_KDF_MS}"]
    parts += [f"{prefix}{name.replace('_', '-')}={value}" for name, value in settings.items()]
    return ",".join(parts)


def aes_options(secret_id="s0"):
    return f"encrypt.format=aes,encrypt.key-secret={secret_id}"


# -------------------------------------------------------------------------------------------------------- content

def random_disk(rng, size):
    """Bytes of a disk such as real ones are: runs of random data, of one byte and of zeros, unaligned borders."""
    disk = bytearray(size)
    offset = 0
    while offset < size:
        length = min(rng.choice([512, 4096, 65536, 200_000, 1 * MIB]) + rng.choice([0, 0, 1, 511, 512]), size - offset)
        kind = rng.random()
        if kind < 0.4:
            disk[offset:offset + length] = rng.randbytes(length)
        elif kind < 0.6:
            disk[offset:offset + length] = bytes([rng.randrange(1, 256)]) * length
        offset += length
    return disk


def first_difference(a, b):
    """Offset of the first byte that differs, -1 when equal; a shorter one differs at its end."""
    if a == b:
        return -1
    step = 64 * KIB
    for start in range(0, max(len(a), len(b)), step):
        x, y = a[start:start + step], b[start:start + step]
        if x != y:
            for i in range(max(len(x), len(y))):
                if x[i:i + 1] != y[i:i + 1]:
                    return start + i
    return -1


# ---------------------------------------------------------------------------------------------------- the test case

def scratch_parent(needed_bytes=2 * GIB):
    """tmpfs when there is room: most tests move bytes that need not survive."""
    shm = "/dev/shm"
    if os.access(shm, os.W_OK) and os.path.ismount(shm) and shutil.disk_usage(shm).free > needed_bytes:
        return shm
    return tempfile.gettempdir()


class PeerCase(unittest.TestCase):
    """A scratch folder a test, a seeded generator, and assertions that show the command behind them."""

    maxDiff = 4000

    @classmethod
    def setUpClass(cls):
        if not COFRE or not os.access(COFRE, os.X_OK):
            raise AssertionError(f"set COFRE to the cofre program (it is '{COFRE}')")
        for tool in (QEMU_IMG, QEMU_IO):
            if not shutil.which(tool):
                raise AssertionError(f"{tool} not found: apt-get install qemu-utils (./test does it)")

    def setUp(self):
        self.rng = random.Random(f"{SEED} {self.id()}")
        self.dir = tempfile.mkdtemp(prefix="cofre-peer-", dir=scratch_parent())
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)

    def empty_scratch(self):
        for name in os.listdir(self.dir):
            os.unlink(self.path(name))

    def path(self, name):
        return os.path.join(self.dir, name)

    def write_file(self, name, content):
        path = self.path(name)
        with open(path, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        return path

    def read_file(self, path):
        with open(path, "rb") as file:
            return file.read()

    def secret(self, text="correct horse battery", name="secret"):
        """A passphrase file without a newline."""
        return self.write_file(name, text)

    # Assertions on commands.

    def ok(self, result, code=0):
        self.assertEqual(result.code, code, f"{result}")
        return result

    def refused(self, result, *words, code=None):
        """The command failed by itself (no signal), said why, and each of `words` stands there.
        A word may be a tuple of alternatives."""
        if code is None:
            self.assertGreater(result.code, 0, f"must be refused, by an exit code above 0:{result}")
        else:
            self.assertEqual(result.code, code, f"{result}")
        # qemu-io tells a failed command's fault on stdout, and so does `io`.
        said = result.err + (result.out if result.args[1:2] == ["io"] else "")
        self.assertTrue(said.strip(), f"a refusal must say why:{result}")
        lower = said.lower()
        for word in words:
            choices = word if isinstance(word, tuple) else (word,)
            self.assertTrue(any(str(c).lower() in lower for c in choices),
                            f"it must say {' or '.join(map(repr, choices))}:{result}")
        for trace in ("terminate called", "AddressSanitizer", "runtime error:", "Assertion"):
            self.assertNotIn(trace, result.err, f"{result}")
        return result

    def bounded(self, result, limit_bytes=256 * MIB):
        # A sanitizer has shadow memory, and keeps up to 256 MiB of what was freed to find its late uses.
        limit = limit_bytes * 4 + 256 * MIB if SANITIZED else limit_bytes
        self.assertLess(result.peak_rss_bytes, limit,
                        f"peak memory {result.peak_rss_bytes // MIB} MiB, allowed {limit // MIB} MiB:{result}")
        return result

    def same_bytes(self, actual, expected, context):
        at = first_difference(bytes(actual), bytes(expected))
        if at >= 0:
            self.fail(f"content differs at byte {at} (sector {at // 512}; sizes {len(actual)} and {len(expected)}): "
                      f"{bytes(actual[at:at + 16]).hex()} instead of {bytes(expected[at:at + 16]).hex()}; {context}"
                      f"\n  COFRE_TEST_SEED={SEED}")

    # Steps that many tests share.

    def content(self, tool, image):
        """The guest's bytes, as `tool` converts them to raw."""
        out = self.path("content.raw")
        if os.path.exists(out):
            os.unlink(out)
        result = self.ok(tool.img("convert", *image.object_args(), "--image-opts", "-O", "raw", image.opts(), out))
        content = self.read_file(out)
        os.unlink(out)
        return content, result

    def holds(self, tool, image, expected):
        """`tool` reads exactly `expected` from the image."""
        content, result = self.content(tool, image)
        self.same_bytes(content, expected, result)

    def clean(self, tool, image):
        """`tool` finds no fault in the image."""
        result = self.ok(tool.img("check", *image.args()))
        self.assertIn("No errors were found", result.out, f"{result}")

    def create(self, tool, image, size, *args, options=""):
        objects = image.object_args()
        self.ok(tool.img("create", "-q", *objects, "-f", image.format, *args,
                         *(["-o", options] if options else []), image.path, str(size)))
        return image

    def io(self, tool, image, *commands):
        """Runs qemu-io style commands, each of which must succeed."""
        args = [part for command in commands for part in ("-c", command)]
        result = self.ok(tool.io(*image.args(), *args))
        for bad in ("failed", "error"):
            self.assertNotIn(bad, result.out.lower(), f"{result}")
        return result



# The seed opens every test program's output, so that a failure can be replayed.
print(f"COFRE_TEST_SEED={SEED}{' COFRE_TEST_LONG=1' if LONG else ''}", flush=True)
