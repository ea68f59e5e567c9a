"""`cofre serve` and the clients of the world: qemu-img, qemu-io, nbdinfo, nbdcopy, fio, several at a time; and its end: a
signal, or a kill after which all that was flushed is there."""

import os
import shutil
import signal
import subprocess
import unittest

from cofre_peers import (COFRE_TOOL, KIB, LONG, MIB, QEMU_TOOL, SANITIZED, Image, PeerCase, aes_options, cofre,
                         luks_options, qemu_img, qemu_io, random_disk, run)
from guest_model import GuestModel
from serving import QEMU_NBD, Server, cofre_serve, nbdsh, python_with_libnbd, uri_of

SIZE = 24 * MIB if LONG else 6 * MIB


class ServeCase(PeerCase):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for tool in ("nbdinfo", "nbdcopy", "fio"):
            if not shutil.which(tool):
                raise AssertionError(f"{tool} not found: ./test installs what is needed")

    def encrypted(self, kind="luks", size=SIZE, name="image.qcow2"):
        image = Image(self.path(name), "qcow2", self.secret(name=name + ".secret"))
        return self.create(COFRE_TOOL, image, size, options=luks_options() if kind == "luks" else aes_options())

    def serve(self, image, *args):
        return cofre_serve(self.path("socket"), *image.args(), *args)


class Converters(ServeCase):

    def both_directions(self, image):
        disk = random_disk(self.rng, SIZE)
        raw = self.write_file("disk.raw", disk)
        with self.serve(image) as server:
            self.ok(qemu_img("convert", "-n", "-f", "raw", "-O", "raw", raw, server.uri()))
            self.ok(qemu_img("compare", "-f", "raw", "-F", "raw", raw, server.uri()))
            self.ok(qemu_img("convert", "-f", "raw", "-O", "raw", server.uri(), self.path("back.raw")))
            self.assertEqual(server.stop(), 0, server.said())
        self.same_bytes(self.read_file(self.path("back.raw")), disk, "through qemu-img")
        self.clean(QEMU_TOOL, image)
        self.holds(QEMU_TOOL, image, disk)
        with self.serve(image, "-r") as server:
            self.ok(run("nbdcopy", server.uri(), self.path("copy.raw")))
            self.same_bytes(self.read_file(self.path("copy.raw")), disk, "through nbdcopy")
            self.refused(qemu_io("-f", "raw", "-c", "write 0 512", server.uri()), ("read-only", "permission"))

    def test_luks(self):
        self.both_directions(self.encrypted("luks"))

    def test_legacy_aes(self):
        self.both_directions(self.encrypted("aes"))

    def test_nbdcopy_fills_an_image(self):
        disk = random_disk(self.rng, SIZE)
        image = self.encrypted()
        with self.serve(image) as server:
            self.ok(run("nbdcopy", "--flush", "--requests=32", "--connections=4", self.write_file("disk.raw", disk),
                        server.uri()))
            self.assertEqual(server.stop(), 0, server.said())
        self.clean(QEMU_TOOL, image)
        self.holds(QEMU_TOOL, image, disk)

    def test_cofre_as_client(self):
        disk = random_disk(self.rng, SIZE)
        image = self.encrypted()
        with self.serve(image) as server:
            self.ok(cofre("convert", "-n", "-f", "raw", "-O", "raw", self.write_file("disk.raw", disk), server.uri()))
            self.ok(cofre("compare", "-f", "raw", "-F", "raw", self.path("disk.raw"), server.uri()))

    def test_every_kind_of_image(self):
        disk = random_disk(self.rng, 3 * MIB)
        raw = self.write_file("disk.raw", disk)
        for kind, options in (("qcow2", ""), ("vmdk", ""), ("vdi", ""), ("vpc", "force_size"), ("vhdx", "")):
            path = self.path(f"image.{kind}")
            self.ok(qemu_img("convert", "-O", kind, *(["-o", options] if options else []), raw, path))
            with cofre_serve(self.path("socket"), "-f", kind, "-r", path) as server:
                self.ok(qemu_img("compare", "-f", "raw", "-F", "raw", raw, server.uri()))


