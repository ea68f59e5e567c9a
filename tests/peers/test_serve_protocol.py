"""`cofre serve`, byte by byte: every option and command of the NBD protocol with every flag and error, beside what qemu-nbd
answers to the same, and clients that do wrong things."""

import socket
import struct
import time
import unittest

import nbd_wire as wire
from cofre_peers import COFRE_TOOL, KIB, MIB, Image, PeerCase, luks_options
from nbd_wire import ACK, Client
from serving import QEMU_NBD, Server, cofre_serve, nbdsh

SIZE = 4 * MIB


class ProtocolCase(PeerCase):

    def setUp(self):
        super().setUp()
        self.image = Image(self.path("image.qcow2"), "qcow2", self.secret())
        self.create(COFRE_TOOL, self.image, SIZE, options=luks_options())
        self.socket = self.path("socket")

    def ours(self, *args):
        return cofre_serve(self.socket, *self.image.object_args(), "--image-opts", self.image.opts(), *args)

    def qemus(self, *args):
        return Server(self.socket, QEMU_NBD, "-t", "-e", "9", "-k", self.socket, *self.image.object_args(), "--image-opts",
                      self.image.opts(), *args)

    def client(self, mode="structured", name="", **how):
        client = Client(self.socket, **how)
        self.addCleanup(client.socket.close)
        client.negotiate(mode)
        client.go(name)
        return client


class Handshake(ProtocolCase):

    def conversation(self, steps):
        """The types of the replies to these options, on one connection."""
        with Client(self.socket) as client:
            return [[kind for kind, _ in client.option(option, data)] for option, data in steps]

    def test_replies_are_qemu_nbds(self):
        name, meta = Client.name_data, Client.meta_data
        conversations = [
            [("list", b""), ("list", b"x"), (77, b""), ("starttls", b"")],
            [("info", name("")), ("info", name("nothing")), ("info", name("", [0, 1, 3])), ("info", b"\0\0"),
             ("info", struct.pack(">I", 99) + b"\0\0"), ("go", name("nothing"))],
            [("structured_reply", b"x"), ("structured_reply", b""), ("structured_reply", b"")],
            [("list_meta_context", meta("", [])), ("structured_reply", b""), ("list_meta_context", meta("", [])),
             ("list_meta_context", meta("", ["base:"])), ("list_meta_context", meta("", ["qemu:", "x-y:z"])),
             ("set_meta_context", meta("", ["base:allocation", "unknown:x"])), ("set_meta_context", meta("nothing", [])),
             ("set_meta_context", meta("", [])), ("set_meta_context", b"\0\0\0\0\0\0\0\1")],
        ]
        answers = []
        for server in (self.ours(), self.qemus("-A")):
            with server:
                answers.append([self.conversation(steps) for steps in conversations])
        # What differs: a server without TLS may call STARTTLS unknown or against its policy.
        policy = {wire.ERR_POLICY, wire.ERR_UNSUP}
        self.assertTrue(set(answers[0][0].pop()) <= policy and set(answers[1][0].pop()) <= policy)
        self.assertEqual(answers[0], answers[1])

    def test_extended_headers(self):
        with self.ours():
            with Client(self.socket) as client:
                self.assertEqual(client.option("extended_headers", b"x")[-1][0], wire.ERR_INVALID)
                client.negotiate("extended")
                self.assertEqual(client.option("extended_headers")[-1][0], wire.ERR_INVALID)
                self.assertEqual(client.option("structured_reply")[-1][0], wire.ERR_EXT_HEADER_REQD)
            with Client(self.socket) as client:
                client.negotiate("structured")
                client.negotiate("extended")   # later is better

    def test_export_name(self):
        with self.ours("-x", "disk"):
            for flags, zeroes in ((1, 124), (3, 0)):
                with Client(self.socket, flags=flags) as client:
                    client.send_option("export_name", b"disk")
                    size, flags = struct.unpack(">QH", client.receive(10))
                    self.assertEqual((size, flags & 1), (SIZE, 1))
                    self.assertEqual(client.receive(zeroes), bytes(zeroes))
                    self.assertEqual(client.call("read", 0, 4096)[0], 0)
            with Client(self.socket, flags=0) as client:   # the oldest clients know this option alone
                client.send_option("export_name", b"disk")
                client.receive(10 + 124)
                self.assertEqual(client.call("read", 0, 4096)[0], 0)

    def test_what_ends_a_handshake(self):
        with self.ours():
            def ends(step, **how):
                client = Client(self.socket, **how)
                self.addCleanup(client.socket.close)
                step(client)
                self.assertTrue(client.hung_up())
            ends(lambda c: c.send_option("export_name", b"nothing"))
            ends(lambda c: c.send_option("export_name", b"x" * 5000))
            ends(lambda c: None, flags=4)                       # a flag that nobody offered
            ends(lambda c: c.send_option("list"), flags=0)      # not for the oldest clients
            ends(lambda c: c.send(b"no option at all"))
            ends(lambda c: c.send_option("go", length=1 << 31))
            ends(lambda c: (c.send_option("abort"), self.assertEqual(c.option_reply()[1], ACK)))
            with Client(self.socket) as client:                 # long, but not too long to be answered
                self.assertEqual(client.option(55, bytes(200_000))[-1][0], wire.ERR_TOO_BIG)
                self.assertEqual(client.option("list")[-1][0], ACK)
            self.assertEqual(self.client().call("read", 0, 512)[0], 0)

    def test_contexts_are_those_of_the_export(self):
        other = self.write_file("other.raw", bytes(1 * MIB))
        with cofre_serve(self.socket, *self.image.object_args(), "--passphrase-file", self.image.secret, "-x", "a", "-x", "b",
                         self.image.path, other):
            with Client(self.socket) as client:
                client.negotiate("structured")
                self.assertEqual(list(client.contexts("set_meta_context", "a", "base:allocation")), ["base:allocation"])
                client.go("b")
                self.assertEqual(client.call("block_status", 0, 512)[0], wire.EINVAL)


