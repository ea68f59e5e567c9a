"""The commands of qemu-io: the same scripts on the real one and on Cofre's personality of it. What is printed (times and
help texts masked), exit codes and guest bytes must agree."""

import os
import re
import signal
import termios
import time
import unittest

from cofre_peers import COMPAT_DIR, KIB, MIB, QEMU_IO, SEED, TIMEOUT_S, PeerCase, qemu_img, run
from terminal import converse

OURS = os.path.join(COMPAT_DIR, "qemu-io")

# A usage line ends where the command's arguments do: the words behind it are each program's own.
MASKS = [
    (re.compile(r"(?:\d+\.\d\d sec|\d+:\d\d:\d\d\.\d\d) \([0-9.e+inf]+ \w+/sec and [0-9.e+inf]+ ops/sec\)"), "TIME"),
    (re.compile(r"^(\d+,1),[0-9:.]+,[0-9.inf]+,[0-9.inf]+$", re.M), r"\1,TIME"),
    (re.compile(r"^(\w+).* -- .*$", re.M), r"\1 USAGE"),
    (re.compile(r"^(qemu-io: (?:can't open|Cannot find|Could not|Read-only block|Invalid preallocation)).*$", re.M), r"\1"),
    (re.compile(r"^qemu-io: (?:'disk': )?(?:Unsupported preallocation|The new size must be|the size \d+ is not).*$", re.M), "qemu-io: SIZE"),
    (re.compile(r"qemu-io> "), ""),
]


def masked(text):
    for pattern, instead in MASKS:
        text = pattern.sub(instead, text)
    return text


class ScriptCase(PeerCase):

    def images(self, size="4M", form="qcow2", options=""):
        """Two images alike, in folders of their own, so that both programs are given the same names."""
        for who in ("theirs", "ours"):
            folder = self.path(who)
            os.makedirs(folder, exist_ok=True)
            self.ok(qemu_img("create", "-q", "-f", form, *(["-o", options] if options else []),
                             os.path.join(folder, "disk"), size))

    def both(self, *args, commands=(), stdin=None, same_err=True):
        words = [*args]
        for command in commands:
            words += ["-c", command]
        theirs = run(QEMU_IO, *words, cwd=self.path("theirs"), stdin=stdin)
        mine = run(OURS, *words, cwd=self.path("ours"), stdin=stdin)
        told = f"\nQEMU:{theirs}\nours:{mine}"
        self.assertEqual(theirs.code, mine.code, told)
        self.assertEqual(masked(theirs.out), masked(mine.out), told)
        if same_err:
            self.assertEqual(masked(theirs.err), masked(mine.err), told)
        return mine

    def same_guest_bytes(self, form="qcow2"):
        content = []
        for who in ("theirs", "ours"):
            raw = self.path(who + ".raw")
            self.ok(qemu_img("convert", "-f", form, "-O", "raw", os.path.join(self.path(who), "disk"), raw))
            content.append(self.read_file(raw))
            if form == "qcow2":
                self.ok(qemu_img("check", "-q", "-f", form, os.path.join(self.path(who), "disk")))
        self.same_bytes(content[1], content[0], "ours, beside QEMU's")


