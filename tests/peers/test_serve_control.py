"""The control socket of `cofre serve` and `cofre ctl`: exports, bitmaps and snapshots come and go under the eyes of nbdinfo,
qemu-img and qemu-io; hostile clients of the socket disturb nobody."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import time
import unittest

from cofre_peers import COFRE, COFRE_TOOL, KIB, MIB, QEMU_TOOL, Image, PeerCase, cofre, luks_options, qemu_img, qemu_io, run
from serving import QEMU_NBD, Server, cofre_serve, nbdsh

SIZE = 6 * MIB


class ControlCase(PeerCase):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if not shutil.which("nbdinfo"):
            raise AssertionError("nbdinfo not found: ./test installs what is needed")

    def plain(self, name="first.qcow2"):
        path = self.path(name)
        self.ok(qemu_img("create", "-q", "-f", "qcow2", path, str(SIZE)))
        return path

    def encrypted(self):
        return self.create(COFRE_TOOL, Image(self.path("second.qcow2"), "qcow2", self.secret(name="key")), SIZE,
                           options=luks_options())

    def serve(self, *args):
        self.control = self.path("control")
        return cofre_serve(self.path("socket"), "--control", self.control, *args)

    def ctl(self, *args):
        return cofre("ctl", "--socket", self.control, *args)

    def asks(self, *args):
        answer = self.ok(self.ctl("--output", "json", *args)).json()
        self.assertTrue(answer["ok"], answer)
        return answer["result"]

    def refuses(self, kind, *args):
        result = self.ctl("--output", "json", *args)
        self.assertEqual(result.code, 1, result)
        answer = result.json()
        self.assertEqual((answer["ok"], answer["error"]["kind"]), (False, kind), answer)
        self.assertNotEqual(self.ctl(*args).err.strip(), "", "a refusal says why")

    def exports(self, server):
        listed = self.ok(run("nbdinfo", "--list", "--json", server.uri())).json()
        return sorted(one["export-name"] for one in listed["exports"])

    def connect(self):
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.settimeout(60)
        client.connect(self.control)
        return client

    @staticmethod
    def line(client):
        received = b""
        while not received.endswith(b"\n"):
            piece = client.recv(4096)
            if not piece:
                break
            received += piece
        return received


class Exports(ControlCase):

    def test_come_and_go(self):
        first = self.plain()
        luks = self.encrypted()
        key = self.write_file("key.txt", self.read_file(luks.secret) + b"\n")
        with self.serve("-f", "qcow2", "-x", "first", first) as server:
            self.assertEqual(stat.S_IMODE(os.stat(self.control).st_mode), 0o600)
            self.assertEqual(self.exports(server), ["first"])
            self.refuses("missing-secret", "export-add", "second", luks.path, "-f", "qcow2")
            self.refuses("wrong-secret", "export-add", "second", luks.path, "-f", "qcow2", "--passphrase-file",
                         self.write_file("wrong.txt", b"no such passphrase"))
            added = self.asks("export-add", "second", luks.path, "-f", "qcow2", "--passphrase-file", key, "-D", "an image")
            self.assertEqual((added["encrypted"], added["size_bytes"], added["read_only"]), (True, SIZE, False))
            self.assertEqual(self.exports(server), ["first", "second"])
            self.refuses("exists", "export-add", "second", first)
            self.refuses("locked", "export-add", "third", first, "-f", "qcow2")  # it is open for writing
            self.ok(qemu_io("-f", "raw", "-c", "write -P 7 1M 64k", server.uri("second")))
            self.asks("export-remove", "second")
            self.assertEqual(self.exports(server), ["first"])
            self.refused(run("nbdinfo", server.uri("second")), ("second",))
            self.refuses("not-found", "export-remove", "second")
            # It is closed: others have it.
            self.clean(QEMU_TOOL, luks)
            self.ok(qemu_io("-c", "read -P 7 1M 64k", *luks.args()))
            self.asks("export-add", "second", luks.path, "-f", "qcow2", "--passphrase-file", key, "-r")
            self.refused(qemu_io("-f", "raw", "-c", "write 0 512", server.uri("second")), ("read-only", "permission"))
            self.assertEqual(server.stop(), 0, server.said())

    def test_key_secret_of_the_server(self):
        first = self.plain()
        luks = self.encrypted()
        with self.serve("-f", "qcow2", "-x", "first", *luks.object_args(), first) as server:
            self.refuses("missing-secret", "export-add", "second", luks.path, "-f", "qcow2", "--key-secret", "nobody")
            self.refuses("invalid-argument", "export-add", "second", luks.path, "--key-secret", "s0")
            self.asks("export-add", "second", luks.path, "-f", "qcow2", "--key-secret", "s0")
            self.ok(qemu_io("-f", "raw", "-c", "write -P 7 1M 64k", "-c", "read -P 7 1M 64k", server.uri("second")))

    def test_clients_keep_an_export_unless_forced(self):
        with self.serve("-f", "qcow2", "-x", "first", self.plain()) as server:
            holder = subprocess.Popen(["qemu-io", "-f", "raw", server.uri("first")], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            self.addCleanup(holder.stdout.close)
            try:
                holder.stdin.write("write -P 5 0 64k\n")
                holder.stdin.flush()
                self.assertIn("wrote", holder.stdout.readline() + holder.stdout.readline())
                self.assertEqual(self.asks("status")["exports"][0]["clients"], 1)
                self.refuses("locked", "export-remove", "first")
                self.assertEqual(self.exports(server), ["first"])
                self.asks("export-remove", "first", "--force")
                self.assertEqual(self.asks("status")["exports"], [])
            finally:
                holder.kill()
                holder.stdin.close()
                holder.wait()
            self.ok(qemu_io("-f", "qcow2", "-c", "read -P 5 0 64k", self.path("first.qcow2")))

    def test_status_counts_what_qemu_io_did(self):
        with self.serve("-f", "qcow2", "-x", "first", self.plain()) as server:
            self.ok(qemu_io("-f", "raw", "-c", "write -P 1 0 64k", "-c", "write -P 1 64k 4k", "-c", "read 0 8k", "-c", "flush",
                            server.uri("first")))
            status = self.asks("status")
            self.assertEqual(status["pid"], server.process.pid)
            counters = status["exports"][0]["counters"]
            self.assertEqual((counters["write"]["requests"], counters["write"]["bytes"]), (2, 68 * KIB))
            self.assertGreaterEqual(counters["read"]["bytes"], 8 * KIB)
            self.assertGreaterEqual(counters["flush"]["requests"], 1)
            self.assertIn("export 'first'", self.ok(self.ctl("status")).out)

    def test_stop(self):
        with self.serve("-f", "qcow2", self.plain()) as server:
            self.asks("stop")
            self.assertEqual(server.wait(), 0, server.said())
            self.assertFalse(os.path.exists(self.control))

    def test_rotate_log(self):
        log = self.path("log")
        with self.serve("-f", "qcow2", "-x", "first", "--log", log, self.plain()):
            second = self.plain("second.qcow2")
            self.asks("export-add", "second", second, "-f", "qcow2")
            os.rename(log, log + ".1")
            self.asks("rotate-log")
            self.asks("export-remove", "second")
        self.assertIn(b"'second' was added", self.read_file(log + ".1"))
        self.assertIn(b"'second' was removed", self.read_file(log))
        self.assertNotIn(b"added", self.read_file(log))
        with self.serve("-f", "qcow2", self.path("first.qcow2")):
            self.refuses("unsupported", "rotate-log")


class Images(ControlCase):

    def test_bitmaps_of_a_served_image(self):
        path = self.plain()
        with self.serve("-f", "qcow2", "-x", "first", path) as server:
            self.ok(qemu_io("-f", "raw", "-c", "write -P 1 0 64k", server.uri("first")))
            self.asks("bitmap-add", "first", "monday", "-g", "64k")
            self.refuses("exists", "bitmap-add", "first", "monday")
            self.ok(qemu_io("-f", "raw", "-c", "write -P 2 1M 64k", server.uri("first")))
            self.asks("bitmap-add", "first", "tuesday")
            self.ok(qemu_io("-f", "raw", "-c", "write -P 3 2M 64k", server.uri("first")))
            self.asks("bitmap-add", "first", "gone")
            self.asks("bitmap-remove", "first", "gone")
            self.refuses("not-found", "bitmap-clear", "first", "gone")
            self.asks("bitmap-clear", "first", "tuesday")
            self.ok(qemu_io("-f", "raw", "-c", "write -P 4 4M 64k", server.uri("first")))
            self.assertEqual([one["name"] for one in self.asks("bitmap-list", "first")], ["monday", "tuesday"])
            self.assertEqual(server.stop(), 0, server.said())
        self.ok(qemu_img("check", "-q", path))
        self.assertEqual(self.dirty(path, "monday"), [(1 * MIB, 64 * KIB), (2 * MIB, 64 * KIB), (4 * MIB, 64 * KIB)])
        self.assertEqual(self.dirty(path, "tuesday"), [(4 * MIB, 64 * KIB)])

    def dirty(self, path, bitmap):
        """As clients of qemu's server would be told."""
        code = ("m = []\n"
                "def f(name, offset, entries, err):\n"
                "    at = offset\n"
                "    for length, flags in zip(entries[0::2], entries[1::2]):\n"
                "        if flags: m.append([at, length])\n"
                "        at += length\n"
                "h.block_status(h.get_size(), 0, f)\n"
                "import json; print(json.dumps(m))")
        where = self.path("theirs")
        with Server(where, QEMU_NBD, "-k", where, "-t", "-r", "-f", "qcow2", "-B", bitmap, path) as server:
            found = self.ok(nbdsh(server.uri(), code, f"h.add_meta_context('qemu:dirty-bitmap:{bitmap}')")).json()
        return [tuple(run) for run in found]

    def test_a_bitmap_that_clients_are_told_of(self):
        path = self.plain()
        self.ok(qemu_img("bitmap", "--add", path, "backup"))
        with self.serve("-f", "qcow2", "-x", "first", "-B", "backup", path) as server:
            self.refuses("locked", "bitmap-remove", "first", "backup")
            writer = subprocess.Popen(["qemu-io", "-f", "raw", *["-c", "write 0 1M", "-c", "write 3M 1M"] * 40, server.uri("first")],
                                      stdout=subprocess.DEVNULL)
            for _ in range(20):  # beside queries and writes
                self.asks("bitmap-clear", "first", "backup")
                self.ok(run("nbdinfo", "--map=qemu:dirty-bitmap:backup", server.uri("first")))
            self.assertEqual(writer.wait(), 0)
            self.asks("bitmap-clear", "first", "backup")
            found = self.ok(run("nbdinfo", "--json", "--map=qemu:dirty-bitmap:backup", server.uri("first"))).json()
            self.assertEqual([run["type"] for run in found], [0])
            self.assertEqual(server.stop(), 0, server.said())
        self.ok(qemu_img("check", "-q", path))

    def test_snapshots_of_a_served_image(self):
        path = self.plain()
        with self.serve("-f", "qcow2", "-x", "first", path) as server:
            self.ok(qemu_io("-f", "raw", "-c", f"write -P 1 0 {SIZE}", server.uri("first")))
            writer = subprocess.Popen(["qemu-io", "-f", "raw", *["-c", "aio_write -P 2 1M 64k", "-c", "aio_write -P 2 4M 512k"] * 50,
                                       "-c", "aio_flush", server.uri("first")], stdout=subprocess.DEVNULL)
            self.asks("snapshot-create", "first", "one")
            self.asks("snapshot-create", "first", "two")
            self.asks("snapshot-delete", "first", "two")
            self.refuses("not-found", "snapshot-delete", "first", "two")
            self.refuses("unsupported", "snapshot-apply", "first", "one")
            self.assertEqual(writer.wait(), 0)
            self.assertEqual([one["name"] for one in self.asks("snapshot-list", "first")], ["one"])
            self.ok(qemu_io("-f", "raw", "-c", f"write -P 3 0 {SIZE}", server.uri("first")))
            self.assertEqual(server.stop(), 0, server.said())
        self.ok(qemu_img("check", "-q", path))
        self.ok(qemu_io("-f", "qcow2", "-c", f"read -P 3 0 {SIZE}", path))
        self.ok(qemu_img("snapshot", "-a", "one", path))
        self.ok(qemu_io("-f", "qcow2", "-c", "read -P 1 0 1M", "-c", "read -P 1 2M 2M", "-c", "read -P 1 5M 1M", path))
        self.ok(qemu_img("check", "-q", path))

    def test_what_is_not_qcow2_or_not_writable(self):
        raw = self.write_file("disk.raw", bytes(MIB))
        with self.serve("-f", "raw", "-x", "raw", raw):
            self.refuses("unsupported", "bitmap-add", "raw", "b")
            self.refuses("unsupported", "snapshot-create", "raw", "s")
        with self.serve("-f", "qcow2", "-r", "-x", "first", self.plain()):
            self.refuses("read-only", "bitmap-add", "first", "b")
            self.refuses("read-only", "snapshot-create", "first", "s")