class Commands(ProtocolCase):

    MODES = ("simple", "structured", "extended")

    def test_every_command_and_error(self):
        with self.ours():
            for mode in self.MODES:
                with self.subTest(mode=mode):
                    self.commands(self.client(mode), mode)

    def commands(self, client, mode):
        data = self.rng.randbytes(100_000)
        call = client.call
        self.assertEqual(call("write", 1000, len(data), wire.FLAG_FUA, data), (0, b""))
        self.assertEqual(call("read", 1000, len(data)), (0, data))
        self.assertEqual(call("read", 1000, len(data), wire.FLAG_FUA)[1], data)
        self.assertEqual(call("flush")[0], 0)
        self.assertEqual(call("cache", 0, SIZE)[0], 0)
        self.assertEqual(call("trim", 0, 64 * KIB, wire.FLAG_FUA)[0], 0)
        for flags in (0, wire.FLAG_NO_HOLE, wire.FLAG_FUA, wire.FLAG_FAST_ZERO):
            self.assertEqual(call("write_zeroes", 3000, 5000, flags)[0], 0)
        self.assertEqual(call("read", 3000, 5000), (0, bytes(5000)))
        self.assertEqual(call("read", SIZE, 0)[0], 0)
        self.assertEqual(call("read", SIZE - 1, 2)[0], wire.EINVAL)
        self.assertEqual(call("read", 1 << 63, 512)[0], wire.EINVAL)
        self.assertEqual(call("write", SIZE - 1, 2, 0, b"ab")[0], wire.ENOSPC)
        self.assertEqual(call("write_zeroes", SIZE, 1)[0], wire.ENOSPC)
        self.assertEqual(call("trim", SIZE, 1)[0], wire.EINVAL)
        self.assertEqual(call("block_status", 0, 512)[0], wire.EINVAL)
        self.assertEqual(call(99, 0, 0)[0], wire.EINVAL)
        self.assertEqual(call("flush", 0, 0, wire.FLAG_NO_HOLE)[0], wire.EINVAL)
        self.assertEqual(call("read", 0, 512, 1 << 10)[0], wire.EINVAL)
        self.assertEqual(call("read", 0, 33 * MIB)[0], wire.EINVAL)
        self.assertEqual(call("write", 0, 33 * MIB, 0, bytes(33 * MIB))[0], wire.EINVAL)
        self.assertEqual(call("read", 0, 4096, wire.FLAG_DF)[0], 0 if mode != "simple" else wire.EINVAL)
        self.assertEqual(call("read", 0, SIZE)[0], 0)   # after all this the stream is still in step
        client.send_request("disc")
        self.assertTrue(client.hung_up())

    def test_holes_and_fragments(self):
        with self.ours():
            client = self.client()
            client.call("write", 0, 4096, 0, b"x" * 4096)
            client.send_request("read", 1 * MIB, 65536)
            self.assertEqual(client.chunk()[2], wire.CHUNK_HOLE)
            client.send_request("read", 1 * MIB, 65536, wire.FLAG_DF)
            self.assertEqual(client.chunk()[2], wire.CHUNK_DATA)
            client.send_request("read", 0, 65536, wire.FLAG_DF)
            _, flags, kind, payload = client.chunk()
            self.assertEqual((flags, kind, payload[8:]), (1, wire.CHUNK_DATA, b"x" * 4096 + bytes(61440)))

    def test_lengths_of_64_bits(self):
        image = self.path("large.qcow2")
        self.create(COFRE_TOOL, Image(image, "qcow2"), 1 << 43)
        with cofre_serve(self.socket, "-f", "qcow2", image):
            with Client(self.socket) as client:
                client.negotiate("extended")
                client.contexts("set_meta_context", "", "base:allocation", "qemu:allocation-depth")
                client.go()
                self.assertEqual(client.call("write", 1 << 42, 4096, 0, b"y" * 4096)[0], 0)
                cluster = 65536
                expected = [(1 << 42, 3), (cluster, 0), ((1 << 42) - cluster, 3)]
                error, status = client.call("block_status", 0, 1 << 43)
                self.assertEqual((error, status[0]), (0, expected))
                self.assertEqual([runs for _, runs in status[1]], [0, 1, 0])
                self.assertEqual(client.call("trim", 0, 1 << 43)[0], 0)
                self.assertEqual(client.call("write_zeroes", 1 << 42, 6 << 30, wire.FLAG_FUA)[0], 0)
                _, status = client.call("block_status", 0, 1 << 43, wire.FLAG_REQ_ONE)
                self.assertEqual([len(runs) for runs in status.values()], [1, 1])
                # A payload with a command that has none is read, and refused.
                client.send_request("trim", 0, 5, wire.FLAG_PAYLOAD_LEN, b"12345")
                self.assertEqual(client.reply()[1], wire.EINVAL)
                self.assertEqual(client.call("read", 1 << 42, 4096), (0, bytes(4096)))

    def test_read_only(self):
        with self.ours("-r"):
            client = self.client()
            for command, payload in (("write", b"x" * 512), ("trim", b""), ("write_zeroes", b"")):
                self.assertEqual(client.call(command, 0, 512, 0, payload)[0], wire.EPERM)
            self.assertEqual(client.call("flush")[0], 0)

    def test_libnbd_without_its_own_checks(self):
        """Errors reach a client as errno: libnbd's strict mode off, so that it sends what the server must refuse."""
        code = ("import nbd, errno\n"
                "h.set_strict_mode(0)\n"
                "def fails(f, *args, **how):\n"
                "    try: f(*args, **how)\n"
                "    except nbd.Error as e: return errno.errorcode[e.errnum]\n"
                "n = h.get_size()\n"
                "print([fails(h.pread, 512, n), fails(h.pwrite, b'x' * 512, n), fails(h.zero, 512, n), fails(h.trim, 512, n),\n"
                "       fails(h.pread, 512, 0, flags=nbd.CMD_FLAG_NO_HOLE), fails(h.flush), fails(h.cache, n, 0),\n"
                "       fails(h.zero, n, 0, flags=nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE), fails(h.pread, 1, 511)])")
        with self.ours() as server:
            self.assertEqual(self.ok(nbdsh(server.uri(), code)).out.strip(),
                             "['EINVAL', 'ENOSPC', 'ENOSPC', 'EINVAL', 'EINVAL', None, None, None, None]")

    def test_requests_in_a_row(self):
        """Thousands sent before one answer is read; the answers may come in any order."""
        with self.ours():
            client = self.client("simple")
            count = 2000
            client.send(b"".join(client.request_bytes("write_zeroes", 512 * i, 512, cookie=i) for i in range(count)))
            self.assertEqual(sorted(client.reply()[0] for _ in range(count)), list(range(count)))