class EachCommand(ScriptCase):
    """One command after the other on one image. A failing one leaves the image as it is, so both go on alike."""

    def each(self, *commands, form="qcow2"):
        for command in commands:
            with self.subTest(command=command):
                self.both("-f", form, "disk", commands=[command])
        self.same_guest_bytes(form)

    def test_write(self):
        self.images()
        with open(self.path("theirs/source"), "wb") as a, open(self.path("ours/source"), "wb") as b:
            content = self.rng.randbytes(1000)
            a.write(content)
            b.write(content)
        self.each("write 0 64k", "write -P 7 5 9", "write -P 0x1f 1M 100k", "write -P 017 2M 1.5k", "write -z 1M 64k",
                  "write -zu 1M 64k", "write -zf 512k 1k", "write -zn 3M 64k", "write -f 0 512", "write -q 0 512",
                  "write -C 0 512", "write -c 2560k 64k", "write -c 2M 512", "write -c 3M 100k", "write -c 1 512",
                  "write -s source 100 5000", "write -s nothing 0 512", "write -s . 0 512", "write -s /dev/null 0 512",
                  "write -bP 3 0 1k", "write -b 1 512", "write -b 0 513", "write -bz 0 512", "write -bf 0 512",
                  "write -cf 0 64k", "write -n 0 512", "write -u 0 512", "write -z -P 1 0 512", "write -P 1 -s source 0 512",
                  "write -P 256 0 1", "write -P x 0 1", "write 9M 512", "write 0 9M", "write 4M 1", "write 0 3G", "write -z 0 3G",
                  "write -zn 0 3G", "write", "write 0", "write 0 x", "write x 0", "write 0 -1", "write 0 1 2", "write -v 0 1",
                  "write -P", "write 0 0", "write -z 0 0", "write -p 8k 1k", "w -q 9k 1k")

    def test_read(self):
        self.images()
        self.each("write -P 7 0 64k", "read 0 64k", "read -P 7 0 64k", "read -P 8 0 64k", "read -P 7 0 65k", "read -v 5 40",
                  "read -qv 0 16", "read -Cv 0 16", "read -C 0 1M", "read -P 7 -s 100 -l 5 0 1k", "read -P 8 -s 100 -l 5 0 1k",
                  "read -P 7 -s 600 0 512", "read -P 7 -s 500 -l 20 0 512", "read -s 1 0 512", "read -l 1 0 512",
                  "read -P 7 -s x 0 512", "read -P 1e1 0 1", "read -P 08 0 1", "read -P -0 1M 1", "read -P 5x 0 1", "read 9M 512",
                  "read 4M 1", "read 3M 1M", "read 3M 2M", "read 0 3G", "read 0 8E", "read 7E 1", "read 99999999999999999999 1",
                  "read 1e3 1", "read 0 .5k", "read 0x200 0x10", "read 1.5k 512", "read 0 0", "read -b 0 512", "read -b 1 512",
                  "read -b 0 513", "read", "read 0", "read 0 1 2", "read -z 0 1", "read -1 0", "r 0 1k", "write -P 9 -b 64k 1k",
                  "read -bvP 9 64k 512", "read -pq 0 1")

    def test_vectors(self):
        self.images()
        self.each("writev 0 512 1k 3", "writev -P 3 5 1 2 3", "writev -f 64k 512", "writev -q 0 1", "writev -C 0 1 1",
                  "writev 0 1G 1G", "writev 0 3G", "writev 0 x", "writev 0 1 x", "writev 9M 1", "writev -z 0 512", "writev",
                  "writev -P 300 0 1", "readv 0 8 9", "readv -v 0 8 9", "readv -P 3 5 1 2 3", "readv -P 4 5 1 2 3", "readv -C 0 1 2 3",
                  "readv 9M 1", "readv 0 0 1", "readv -P 1 -s 1 0 512", "readv 0 2G", "readv 0 1G 1G", "readv -q 0 1", "readv 0")

    def test_background(self):
        self.images()
        for command in ("aio_write -P 5 0 512 512", "aio_write -q 0 512", "aio_write -C 64k 512", "aio_write -f 0 1",
                        "aio_write -u 0 512", "aio_write -z 0 512 512", "aio_write -zi 0 1", "aio_write 9M 512", "aio_write -z 9M 512",
                        "aio_write -z 0 3G", "aio_write -v 0 1", "aio_write -P 256 0 1", "aio_write 0 1 x", "aio_write",
                        "aio_read 0 512", "aio_read -P 5 0 1k", "aio_read -P 6 0 1k", "aio_read -qP 6 0 1k", "aio_read -v 0 20",
                        "aio_read -C 0 1", "aio_read -i 0 1", "aio_read 9M 1", "aio_read 0 3G", "aio_read x 1", "aio_read -f 0 1"):
            with self.subTest(command=command):
                self.both("-f", "qcow2", "disk", commands=[command, "aio_flush"])
                self.both("-f", "qcow2", "disk", commands=[command, "quit"])
        self.same_guest_bytes()

    def test_sizes(self):
        self.images()
        self.each("write -P 1 1M 64k", "truncate 6M", "length", "truncate 5M", "l", "truncate -m metadata 7M", "alloc 6M 1M",
                  "truncate -m full 8M", "alloc 7M 1M", "truncate -m metadata 1M", "truncate -m x 9M", "truncate", "truncate x",
                  "truncate 1 2", "truncate -x 1M", "t 8M", "map", "alloc 0", "alloc 1M", "alloc 1M 9M", "alloc 100 1000", "alloc 9M",
                  "alloc x", "alloc 0 x", "alloc -1", "alloc 0 8E", "alloc", "alloc 1 2 3", "map 1", "length 1")

    def test_discard(self):
        self.images()
        self.each("write 0 1M", "discard 0 64k", "discard -q 64k 64k", "discard -C 128k 64k", "discard 1 1", "discard 0 0",
                  "discard 0 3G", "discard 0 9M", "discard 9M 1", "discard", "discard 0 1 2", "discard x 1", "discard -x 0 1", "d 256k 64k",
                  "map", "flush", "f", "flush 1")

    def test_the_program(self):
        self.images()
        self.each("nonsense", "help nonsense", "help a b", "sleep", "sleep 1x", "sleep 1", "sleep 0x2", "sleep -1", "sleep 1 2",
                  "sigraise", "sigraise x", "sigraise 0", "sigraise 99", "sigraise 1 2", "quit", "q 1", "aio_flush 1", "close", "c",
                  "close 1", "abort 1", "info", "i", "info 1", "", "   ")

    def test_help(self):
        """What help says are our own words; there is help for everything that qemu-io has."""
        theirs, mine = self.ok(run(QEMU_IO, "-c", "help")), self.ok(run(OURS, "-c", "help"))
        names = re.findall(r"(?m)^(\w+).* -- ", theirs.out)
        self.assertGreater(len(names), 20)
        self.assertEqual(names, re.findall(r"(?m)^(\w+).* -- ", mine.out), mine)
        for name in names:
            for command in (f"help {name}", f"? {name}"):
                told = self.ok(run(OURS, "-c", command))
                self.assertTrue(told.out.startswith(name), told)
            usage = re.search(rf"(?m)^{name}(.*) -- ", theirs.out).group(1)
            for option in re.findall(r"-(\w+)", usage):
                with self.subTest(name=name, option=option):
                    for letter in option.replace("a", ""):      # read's -a is told of and not there
                        self.assertRegex(told.out, rf"\n -{letter}[ ,]", usage)

    def test_raw(self):
        self.images(form="raw")
        self.each("write 4M 512", "write 0 1M", "write -b 0 512", "read -b 0 512", "write -c 0 64k", "info",
                  "truncate -m falloc 5M", "truncate -m full 6M", "truncate -m metadata 7M", "length", form="raw")

    def test_signals(self):
        self.images()
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGABRT):
            with self.subTest(signal=number):
                commands = ["-c", "write -q 0 64k", "-c", f"sigraise {int(number)}", "-c", "length", "disk"]
                mine = run(OURS, *commands, cwd=self.path("ours"))
                self.assertEqual(mine.code, run(QEMU_IO, *commands, cwd=self.path("theirs")).code, mine)
        mine = run(OURS, "-c", "abort", "disk", cwd=self.path("ours"))
        self.assertEqual(mine.code, -signal.SIGABRT, mine)