class Hostile(ControlCase):

    def test_malformed_requests(self):
        with self.serve("-f", "qcow2", "-x", "first", self.plain()) as server:
            client = self.connect()
            for bad in (b"", b"{}", b"[]", b"null", b"{\"command\": 1}", b"{\"command\": \"no-such\"}", b"\xff\xfe", b"[" * 20000,
                        b"{\"command\": \"status\", \"more\": 1}", b"{\"command\": \"export-add\"}",
                        b"{\"command\": \"export-add\", \"export\": \"x\", \"image\": 5}",
                        b"{\"command\": \"export-remove\", \"export\": \"first\", \"force\": \"yes\"}",
                        b"{\"command\": \"bitmap-add\", \"export\": \"first\", \"bitmap\": \"b\", \"granularity\": -1}",
                        b"{\"command\": \"status\", \"id\": []}"):
                with self.subTest(bad=bad[:60]):
                    client.sendall(bad + b"\n")
                    answer = json.loads(self.line(client))
                    self.assertFalse(answer["ok"], answer)
            client.sendall(b"{\"command\": \"status\", \"id\": \"q\xc3\xa4\"}\n{\"command\": \"status\", \"id\": 2}\n")
            self.assertEqual([json.loads(self.line_of(client))["id"] for _ in range(2)], ["q\u00e4", 2])
            self.assertEqual(self.exports(server), ["first"])

    def line_of(self, client):
        """One line and no more."""
        received = b""
        while not received.endswith(b"\n"):
            byte = client.recv(1)
            self.assertTrue(byte, "the server hung up")
            received += byte
        return received

    def test_a_line_without_end(self):
        with self.serve("-f", "qcow2", "-x", "first", self.plain()):
            client = self.connect()
            try:
                client.sendall(b"x" * 200_000)
            except (BrokenPipeError, ConnectionResetError):
                pass
            try:
                answer = self.line(client)
            except ConnectionResetError:
                answer = b""
            self.assertTrue(answer == b"" or not json.loads(answer)["ok"], answer)
            self.asks("status")

    def test_silent_clients_disturb_nobody(self):
        with self.serve("-f", "qcow2", "-x", "first", self.plain()) as server:
            idle = [self.connect() for _ in range(7)]
            for client in idle[:3]:
                client.sendall(b"{\"command\": ")
            self.ok(qemu_io("-f", "raw", "-c", "write -P 1 0 64k", server.uri("first")))
            self.asks("status")
            idle += [self.connect() for _ in range(20)]  # more than there is room for: they wait
            self.ok(qemu_io("-f", "raw", "-c", "read -P 1 0 64k", server.uri("first")))
            self.assertEqual(server.stop(signal.SIGTERM), 0, server.said())

    def test_a_client_that_takes_no_answers(self):
        with self.serve("-f", "qcow2", "-x", "first", self.plain()) as server:
            client = self.connect()
            client.setblocking(False)
            deadline = time.monotonic() + 5
            try:
                while time.monotonic() < deadline:
                    client.send(b"{\"command\": \"status\"}\n" * 100)
            except (BlockingIOError, BrokenPipeError, ConnectionResetError):
                pass
            self.asks("status")
            self.ok(qemu_io("-f", "raw", "-c", "write -P 1 0 64k", server.uri("first")))

    def test_another_user_is_sent_away(self):
        if os.geteuid() != 0:
            return self.check_refused_to_open()
        os.chmod(self.dir, 0o755)
        with self.serve("-f", "qcow2", "-x", "first", self.plain()):
            ask = ("import socket,sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n"
                   "try: s.sendall(b'{\"command\": \"stop\"}\\n')\nexcept BrokenPipeError: pass  # it may be sent away before\n"
                   "print(s.recv(4096).decode())")
            other = {"preexec": lambda: os.setuid(65534)}
            # The mode of the file keeps others away; and where somebody loosened it, the server does.
            self.assertIn("PermissionError", run("/usr/bin/python3", "-c", ask, self.control, **other).err)
            os.chmod(self.control, 0o666)
            answer = self.ok(run("/usr/bin/python3", "-c", ask, self.control, **other)).json()
            self.assertEqual((answer["ok"], answer["error"]["kind"]), (False, "permission"))
            self.asks("status")

    def check_refused_to_open(self):
        with self.serve("-f", "qcow2", "-x", "first", self.plain()):
            self.assertEqual(stat.S_IMODE(os.stat(self.control).st_mode), 0o600)

    def test_wrong_invocations(self):
        self.control = self.path("nobody")
        for words in ((), ("no-such",), ("export-add", "x"), ("status", "more"), ("export-remove",)):
            self.refused(self.ctl(*words), ("cofre: ",))
        self.refused(self.ctl("status"), ("cannot reach",))
        self.assertIn("--socket", self.ok(run(COFRE, "ctl", "--help")).out)


if __name__ == "__main__":
    unittest.main()
