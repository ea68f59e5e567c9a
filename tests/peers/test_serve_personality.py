"""Cofre as `qemu-nbd` beside the real one: the same exports, lists, exit codes and refusals, one after the other."""

import os
import re
import signal
import subprocess
import unittest

from cofre_peers import (COFRE_TOOL, DISK_DIR, KIB, MIB, QEMU_TOOL, Image, PeerCase, aes_options, luks_options, qemu_img, qemu_io,
                         random_disk, run)
from serving import OUR_QEMU_NBD, QEMU_NBD, Server, nbdsh

BOTH = (OUR_QEMU_NBD, QEMU_NBD)


class PersonalityCase(PeerCase):

    def served(self, program, *args):
        return Server(self.path("socket"), program, "-k", self.path("socket"), *args)

    def beside(self, look, *args):
        """What `look(server)` finds, and the exit code after a SIGTERM, with each of the two."""
        found = []
        for program in BOTH:
            with self.served(program, "-t", *args) as server:
                found.append((look(server), server.stop()))
            if os.path.exists(server.socket):
                os.unlink(server.socket)
        return found

    def same(self, look, *args):
        ours, theirs = self.beside(look, *args)
        self.assertEqual(ours, theirs, f"with {args}")
        return ours[0]


class Exports(PersonalityCase):

    def images(self):
        luks = Image(self.path("luks.qcow2"), "qcow2", self.secret())
        self.create(COFRE_TOOL, luks, 3 * MIB, options=luks_options())
        plain = Image(self.path("plain.qcow2"), "qcow2")
        self.create(QEMU_TOOL, plain, 5 * MIB)
        self.ok(qemu_img("bitmap", "--add", plain.path, "b0"))
        self.ok(qemu_img("snapshot", "-c", "before", plain.path))
        raw = self.write_file("disk.raw", bytes(1 * MIB + 512))
        return luks, plain, raw

    def test_what_clients_are_told(self):
        luks, plain, raw = self.images()
        key = (*luks.object_args(), "--image-opts", luks.opts())
        on_disk = os.path.join(DISK_DIR, f"cofre-{os.getpid()}.raw")   # tmpfs knows no alignment of direct I/O
        self.addCleanup(os.unlink, on_disk)
        with open(on_disk, "wb") as file:
            file.write(bytes(1 * MIB))
        for args in (key, ("-r", *key), ("-e", "5", "-x", "a/b c", "-D", "text", *key), ("-f", "qcow2", plain.path),
                     ("-A", "-B", "b0", "-f", "qcow2", plain.path), ("-f", "qcow2", "-l", "before", plain.path),
                     ("-f", "qcow2", "-l", "snapshot.name=before", plain.path), ("-s", "-f", "qcow2", plain.path),
                     ("-f", "raw", raw), ("-f", "raw", "-o", "1024", raw), ("-n", "-f", "raw", on_disk),
                     ("--cache=writethrough", "--discard=unmap", "--detect-zeroes=unmap", "--aio=threads", "-f", "raw", raw)):
            with self.subTest(args=args):
                self.same(lambda server: self.ok(run("nbdinfo", "--json", "--list", server.uri())).out, *args)

    def test_lists_of_other_servers(self):
        luks, plain, raw = self.images()
        for args in (("-A", "-B", "b0", "-e", "3", "-x", "name", "-D", "description", "-f", "qcow2", plain.path),
                     ("-r", "-f", "raw", raw), (*luks.object_args(), "--image-opts", luks.opts())):
            for program in BOTH:
                with self.served(program, "-t", *args) as server:
                    lists = [self.ok(run(lister, "-L", "-k", server.socket)).out for lister in BOTH]
                    self.assertEqual(lists[0], lists[1], f"of {program} {args}")
                    server.stop()
                if os.path.exists(server.socket):
                    os.unlink(server.socket)

    def test_offset(self):
        disk = random_disk(self.rng, 1 * MIB)
        raw = self.write_file("disk.raw", disk)
        for offset in (512, 4096, 1000):
            code = f"import sys; sys.stdout.buffer.write(h.pread(512, {1000}).hex().encode())"
            self.assertEqual(self.same(lambda server: self.ok(nbdsh(server.uri(), code)).out, "-o", str(offset), "-f", "raw", raw),
                             disk[offset + 1000:offset + 1512].hex())

    def test_temporary_overlay(self):
        """-s: clients see what they write; the file never does, and nothing of it lies about in the clear."""
        disk = random_disk(self.rng, 2 * MIB)
        for kind in ("raw", "luks"):
            image = Image(self.path(f"image.{kind}"), "raw") if kind == "raw" else \
                Image(self.path("image.qcow2"), "qcow2", self.secret())
            if kind == "raw":
                self.write_file("image.raw", disk)
            else:
                self.ok(qemu_img("convert", "-O", "qcow2", *image.object_args(), "-o", luks_options(),
                                 self.write_file("disk.raw", disk), image.path))
            before = self.read_file(image.path)
            source = ("-f", "raw", image.path) if kind == "raw" else image.args()
            with self.served(OUR_QEMU_NBD, "-t", "-s", *source) as server:
                self.ok(qemu_io("-f", "raw", "-c", "write -P 0x77 100k 300k", "-c", "read -P 0x77 100k 300k", server.uri()))
                expected = disk[:100 * KIB] + b"\x77" * 300 * KIB + disk[400 * KIB:]
                self.ok(run("nbdcopy", server.uri(), self.path("seen")))
                self.same_bytes(self.read_file(self.path("seen")), expected, kind)
                self.assertEqual(server.stop(), 0, server.said())
            self.same_bytes(self.read_file(image.path), before, kind)

    def test_legacy_encryption(self):
        image = Image(self.path("image.qcow2"), "qcow2", self.secret())
        self.create(QEMU_TOOL, image, 2 * MIB, options=aes_options())
        self.io(QEMU_TOOL, image, "write -P 5 0 1M")
        code = "print(h.pread(4096, 12288) == b'\\5' * 4096)"
        self.assertEqual(self.same(lambda server: self.ok(nbdsh(server.uri(), code)).out, *image.args()), "True\n")