class Files(ScriptCase):

    def test_open_and_close(self):
        self.images()
        for commands in (["read 0 512"], ["open disk", "read 0 512", "close", "read 0 512", "close"], ["open disk", "open disk"],
                         ["open nothing", "length"], ["open"], ["open -x disk"], ["open disk disk"], ["open -t x disk"],
                         ["open -d x disk"], ["open -i x disk"], ["open -k disk", "length"], ["open -r disk", "write 0 512", "length"],
                         ["open -n disk", "read 0 512"], ["open -U disk", "length"], ["open -rU disk", "length"],
                         ["open -o driver=qcow2,file.filename=disk", "info"], ["open -o driver=qcow2 disk", "length"],
                         ["open -o driver=raw -o read-only=on disk", "length"], ["open -o nonsense=1 disk", "length"],
                         ["open -s disk", "write -P 9 0 512", "read -P 9 0 512", "close", "open disk", "read -P 0 0 512"],
                         ["open -C disk", "write -P 1 0 512", "read -P 1 0 512"], ["open -Cr disk", "length"],
                         ["o disk", "l", "c"], ["truncate"], ["map x"], ["sleep 1", "aio_flush"]):
            with self.subTest(commands=commands):
                self.both(commands=commands)
        self.same_guest_bytes()

    def test_options_of_the_program(self):
        self.images()
        for args in (["-r"], ["-n"], ["-C"], ["-C", "-r"], ["-s"], ["-s", "-r"], ["-m"], ["-k"], ["-k", "-n"], ["-i", "native"],
                     ["-i", "threads"], ["-i", "io_uring"], ["-i", "x"], ["-t", "none"], ["-t", "x"], ["-d", "on"], ["-d", "off"],
                     ["-d", "x"], ["-U"], ["-r", "-U"], ["-t", "unsafe"], ["--cache=directsync"]):
            with self.subTest(args=args):
                self.both("-f", "qcow2", *args, "disk", commands=["write -P 3 0 512", "read -P 3 0 512"])
        for args in (["nothing"], ["-f", "nothing", "disk"], ["-V"], ["--help"], ["--image-opts", "-f", "raw", "disk"],
                     ["--image-opts", "driver=qcow2,file.filename=disk"], ["--nonsense"], ["disk", "disk"], ["-f"]):
            with self.subTest(args=args):
                theirs = run(QEMU_IO, *args, "-c", "length", cwd=self.path("theirs"))
                mine = run(OURS, *args, "-c", "length", cwd=self.path("ours"))
                self.assertEqual(theirs.code, mine.code, f"{theirs}\n{mine}")
        self.both("--image-opts", commands=["open driver=qcow2,file.filename=disk", "length", "close", "open -o a=b disk"])
        self.same_guest_bytes()

    def test_a_snapshot_leaves_the_image_alone(self):
        self.images()
        before = self.read_file(self.path("ours/disk"))
        self.both("-s", "-f", "qcow2", "disk", commands=["write -P 5 0 1M", "read -P 5 0 1M", "info", "map"])
        # qemu-io's overlay cannot be reopened.
        mine = self.ok(run(OURS, "-s", "-f", "qcow2", "-c", "write -P 5 0 1M", "-c", "reopen -r", "-c", "read -P 5 0 1M", "disk",
                           cwd=self.path("ours")))
        self.assertIn("read 1048576/1048576", mine.out)
        self.assertTrue(before == self.read_file(self.path("ours/disk")))

    def test_reopen(self):
        self.images()
        for commands in (["reopen -r", "write 0 512", "reopen -w", "write -P 2 0 512", "read -P 2 0 512"], ["reopen"], ["reopen -r -w"],
                         ["reopen -x"], ["reopen foo"], ["reopen -c x"], ["reopen -c none", "read 0 512"],
                         ["reopen -c writethrough", "write -P 4 64k 512"], ["reopen -o lazy-refcounts=on", "info"],
                         ["reopen -o nonsense=on", "length"], ["reopen -o driver=raw", "length"], ["reopen -o driver=qcow2", "length"],
                         ["reopen -o file.filename=x", "length"], ["reopen -o force-share=on"], ["reopen -r -o read-only=off"],
                         ["reopen -c none -o cache.direct=off"], ["reopen -o read-only=on", "write 0 512"],
                         ["reopen -r", "reopen -o read-only=off", "write 0 512"], ["reopen -o cache.direct=on,cache.no-flush=on", "read 0 512"],
                         ["reopen -o"], ["reopen -o l2-cache-size=1M -o refcount-cache-size=256k", "read 0 512"],
                         ["write -P 6 128k 512", "aio_write -P 7 192k 512", "reopen -r", "read -P 6 128k 512", "read -P 7 192k 512"]):
            with self.subTest(commands=commands):
                self.both("-f", "qcow2", "disk", commands=commands)
        self.same_guest_bytes()

    def test_information(self):
        for form, options in (("qcow2", ""), ("qcow2", "extended_l2=on,cluster_size=32k"), ("qcow2", "compat=0.10"),
                              ("qcow2", "cluster_size=2M,lazy_refcounts=on"), ("raw", "")):
            with self.subTest(form=form, options=options):
                self.images("100M", form, options)
                self.both("-f", form, "disk", commands=["info", "length", "map"])
        for node in ("driver=file,filename=disk", "driver=blkdebug,image.filename=disk", "driver=null-co,size=1M",
                     "driver=copy-on-read,file.driver=raw,file.file.filename=disk", "driver=raw,offset=512,size=1024,file.filename=disk"):
            with self.subTest(node=node):
                self.both("--image-opts", node, commands=["info"])

    def test_standard_input(self):
        self.images()
        for script in ("length\nread 0 512 \n\nfoo\nquit\nlength\n", "length\nread 0 9M", "", "open disk\nlength\n",
                       "aio_write -P 9 0 512\naio_flush\nread -P 9 0 512\nquit\n", "close\nread"):
            with self.subTest(script=script):
                file = "disk" if "open" not in script else None
                self.both(*(["-f", "qcow2", file] if file else []), stdin=script.encode())


