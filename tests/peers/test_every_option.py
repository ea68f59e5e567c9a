"""Every option of every command of qemu-img and qemu-io 7.2, used once, by both tools: the same exit code, and the same output
where that is the same from run to run. What the tools' own help names and the tables here do not use is a failure."""

import os
import re
import shutil
import unittest

from cofre_peers import COMPAT_TOOL, QEMU_TOOL, SANITIZED, PeerCase, qemu_img, qemu_io

STEP = 4 if SANITIZED else 1  # some of them: the program is slow then
SECRET = ["--object", "secret,id=s0,file=secret"]
BY_OPTIONS = ["--image-opts", "driver=qcow2,file.filename=x.qcow2"]
BOX = ["--image-opts", "driver=luks,file.filename=box.luks,key-secret=s0"]

IMG = {
    "": [["-h"], ["--help"], ["-V"], ["--version"], ["-T", "qcow2_*", "info", "x.qcow2"], ["--trace", "enable=qcow2_*", "info", "x.qcow2"],
         ["--trace=bdrv_*,file=/dev/null", "info", "x.qcow2"]],
    "amend": [["-o", "compat=0.10", "plain.qcow2"], ["-p", "-o", "compat=0.10", "plain.qcow2"], ["-q", "-o", "lazy_refcounts=on", "x.qcow2"],
              ["-f", "qcow2", "-o", "refcount_bits=32", "plain.qcow2"], ["-t", "none", "-o", "compat=1.1", "x.qcow2"], ["--force", "-o", "compat=1.1", "x.qcow2"],
              ["-o", "size=2M", *BY_OPTIONS], [*SECRET, "-o", "state=active,new-secret=s0,iter-time=10", *BOX],
              [*SECRET, "--force", "-o", "state=inactive,old-secret=s0", *BOX]],
    "bench": [["-c", "10", "x.qcow2"], ["-c", "4", "-d", "2", "x.qcow2"], ["-c", "4", "-f", "qcow2", "x.qcow2"],
              ["-c", "4", "-w", "--flush-interval=2", "-d", "1", "x.qcow2"], ["-c", "4", "-i", "threads", "x.qcow2"],
              ["-c", "4", "-n", "-t", "none", "x.qcow2"], ["-c", "4", "-w", "--no-drain", "--flush-interval=2", "-d", "1", "x.qcow2"],
              ["-c", "4", "-o", "64k", "x.qcow2"], ["-c", "4", "-w", "--pattern=7", "x.qcow2"], ["-c", "4", "-q", "x.qcow2"],
              ["-c", "4", "-s", "8k", "x.qcow2"], ["-c", "4", "-S", "32k", "x.qcow2"], ["-c", "4", "-t", "unsafe", "x.qcow2"], ["-c", "4", "-U", "x.qcow2"],
              ["-c", "4", *BY_OPTIONS]],
    "bitmap": [["--add", "x.qcow2", "new"], ["--remove", "x.qcow2", "b0"], ["--clear", "x.qcow2", "b0"], ["--disable", "x.qcow2", "b0"],
               ["--disable", "--enable", "x.qcow2", "b0"], ["--add", "--merge", "b0", "x.qcow2", "new"],
               ["--merge", "b0", "-b", "x2.qcow2", "-F", "qcow2", "x.qcow2", "b0"], ["--add", "-g", "128k", "x.qcow2", "new"],
               ["--add", "-f", "qcow2", "x.qcow2", "new"], ["--add", *SECRET, *BY_OPTIONS, "new"]],
    "check": [["x.qcow2"], ["-q", "x.qcow2"], ["-f", "qcow2", "x.qcow2"], ["--output=json", "x.qcow2"], ["--output=human", "x.qcow2"],
              ["-r", "leaks", "leaking.qcow2"], ["-r", "all", "leaking.qcow2"], ["leaking.qcow2"], ["-T", "none", "x.qcow2"], ["-U", "x.qcow2"], [*SECRET, *BY_OPTIONS]],
    "commit": [["over.qcow2"], ["-q", "over.qcow2"], ["-f", "qcow2", "over.qcow2"], ["-t", "none", "over.qcow2"], ["-b", "x.raw", "over.qcow2"],
               ["-r", "1G", "over.qcow2"], ["-d", "over.qcow2"], ["-p", "over.qcow2"], [*SECRET, "--image-opts", "driver=qcow2,file.filename=over.qcow2"]],
    "compare": [["x.qcow2", "x2.qcow2"], ["-f", "qcow2", "x.qcow2", "x2.qcow2"], ["-F", "qcow2", "x.qcow2", "x2.qcow2"], ["-T", "none", "x.qcow2", "x2.qcow2"],
                ["-p", "x.qcow2", "x2.qcow2"], ["-q", "x.qcow2", "x.raw"], ["-s", "x.qcow2", "plain.qcow2"], ["-U", "x.qcow2", "x2.qcow2"],
                [*SECRET, *BY_OPTIONS, "driver=qcow2,file.filename=x2.qcow2"]],
    "convert": [["x.qcow2", "new"], [*SECRET, *BY_OPTIONS, "new"], ["-n", "--target-image-opts", "x.qcow2", "driver=raw,file.filename=x2.raw"],
                ["-n", "--target-is-zero", "x.qcow2", "zero.raw"], ["--bitmaps", "-O", "qcow2", "x.qcow2", "new"], ["-U", "x.qcow2", "new"],
                ["--bitmaps", "--skip-broken-bitmaps", "-O", "qcow2", "x.qcow2", "new"],
                ["-C", "x.raw", "new"], ["-c", "-O", "qcow2", "x.qcow2", "new"], ["-p", "x.qcow2", "new"], ["-q", "x.qcow2", "new"], ["-n", "x.qcow2", "x2.raw"],
                ["-f", "qcow2", "x.qcow2", "new"], ["-t", "none", "x.qcow2", "new"], ["-T", "none", "x.qcow2", "new"], ["-O", "luks", *SECRET, "-o", "key-secret=s0,iter-time=10", "x.qcow2", "new"],
                ["-O", "qcow2", "-B", "x.raw", "-F", "raw", "over.qcow2", "new"], ["-O", "qcow2", "-o", "cluster_size=4k", "x.qcow2", "new"],
                ["-l", "one", "x.qcow2", "new"], ["-l", "snapshot.name=one", "x.qcow2", "new"], ["-S", "0", "x.qcow2", "new"], ["-S", "16M", "x.qcow2", "new"],
                ["-S", "17M", "x.qcow2", "new"], ["-r", "1G", "x.qcow2", "new"], ["-m", "4", "x.qcow2", "new"], ["-W", "x.qcow2", "new"], ["--salvage", "x.qcow2", "new"],
                ["x.raw", "x2.raw", "new"], ["-n", "-c", "-O", "qcow2", "x.qcow2", "full.qcow2"]],
    "create": [["new", "1M"], [*SECRET, "-f", "luks", "-o", "key-secret=s0,iter-time=10", "new", "1M"], ["-q", "new", "1M"], ["-f", "qcow2", "new", "1M"],
               ["-f", "qcow2", "-b", "x.raw", "-F", "raw", "new"], ["-u", "-f", "qcow2", "-b", "gone", "-F", "raw", "new", "1M"],
               ["-f", "qcow2", "-o", "cluster_size=4k", "new", "1M"],
               *(["-f", format, "-o", option, "new", "1M"] for format in ("raw", "qcow2")
                 for option in ("nocow=on", "nocow=off", "extent_size_hint=0", "extent_size_hint=1M", "extent_size_hint=5G", "nocow=maybe",
                                "extent_size_hint=0,preallocation=falloc,nocow=on", "preallocation=full", "preallocation=metadata"))],
    "dd": [["if=x.raw", "of=new"], ["--image-opts", "if=driver=raw,file.filename=x.raw", "of=new"], ["-U", "if=x.raw", "of=new"],
           ["-f", "qcow2", "if=x.qcow2", "of=new"], ["-O", "qcow2", "if=x.raw", "of=new"], ["bs=4k", "count=3", "skip=2", "if=x.raw", "of=new"],
           [*SECRET, "if=x.raw", "of=new"]],
    "info": [["x.qcow2"], [*SECRET, *BY_OPTIONS], ["-f", "qcow2", "x.qcow2"], ["--output=json", "x.qcow2"], ["--output=human", "x.qcow2"],
             ["--backing-chain", "over.qcow2"], ["-U", "x.qcow2"]],
    "map": [["x.qcow2"], [*SECRET, *BY_OPTIONS], ["-f", "qcow2", "x.qcow2"], ["--start-offset=64k", "x.qcow2"], ["--max-length=64k", "x.qcow2"],
            ["--output=json", "x.qcow2"], ["-U", "x.qcow2"], ["-s", "64k", "-l", "64k", "x.qcow2"]],
    "measure": [["--size", "1G"], ["--output=json", "--size", "1G"], ["-O", "qcow2", "--size", "1G"], ["-O", "qcow2", "-o", "cluster_size=4k", "--size", "1G"],
                ["x.qcow2"], [*SECRET, *BY_OPTIONS], ["-f", "qcow2", "x.qcow2"], ["-l", "one", "x.qcow2"],
                ["-O", "luks", *SECRET, "-o", "key-secret=s0", "--size", "1G"], ["-O", "luks", *SECRET, "-o", "key-secret=s0,preallocation=full", "--size", "1G"],
                ["-O", "raw", "-o", "nocow=on", "--size", "1G"], ["-U", "x.qcow2"]],
    "snapshot": [["-l", "x.qcow2"], ["-a", "one", "x.qcow2"], ["-c", "two", "x.qcow2"], ["-d", "one", "x.qcow2"], ["-q", "-c", "two", "x.qcow2"],
                 ["-U", "-l", "x.qcow2"], ["-l", *SECRET, *BY_OPTIONS]],
    "rebase": [["-b", "x2.raw", "-F", "raw", "over.qcow2"], ["-q", "-b", "x2.raw", "-F", "raw", "over.qcow2"], ["-f", "qcow2", "-b", "", "over.qcow2"],
               ["-t", "none", "-b", "x2.raw", "-F", "raw", "over.qcow2"], ["-T", "none", "-b", "x2.raw", "-F", "raw", "over.qcow2"],
               ["-p", "-b", "x2.raw", "-F", "raw", "over.qcow2"], ["-u", "-b", "gone", "-F", "raw", "over.qcow2"], ["-U", "-b", "x2.raw", "-F", "raw", "over.qcow2"],
               [*SECRET, "--image-opts", "-b", "x2.raw", "-F", "raw", "driver=qcow2,file.filename=over.qcow2"]],
    "resize": [["plain.qcow2", "2M"], ["plain.qcow2", "+1M"], ["--shrink", "plain.qcow2", "-512k"], ["-q", "plain.qcow2", "2M"], ["-f", "raw", "x.raw", "2M"],
               ["--preallocation=falloc", "plain.qcow2", "2M"], [*SECRET, "--image-opts", "driver=qcow2,file.filename=plain.qcow2", "2M"]],
}