class Maps(ServeCase):

    def test_block_status_agrees_with_qemu_nbd(self):
        """The same extents, holes and depths that qemu-nbd tells of a chain."""
        base = self.path("base.qcow2")
        overlay = self.path("overlay.qcow2")
        self.ok(qemu_img("create", "-q", "-f", "qcow2", base, "4M"))
        self.ok(qemu_io("-f", "qcow2", "-c", "write -P 1 0 300k", "-c", "write -z 512k 64k", "-c", "write -P 2 1M 1M",
                        base))
        self.ok(qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", overlay, "5M"))
        self.ok(qemu_io("-f", "qcow2", "-c", "write -P 3 128k 64k", "-c", "write -z 1M 128k", "-c", "discard 3M 64k",
                        overlay))
        code = ("m = {}\n"
                "def f(name, offset, entries, err):\n"
                "    at = offset\n"
                "    for length, flags in zip(entries[0::2], entries[1::2]):\n"
                "        runs = m.setdefault(name, [])\n"
                "        if runs and runs[-1][2] == flags and runs[-1][0] + runs[-1][1] == at: runs[-1][1] += length\n"
                "        else: runs.append([at, length, flags])\n"
                "        at += length\n"
                "h.block_status(h.get_size(), 0, f)\n"
                "import json; print(json.dumps(m, sort_keys=True))")
        contexts = "h.add_meta_context('base:allocation'); h.add_meta_context('qemu:allocation-depth')"
        found = []
        for server in (Server(self.path("socket"), QEMU_NBD, "-A", "-k", self.path("socket"), "-t", "-r", "-f", "qcow2", overlay),
                       cofre_serve(self.path("socket"), "-r", "-f", "qcow2", overlay)):
            with server:
                found.append(self.ok(nbdsh(server.uri(), code, contexts)).json())
            if os.path.exists(self.path("socket")):
                os.unlink(self.path("socket"))
        theirs, ours = found
        self.assertEqual(ours, theirs)

    def test_dirty_bitmaps(self):
        image = Image(self.path("image.qcow2"), "qcow2")
        self.create(QEMU_TOOL, image, "4M")
        self.ok(qemu_img("bitmap", "--add", image.path, "changes"))
        self.io(QEMU_TOOL, image, "write 64k 1k", "write 1M 128k")
        read = [uri_of(self.path("socket")), "h.block_status(h.get_size(), 0, lambda n, o, e, r: print(n, e))",
                "h.add_meta_context('qemu:dirty-bitmap:changes')"]
        with self.serve(image, "-B", "changes") as server:
            before = self.ok(nbdsh(*read)).out
            self.assertEqual(before, "qemu:dirty-bitmap:changes [65536, 0, 65536, 1, 917504, 0, 131072, 1, 3014656, 0]\n")
            self.ok(qemu_io("-f", "raw", "-c", "write 0 512", server.uri()))
            self.assertIn("[131072, 1, 917504, 0", self.ok(nbdsh(*read)).out)
            self.assertEqual(server.stop(), 0)
        # What was written through the server is noted on disk.
        with Server(self.path("socket"), QEMU_NBD, "-t", "-r", "-k",
                    self.path("socket"), "-B", "changes", "-f", "qcow2", image.path):
            self.assertIn("[131072, 1, 917504, 0", self.ok(nbdsh(*read)).out)
        os.unlink(self.path("socket"))
        self.refused(cofre("serve", "--nbd", f"unix:{self.path('socket')}", "-B", "none", image.path), "none", "not found")


class Writers(ServeCase):

    def test_random_writes_of_qemu_io(self):
        image = self.encrypted()
        model = GuestModel(bytes(SIZE), self.rng, longest=200_000)
        with self.serve(image) as server:
            args = [part for command in model.commands(80) for part in ("-c", command)]
            self.ok(qemu_io("-f", "raw", "-d", "unmap", *args, server.uri()))
            self.assertEqual(server.stop(), 0, server.said())
        content, result = self.content(QEMU_TOOL, image)
        self.assertEqual(model.settle(content), -1, f"{result}")
        self.clean(QEMU_TOOL, image)

    def test_fio_verifies(self):
        image = self.encrypted(size=16 * MIB)
        with self.serve(image) as server:
            for block, depth in (("4k", 32), ("64k", 8), ("512", 4)):
                size = "2M" if block == "512" or SANITIZED else "12M"
                self.ok(run("fio", "--name=job", "--ioengine=nbd", f"--uri={server.uri()}", "--rw=randwrite",
                            f"--bs={block}", f"--iodepth={depth}", f"--size={size}", "--verify=crc32c", "--do_verify=1",
                            "--verify_fatal=1", f"--randseed={self.rng.randrange(10 ** 6)}", cwd=self.dir))
            self.assertEqual(server.stop(), 0, server.said())
        self.clean(QEMU_TOOL, image)

    def test_many_clients_at_once(self):
        """Each fills and reads back its own part, which shares clusters with its neighbour's."""
        image = self.encrypted()
        part = 777 * KIB
        with self.serve(image) as server:
            clients = []
            for i in range(6):
                at, pattern = i * part, 0x10 + i
                commands = [f"write -P {pattern} {at} {part}", f"read -P {pattern} {at} {part}", "flush"]
                args = [word for command in commands for word in ("-c", command)]
                clients.append(subprocess.Popen(["qemu-io", "-f", "raw", *args, server.uri()], stdout=subprocess.PIPE,
                                                stderr=subprocess.STDOUT))
            for client in clients:
                said = client.communicate(timeout=120)[0].decode()
                self.assertEqual(client.returncode, 0, said)
                self.assertNotIn("failed", said.lower())
            self.assertEqual(server.stop(), 0, server.said())
        self.holds(QEMU_TOOL, image, b"".join(bytes([0x10 + i]) * part for i in range(6)).ljust(SIZE, b"\0"))
        self.clean(QEMU_TOOL, image)

    def test_several_exports(self):
        one, two = self.encrypted(name="one.qcow2"), Image(self.write_file("two.raw", bytes(1 * MIB)), "raw")
        with cofre_serve(self.path("socket"), "--passphrase-file", one.secret, "-x", "first", "-x", "second", "-D", "a", "-D",
                         "b", one.path, two.path) as server:
            listed = self.ok(run("nbdinfo", "--json", "--list", server.uri())).json()["exports"]
            self.assertEqual([(e["export-name"], e["description"], e["export-size"]) for e in listed],
                             [("first", "a", SIZE), ("second", "b", 1 * MIB)])
            self.ok(qemu_io("-f", "raw", "-c", "write -P 9 0 64k", server.uri("second")))
            self.ok(qemu_io("-f", "raw", "-c", "write -P 8 0 64k", server.uri("first")))
            self.refused(qemu_io("-f", "raw", "-c", "read 0 512", server.uri("third")), "third")
            self.assertEqual(server.stop(), 0)
        self.assertEqual(self.read_file(two.path)[:64 * KIB], b"\x09" * 64 * KIB)


class Endings(ServeCase):

    def test_a_signal_ends_it_in_order(self):
        for how in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            image = self.encrypted(name=f"{how}.qcow2")
            with self.serve(image) as server:
                # The client stays connected, and its last write was not flushed.
                code = (f"import nbd, time\nh = nbd.NBD()\nh.connect_uri({server.uri()!r})\n"
                        "h.pwrite(b'x' * 65536, 0)\nprint('done', flush=True)\ntime.sleep(60)")
                client = subprocess.Popen([python_with_libnbd(), "-c", code], stdout=subprocess.PIPE)
                self.assertEqual(client.stdout.readline(), b"done\n")
                self.assertEqual(server.stop(how), 0, server.said())
                client.kill()
                client.communicate()
                self.assertFalse(os.path.exists(server.socket))
            self.clean(QEMU_TOOL, image)
            content, _ = self.content(QEMU_TOOL, image)
            self.assertEqual(content[:65536], b"x" * 65536)

    def test_what_was_flushed_survives_a_kill(self):
        image = self.encrypted()
        disk = random_disk(self.rng, SIZE)
        with self.serve(image) as server:
            self.ok(nbdsh(server.uri(), f"d = open({self.write_file('disk', disk)!r}, 'rb').read()\n"
                          f"for at in range(0, len(d), 1 << 20): h.pwrite(d[at:at + (1 << 20)], at)\n"
                          "h.flush()\nh.pwrite(b'lost' * 1024, 4096)"))
            server.process.kill()
            server.wait()
        content, _ = self.content(QEMU_TOOL, image)
        self.same_bytes(content[65536:], disk[65536:], "after a kill")
        # The stale socket is in nobody's way.
        with self.serve(image) as server:
            self.ok(run("nbdinfo", server.uri()))

    def test_the_image_is_locked_meanwhile(self):
        image = self.encrypted()
        with self.serve(image) as server:
            self.refused(self.io_result(image), "lock")
            self.refused(cofre("serve", "--nbd", f"unix:{server.socket}", image.path, *image.object_args()), ("lock", "socket"))

    def io_result(self, image):
        return qemu_io(*image.args(), "-c", "write 0 512")

    def test_once_and_shared(self):
        image = self.encrypted()
        with self.serve(image, "--once", "-e", "1") as server:
            self.ok(run("nbdinfo", "--size", server.uri()))
            self.assertEqual(server.wait(), 0, server.said())

    def test_fork_and_pid_file(self):
        image = self.encrypted()
        socket, pid_file = self.path("socket"), self.path("pid")
        self.ok(cofre("serve", "--nbd", f"unix:{socket}", "--fork", "--pid-file", pid_file, "--socket-mode", "0600",
                      *image.args()))
        pid = int(self.read_file(pid_file))
        self.assertEqual(os.stat(socket).st_mode & 0o777, 0o600)
        self.ok(run("nbdinfo", "--size", uri_of(socket)))
        os.kill(pid, signal.SIGTERM)
        self.wait_until_gone(pid_file)
        self.assertFalse(os.path.exists(socket))
        self.refused(cofre("serve", "--fork", "--nbd", f"unix:{socket}", self.path("nothing")), "nothing", code=1)

    def wait_until_gone(self, path):
        import time
        for _ in range(1000):
            if not os.path.exists(path):
                return
            time.sleep(0.01)
        self.fail(f"{path} is still there")

    def test_socket_activation(self):
        import socket
        image = self.encrypted()
        path = self.path("socket")
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen()
        starter = ("import os, sys\n"
                   "os.dup2(int(sys.argv[1]), 3)\nos.set_inheritable(3, True)\n"
                   "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n"
                   "os.execv(sys.argv[2], sys.argv[2:])")
        process = subprocess.Popen(["python3", "-c", starter, str(listening.fileno()), os.environ["COFRE"], "serve", "--once",
                                    *image.args()], pass_fds=[listening.fileno()],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        listening.close()
        self.ok(run("nbdinfo", "--size", uri_of(path)))
        _, said = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, said)
        self.assertTrue(os.path.exists(path))  # it is not ours to remove

    def test_wrong_invocations(self):
        image = self.encrypted()
        where = ("--nbd", f"unix:{self.path('socket')}")
        for words, args in ((("--nbd",), (image.path,)), (("image",), where), (("address",), ("--nbd", "foo", "-f", "raw", "-r", image.path)),
                            (("names",), (*where, "-x", "a", "-x", "b", image.path)), (("once",), (*where, "--once", "-t", "i")),
                            (("octal",), (*where, "--socket-mode", "9", image.path)), (("cache",), (*where, "--cache", "x", "i")),
                            (("tls",), (*where, "--tls-authz", "x", image.path)),
                            (("credentials",), (*where, "--tls-creds", "x", image.path))):
            self.refused(cofre("serve", *args), *words, code=1)


if __name__ == "__main__":
    unittest.main()