class Breakpoints(ScriptCase):

    def script(self, *commands):
        self.both("-f", "qcow2", "blkdebug::disk", commands=commands)

    def test_a_request_stops_and_goes_on(self):
        self.images()
        self.script("break write_aio A", "aio_write -P 1 0 512", "wait_break A", "read 1M 512", "resume A", "aio_flush", "read -P 1 0 512")
        self.script("break write_aio A", "break write_aio B", "aio_write 0 512", "wait_break A", "resume A", "wait_break B", "resume B",
                    "aio_flush")
        self.script("break write_aio A", "aio_write 0 512", "wait_break A", "remove_break A", "aio_flush")
        self.script("break pwritev_done A", "aio_write -P 4 0 512", "wait_break A", "resume A", "aio_flush", "read -P 4 0 512")
        self.script("break write_aio A", "reopen -r", "reopen -w", "aio_write 0 512", "wait_break A", "resume A", "resume A", "aio_flush")
        self.same_guest_bytes()

    def test_two_requests_pass_each_other(self):
        self.images()
        self.script("write -q 0 128k", "break write_aio A", "aio_write -P 1 0 64k", "wait_break A", "write -P 2 64k 64k", "read -P 2 64k 64k",
                    "read -P 0xcd 0 64k", "resume A", "aio_flush", "read -P 1 0 64k")
        self.same_guest_bytes()

    def test_wrong_breakpoints(self):
        self.images()
        self.script("break nonsense A", "resume A", "remove_break A")
        self.script("break write_aio A", "break write_aio A", "remove_break A", "remove_break A", "write 0 512")
        self.script("break", "break x", "break a b c", "resume", "wait_break", "remove_break")
        self.both("-f", "qcow2", "disk", commands=["break write_aio A", "resume A", "remove_break A"])

    def test_a_breakpoint_that_cannot_come(self):
        """qemu-io waits for ever."""
        self.images()
        mine = run(OURS, "-f", "qcow2", "blkdebug::disk", "-c", "break cor_write A", "-c", "write -q 0 512", "-c", "wait_break A", "-c",
                   "length", cwd=self.path("ours"))
        self.assertEqual((mine.code, "Could not wait for breakpoint A" in mine.out, "4 MiB" in mine.out), (1, True, True), mine)

    def test_what_is_stopped_goes_on_before_the_end(self):
        """qemu-io waits for ever."""
        self.images()
        for last in ("quit", "close", "reopen -r", "length"):
            with self.subTest(last=last):
                mine = run(OURS, "-f", "qcow2", "blkdebug::disk", "-c", "write -q 0 64k", "-c", "break write_aio A", "-c",
                           "aio_write -P 8 0 64k", "-c", "wait_break A", "-c", last, cwd=self.path("ours"))
                self.assertEqual((mine.code, "wrote 65536/65536 bytes at offset 0" in mine.out), (0, True), mine)
                self.ok(run(QEMU_IO, "-f", "qcow2", "-c", "read -P 8 0 64k", "disk", cwd=self.path("ours")))