class HostileClients(ProtocolCase):

    def test_nobody_is_disturbed(self):
        with self.ours() as server:
            friend = self.client()
            friend.call("write", 0, 4096, 0, b"z" * 4096)
            hostile = []
            for i in range(30):
                client = self.client(self.rng.choice(["simple", "structured", "extended"]), timeout=120)
                hostile.append(client)
                kind = i % 5
                if kind == 0:      # asks for much and reads nothing
                    for _ in range(64):
                        client.socket.setblocking(False)
                        try:
                            client.socket.send(client.request_bytes("read", 0, SIZE))
                        except BlockingIOError:
                            break
                elif kind == 1:    # announces a payload that never comes
                    client.send_request("write", 0, SIZE, wire.FLAG_PAYLOAD_LEN if client.mode == "extended" else 0)
                elif kind == 2:    # half a header
                    client.send(client.request_bytes("read", 0, 512)[:9])
                elif kind == 3:    # no protocol at all
                    client.send(self.rng.randbytes(100))
                    self.assertTrue(client.hung_up())
                else:              # leaves in the middle
                    client.send_request("write", 0, SIZE, wire.FLAG_PAYLOAD_LEN if client.mode == "extended" else 0)
                    client.socket.close()
                self.assertEqual(friend.call("read", 0, 4096), (0, b"z" * 4096))
            with open(f"/proc/{server.process.pid}/status", encoding="ascii") as status:
                resident = next(int(line.split()[1]) * KIB for line in status if line.startswith("VmRSS"))
            self.assertLess(resident, 1024 * MIB)
            self.assertEqual(friend.call("read", 0, 4096), (0, b"z" * 4096))
            for client in hostile:
                client.socket.close()
            self.assertEqual(server.stop(), 0, server.said())
        self.clean(COFRE_TOOL, self.image)

    def test_who_says_nothing_is_sent_away(self):
        with self.ours():
            silent = Client(self.socket)
            started = time.monotonic()
            self.assertTrue(silent.hung_up())
            self.assertGreater(time.monotonic() - started, 5)   # but not at once
            silent.socket.close()

    def test_tcp(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with self.ours("--nbd", f"tcp:127.0.0.1:{port}"):
            with Client(("127.0.0.1", port)) as client:
                client.negotiate("structured")
                client.go()
                self.assertEqual(client.call("read", 0, SIZE)[0], 0)


if __name__ == "__main__":
    unittest.main()