# Whole invocations of qemu-io, behind the program's name.
IO_PROGRAM = [
    [*SECRET, "-c", "length", "x.qcow2"], ["--image-opts", "-c", "length", "driver=qcow2,file.filename=x.qcow2"], ["--cmd", "length", "x.qcow2"],
    ["-f", "raw", "-c", "length", "x.raw"], ["--format", "raw", "-c", "length", "x.raw"], ["-r", "-c", "write 0 1k", "x.qcow2"], ["--read-only", "-c", "length", "x.qcow2"],
    ["-s", "-c", "write 0 1k", "x.qcow2"], ["--snapshot", "-c", "length", "x.qcow2"], ["-n", "-c", "read 0 4k", "x.qcow2"], ["--nocache", "-c", "length", "x.qcow2"],
    ["-C", "-c", "read 0 4k", "over.qcow2"], ["--copy-on-read", "-c", "length", "over.qcow2"], ["-m", "-c", "read 0 4k", "x.qcow2"], ["--misalign", "-c", "length", "x.qcow2"],
    ["-n", "-k", "-c", "read 0 4k", "x.qcow2"], ["-n", "--native-aio", "-c", "length", "x.qcow2"], ["-i", "threads", "-c", "read 0 4k", "x.qcow2"], ["--aio=threads", "-c", "length", "x.qcow2"],
    ["-t", "none", "-c", "read 0 4k", "x.qcow2"], ["--cache=writethrough", "-c", "length", "x.qcow2"], ["-d", "unmap", "-c", "discard 0 64k", "x.qcow2"],
    ["--discard=ignore", "-c", "length", "x.qcow2"], ["-T", "qcow2_*", "-c", "length", "x.qcow2"], ["--trace=qcow2_*", "-c", "length", "x.qcow2"],
    ["-U", "-r", "-c", "length", "x.qcow2"], ["-f", "raw", "-c", "write -z -n 100 1000", "x.raw"], ["-f", "raw", "-c", "write -z -n 0 64k", "x.raw"], ["--force-share", "-r", "-c", "length", "x.qcow2"], ["-h"], ["--help"], ["-V"], ["--version"],
]