class Overlap(ScriptCase):

    def test_requests_run_side_by_side(self):
        """The first is stopped below; the later ones end before it does."""
        self.images()
        self.ok(run(OURS, "-f", "qcow2", "-c", "write -q 0 1M", "disk", cwd=self.path("ours")))
        mine = self.ok(run(OURS, "-f", "qcow2", "blkdebug::disk", "-c", "break write_aio A", "-c", "aio_write -P 1 0 64k", "-c",
                           "aio_write -P 2 64k 64k", "-c", "aio_read 512k 64k", "-c", "sleep 100", "-c", "resume A", "-c", "aio_flush",
                           cwd=self.path("ours")))
        order = [line for line in mine.out.splitlines() if "at offset" in line or "Resuming" in line]
        self.assertEqual(order.index("wrote 65536/65536 bytes at offset 0"), 3, mine)
        self.assertLess(order.index("wrote 65536/65536 bytes at offset 65536"), order.index("blkdebug: Resuming request 'A'"), mine)

    def test_random_requests(self):
        """Requests in flight together, each of its own block: what is there afterwards is what each wrote."""
        self.images("16M")
        blocks = list(range(256))
        self.rng.shuffle(blocks)
        commands, expected = [], bytearray(16 * MIB)
        for number, block in enumerate(blocks):
            at, length = block * 64 * KIB + self.rng.randrange(32 * KIB), self.rng.randrange(1, 32 * KIB)
            byte = 1 + number % 255
            commands.append(f"aio_write -q -P {byte} {at} {length}")
            expected[at:at + length] = bytes([byte]) * length
            if self.rng.randrange(16) == 0:
                commands.append(self.rng.choice(["aio_flush", "flush", "sleep 1", "length"]))
        words = [word for command in commands for word in ("-c", command)]
        self.ok(run(OURS, "-f", "qcow2", *words, "disk", cwd=self.path("ours")))
        raw = self.path("raw")
        self.ok(qemu_img("convert", "-O", "raw", self.path("ours/disk"), raw))
        self.same_bytes(self.read_file(raw), bytes(expected), f"COFRE_TEST_SEED={SEED}")