class Endings(PersonalityCase):

    def test_the_last_client_ends_it(self):
        raw = self.write_file("disk.raw", bytes(1 * MIB))
        for program in BOTH:
            with self.served(program, "-f", "raw", raw) as server:
                self.ok(run("nbdinfo", "--size", server.uri()))
                self.assertEqual(server.wait(), 0, server.said())
            with self.served(program, "-e", "2", "-f", "raw", raw) as server:
                first = subprocess.Popen(["qemu-io", "-f", "raw", server.uri()], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE)
                first.stdin.write(b"read 0 512\n")
                first.stdin.flush()
                first.stdout.readline()
                self.ok(run("nbdinfo", "--size", server.uri()))   # another comes and goes
                self.assertIsNone(server.process.poll())
                first.communicate(b"quit\n")
                self.assertEqual(server.wait(), 0, server.said())

    def test_one_client_at_a_time(self):
        raw = self.write_file("disk.raw", bytes(1 * MIB))
        for program in BOTH:
            with self.served(program, "-t", "-f", "raw", raw) as server:
                holder = subprocess.Popen(["qemu-io", "-f", "raw", server.uri()], stdin=subprocess.PIPE,
                                          stdout=subprocess.PIPE)
                holder.stdin.write(b"read 0 512\n")
                holder.stdin.flush()
                holder.stdout.readline()
                waiter = subprocess.Popen(["nbdinfo", "--size", server.uri()], stdout=subprocess.PIPE)
                with self.assertRaises(subprocess.TimeoutExpired):
                    waiter.wait(0.3)
                holder.communicate(b"quit\n")
                self.assertEqual(waiter.communicate(timeout=60)[0], b"1048576\n")
                server.stop(signal.SIGINT)

    def test_fork_and_pid_file(self):
        raw = self.write_file("disk.raw", bytes(1 * MIB))
        for program in BOTH:
            self.ok(run(program, "--fork", "--pid-file", self.path("pid"), "-t", "-k", self.path("socket"), "-f", "raw", raw))
            pid = int(self.read_file(self.path("pid")))
            self.ok(run("nbdinfo", "--size", f"nbd+unix:///?socket={self.path('socket')}"))
            os.kill(pid, signal.SIGTERM)
            for _ in range(1000):
                if not os.path.exists(f"/proc/{pid}") or not os.path.exists(self.path("pid")):
                    break
                import time
                time.sleep(0.01)
            if os.path.exists(self.path("socket")):
                os.unlink(self.path("socket"))


class WrongInvocations(PersonalityCase):

    def test_refusals(self):
        """Exit code 1 from both, and the same words that matter."""
        raw = self.write_file("disk.raw", bytes(1 * MIB))
        plain = self.path("plain.qcow2")
        self.create(QEMU_TOOL, Image(plain, "qcow2"), 1 * MIB)
        socket = ("-k", self.path("socket"))
        for words, args in (
                (("invalid number of arguments",), ()), (("invalid number of arguments",), (raw, raw)),
                (("no such file",), (*socket, self.path("none"))), (("qcow2",), (*socket, "-f", "qcow2", raw)),
                (("shared device number",), ("-e", "-1", raw)), (("shared device number",), ("-e", "x", raw)),
                (("cache mode",), ("--cache=foo", raw)), (("aio mode",), ("--aio=foo", raw)),
                (("discard mode",), ("--discard=foo", raw)), (("detect_zeroes",), ("--detect-zeroes=foo", raw)),
                (("can only be specified once",), ("-n", "--cache=none", raw)),
                (("absolute",), ("-k", "relative", raw)), (("list mode", "file name"), ("-L", raw)),
                (("list mode",), ("-L", "-x", "name")), (("unrecognized option",), ("--bogus", raw)),
                (("invalid offset",), ("-o", "x", raw)), (("offset", "cannot be greater"), (*socket, "-f", "raw", "-o", "9999999", raw)),
                (("snapshot",), (*socket, "-l", "none", plain)), (("bitmap 'none' is not found",), (*socket, "-B", "none", plain)),
                (("no tls credentials with id 'none'",), (*socket, "--tls-creds", "none", raw)),
                (("too long",), (*socket, "-x", "x" * 5000, raw)),
                (("--image-opts and -f are mutually exclusive",), (*socket, "-f", "raw", "--image-opts", "driver=raw"))):
            for program in BOTH:
                with self.subTest(args=args, program=program):
                    self.refused(run(program, *args), *words, code=1)

    def test_the_kernels_client_is_refused_with_a_reason(self):
        for args in (("-c", "/dev/nbd0", "x"), ("-d", "/dev/nbd0")):
            self.refused(run(OUR_QEMU_NBD, *args), "not supported", "nbd-client", code=1)

    def test_every_option_is_there(self):
        theirs = set(re.findall(r"--[a-z][a-z-]+", self.ok(run(QEMU_NBD, "--help")).out))
        ours = set(re.findall(r"--[a-z][a-z-]+", self.ok(run(OUR_QEMU_NBD, "--help")).out))
        self.assertEqual(theirs - ours, set())
        self.assertTrue(self.ok(run(OUR_QEMU_NBD, "--version")).out.startswith("qemu-nbd 7.2"))


if __name__ == "__main__":
    unittest.main()