# Lines of commands, each for an x.qcow2 of its own.
IO = {
    "abort": ["abort"], "aio_flush": ["aio_flush"], "alloc": ["alloc 0", "alloc 0 64k"], "close": ["close"],
    "aio_read": ["aio_read 0 4k", "aio_read -C 0 4k", "aio_read -i 0 4k", "aio_read -q 0 4k", "aio_read -v 0 16", "aio_read -P 1 0 4k", "aio_read 0 1k 1k 2k"],
    "aio_write": ["aio_write 0 4k", "aio_write -C 0 4k", "aio_write -f 0 4k", "aio_write -i 0 4k", "aio_write -q 0 4k", "aio_write -z 0 4k", "aio_write -z -u 0 64k",
                  "aio_write -P 1 0 4k", "aio_write 0 1k 1k 2k"],
    "break": ["break write_aio A"], "discard": ["discard 0 64k", "discard -C 0 64k", "discard -q 0 64k"], "flush": ["flush"],
    "help": ["help", "help read"], "info": ["open plain.qcow2 ; info"], "length": ["length"], "map": ["map"],
    "open": ["open y.qcow2", "close ; open -r y.qcow2", "close ; open -s y.qcow2", "close ; open -C y.qcow2", "close ; open -n y.qcow2", "close ; open -n -k y.qcow2",
             "close ; open -r -U y.qcow2", "close ; open -t none y.qcow2", "close ; open -d unmap y.qcow2", "close ; open -o driver=qcow2 y.qcow2"],
    "quit": ["quit"], "read": ["read 0 4k", "read -a 0 4k", "read -b 0 1k", "read -C 0 4k", "read -q 0 4k", "read -v 0 16", "read -P 1 0 4k", "read -P 1 -s 512 -l 512 0 4k"],
    "readv": ["readv 0 4k", "readv -C 0 4k", "readv -q 0 4k", "readv -v 0 16", "readv -P 1 0 4k", "readv 0 1k 1k 2k"], "remove_break": ["remove_break A"],
    "reopen": ["reopen -r", "reopen -w", "reopen -c none", "reopen -o lazy-refcounts=on"], "resume": ["resume A"], "sigraise": ["sigraise 15"], "sleep": ["sleep 1"],
    "truncate": ["truncate 2M", "truncate -m falloc 2M"],
    "write": ["write 0 4k", "write -b 0 1k", "write -c 512k 64k", "write -c 0 64k", "write -C 0 4k", "write -f 0 4k", "write -z -n 0 64k", "write -q 0 4k",
              "write -z -u 0 64k", "write -z 0 64k", "write -P 1 0 4k", "write -s pattern 0 4k"],
    "writev": ["writev 0 4k", "writev -C 0 4k", "writev -f 0 4k", "writev -q 0 4k", "writev -P 1 0 4k", "writev 0 1k 1k 2k"],
    "wait_break": [],   # needs blkdebug and a request that stops: test_io_commands
}