class Terminal(ScriptCase):
    """Lines typed on a terminal: they can be edited, and come back."""

    @staticmethod
    def wait_for_editing(terminal):
        """The prompt shows a moment before the terminal gives single keys; what is typed in between would be a whole line."""
        deadline = time.monotonic() + TIMEOUT_S
        while termios.tcgetattr(terminal)[3] & termios.ICANON and time.monotonic() < deadline:
            time.sleep(0.005)

    def typed(self, *keys, prompt=b"cofre io> "):
        """Types each of `keys` at the next prompt. Returns (exit code, what showed)."""
        waiting = list(keys)

        def type_keys(terminal, shown):
            # What ends in the background may be told behind the prompt.
            if waiting and len(re.findall(rb"(?:^|\n)" + prompt, shown)) > len(keys) - len(waiting):
                self.wait_for_editing(terminal)
                os.write(terminal, waiting.pop(0))

        return converse(["io", "-f", "qcow2", self.path("ours/disk")], type_keys, env={"TERM": "xterm"})

    def test_editing_history_and_completion(self):
        self.images()
        code, shown = self.typed(b"write -P 3 0 51x\x7f2\n", b"len\t\n", b"read -P 3 0 512\n", b"\x1b[A\n", b"\x1b[A\x1b[A\n", b"\x04")
        told = f"{code}: {shown!r}"
        self.assertEqual(code, 0, told)
        self.assertEqual(shown.count("wrote 512/512 bytes at offset 0"), 1, told)
        self.assertEqual(shown.count("read 512/512 bytes at offset 0"), 2, told)
        self.assertEqual(len(re.findall(r"(?m)^\s*4 MiB", shown)), 2, told)

    def test_requests_end_while_a_line_is_awaited(self):
        self.images()
        code, shown = self.typed(b"aio_write -P 5 0 64k\n", b"sleep 50\n", b"read -P 5 0 64k\n", b"quit\n")
        self.assertEqual(code, 0, shown)
        self.assertIn("wrote 65536/65536", shown)

    def test_an_interrupt_closes_the_image(self):
        self.images()
        code, shown = self.typed(b"write -P 6 0 1M\n", b"\x03")
        self.assertEqual(code, 130, shown)
        self.ok(run(QEMU_IO, "-f", "qcow2", "-c", "read -P 6 0 1M", self.path("ours/disk")))
        self.ok(qemu_img("check", "-q", self.path("ours/disk")))


if __name__ == "__main__":
    unittest.main()