# What a run's time, or chance, decides; whatever stands behind a number of operations is the time they took.
UNSTABLE = [(r"(?m)^(\d+,\d+),\d+:\d\d:.*", r"\1"), (r" ops; .*", " ops"), (r"[\d.]+ (sec|seconds)", "T"), (r"\n?[ ]+\([\d.]+/100%\)\r", ""), (r"(disk size|actual-size)\W+[\d.]+.*", r"\1"),
            (r"(DATE|\d\d\d\d-\d\d-\d\d) [\d: ]*", "D "), (r"\"date-n?sec\": \d+", "D"), (r"(?m)^ *$\n", "")]
# Answered in words of our own (and QEMU names read -a in its help, but does not take it).
HELP = {"read -a 0 4k", "-h", "--help", "-V", "--version", "help", "help read"}


def stable(text):
    for pattern, replacement in UNSTABLE:
        text = re.sub(pattern, replacement, text)
    return text


class EveryOption(PeerCase):

    def setUp(self):
        super().setUp()
        self.gallery = self.path("gallery")
        os.mkdir(self.gallery)
        with open(os.path.join(self.gallery, "secret"), "w") as file:
            file.write("gallery")
        with open(os.path.join(self.gallery, "pattern"), "w") as file:
            file.write("abc")
        for arguments in (["-f", "qcow2", "x.qcow2", "1M"], ["-f", "qcow2", "plain.qcow2", "1M"], ["-f", "qcow2", "full.qcow2", "1M"], ["-f", "qcow2", "y.qcow2", "1M"],
                          ["-f", "raw", "x.raw", "1M"], ["-f", "raw", "x2.raw", "1M"], ["-f", "raw", "zero.raw", "1M"], ["-f", "qcow2", "-b", "x.raw", "-F", "raw", "over.qcow2"],
                          [*SECRET, "-f", "luks", "-o", "key-secret=s0,iter-time=10", "box.luks", "1M"]):
            self.ok(qemu_img("create", "-q", *arguments, cwd=self.gallery))
        self.ok(qemu_img("bitmap", "--add", "x.qcow2", "b0", cwd=self.gallery))
        for name in ("x.qcow2", "full.qcow2", "over.qcow2", "x.raw", "x2.raw"):
            raw = ["-f", "raw"] if name.endswith("raw") else []
            self.ok(qemu_io(*raw, "-c", "write -P 1 0 192k", "-c", "write -P 2 700k 4k", name, cwd=self.gallery))
        self.ok(qemu_img("snapshot", "-c", "one", "x.qcow2", cwd=self.gallery))
        shutil.copy(os.path.join(self.gallery, "x.qcow2"), os.path.join(self.gallery, "x2.qcow2"))
        self.make_leak()

    def make_leak(self):
        """An image with a cluster that is counted and not used: the refcount block is the third cluster of a new one."""
        path = os.path.join(self.gallery, "leaking.qcow2")
        self.ok(qemu_img("create", "-q", "-f", "qcow2", path, "1M"))
        with open(path, "r+b") as file:
            file.seek(2 * 65536 + 5 * 2)
            file.write(b"\x00\x01")
            file.truncate(6 * 65536)

    def outcome(self, program, arguments):
        folder = self.path("work")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.gallery, folder)
        return program(*arguments, cwd=folder, timeout=60)

    def same(self, name, words):
        """Both tools end alike, and say the same."""
        with self.subTest(" ".join(words)):
            theirs = self.outcome(getattr(QEMU_TOOL, name), words)
            ours = self.outcome(getattr(COMPAT_TOOL, name), words)
            self.assertEqual(ours.code, theirs.code, f"{ours}{theirs}")
            refused = name == "img" and ours.code != 0  # before or after something was said
            if not refused and not HELP & set(words):
                self.assertEqual(stable(ours.out), stable(theirs.out), f"{ours}{theirs}")

    def test_qemu_img(self):
        every = [[*([command] if command else []), *arguments] for command, invocations in IMG.items() for arguments in invocations]
        for words in every[::STEP]:
            self.same("img", words)

    def test_qemu_io_program(self):
        for arguments in IO_PROGRAM:
            self.same("io", arguments)

    def test_qemu_io_commands(self):
        for line in [line for lines in IO.values() for line in lines][::STEP]:
            self.same("io", [*(part for command in line.split(" ; ") for part in ("-c", command)), *([] if "open" in line else ["x.qcow2"])])

    # Nothing is left out.

    def test_the_table_has_every_option_of_qemu_img(self):
        syntax = re.findall(r"^  ([a-z]+) (.*)", qemu_img("--help").out.split("Command syntax:")[1].split("Command parameters:")[0], re.M)
        self.assertEqual({command for command, _ in syntax}, set(IMG) - {""})
        for command, usage in syntax:
            used = {word.split("=")[0] for arguments in IMG[command] for word in arguments}
            for option in re.findall(r"(?<![\w-])--?[A-Za-z][a-z-]*", usage) + re.findall(r"(?<=\[)([a-z]+)=", usage):
                self.assertIn(option, used, f"qemu-img {command}")

    def test_the_table_has_every_option_of_qemu_io(self):
        used = {word.split("=")[0] for arguments in IO_PROGRAM for word in arguments}
        for option in re.findall(r"(?<=[ ,])--?[A-Za-z][a-z-]*(?=[ ,=])", qemu_io("--help").out.split("See '")[0]):
            self.assertIn(option, used, "qemu-io")

    def test_the_table_has_every_option_of_the_commands_of_qemu_io(self):
        for command, usage in re.findall(r"^([a-z_]+) (.*) -- ", qemu_io("-c", "help").out, re.M):
            used = {word for line in IO[command] for word in line.split()}
            for letters in re.findall(r"-([A-Za-z]+)", usage):
                for letter in letters:
                    self.assertIn(f"-{letter}", used, f"qemu-io {command}")

    # The options of new images: the same names and kinds, under the same head.

    def test_option_lists(self):
        for command in (["create", "-f"], ["convert", "-O"]):
            for format in ("raw", "qcow2", "luks"):
                for files in ([], ["a", "b"][:1 + (command[0] == "convert")]):
                    with self.subTest(command=command, format=format, files=files):
                        words = [*command, format, "-o", "help", *files]
                        theirs, ours = qemu_img(*words, cwd=self.dir), COMPAT_TOOL.img(*words, cwd=self.dir)
                        self.assertEqual((ours.code, option_names(ours.out)), (theirs.code, option_names(theirs.out)), f"{ours}{theirs}")

    def test_steps_of_progress(self):
        """Also of a job that is over soon."""
        self.ok(qemu_io("-f", "raw", "-c", "truncate 40M", "-c", "write -P 1 0 40M", "x.raw", cwd=self.gallery))
        for arguments in (["convert", "-p", "-O", "qcow2", "x.raw", "new"], ["compare", "-p", "x.raw", "x.raw"]):
            shown = [self.outcome(program, arguments).out.count("/100%)") for program in (qemu_img, COMPAT_TOOL.img)]
            self.assertTrue(all(count > 4 for count in shown), f"{arguments}: {shown}")


def option_names(text):
    """Without what is said of each, and without what only Cofre has."""
    return [line.split(" - ")[0].rstrip() for line in text.splitlines() if not line.startswith("  detached-header=")]


if __name__ == "__main__":
    unittest.main(verbosity=2)
