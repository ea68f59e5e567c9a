"""The NBD protocol byte by byte, for what no client library would send: written from the specification (proto.md).

Fixed newstyle negotiation, simple and structured replies, extended headers.
"""

import socket
import struct

OPT = {"export_name": 1, "abort": 2, "list": 3, "starttls": 5, "info": 6, "go": 7, "structured_reply": 8,
       "list_meta_context": 9, "set_meta_context": 10, "extended_headers": 11}
CMD = {"read": 0, "write": 1, "disc": 2, "flush": 3, "trim": 4, "cache": 5, "write_zeroes": 6, "block_status": 7}
FLAG_FUA, FLAG_NO_HOLE, FLAG_DF, FLAG_REQ_ONE, FLAG_FAST_ZERO, FLAG_PAYLOAD_LEN = 1, 2, 4, 8, 16, 32

ACK, SERVER, INFO, META_CONTEXT = 1, 2, 3, 4
ERR = 1 << 31
ERR_UNSUP, ERR_POLICY, ERR_INVALID, ERR_TLS_REQD, ERR_UNKNOWN, ERR_TOO_BIG, ERR_EXT_HEADER_REQD = (
    ERR + n for n in (1, 2, 3, 5, 6, 9, 10))

EPERM, EIO, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN = 1, 5, 22, 28, 75, 95, 108

IHAVEOPT = 0x49484156454F5054
CHUNK_NONE, CHUNK_DATA, CHUNK_HOLE, CHUNK_STATUS, CHUNK_STATUS_EXT, CHUNK_ERROR = 0, 1, 2, 5, 6, 0x8001


class Closed(Exception):
    """The server hung up."""


class Client:
    """One connection. `mode` is simple, structured or extended, as negotiated so far."""

    def __init__(self, address, greet=True, flags=3, timeout=30):
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.socket.connect(address)
        self.mode = "simple"
        self.cookie = 1000
        if greet:
            magic, again, self.handshake_flags = struct.unpack(">QQH", self.receive(18))
            assert magic == 0x4e42444d41474943 and again == IHAVEOPT
            self.send(struct.pack(">I", flags))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as fault:
            raise Closed from fault

    def receive(self, count):
        parts = []
        while count > 0:
            try:
                part = self.socket.recv(min(count, 1 << 20))
            except ConnectionResetError as fault:
                raise Closed from fault
            if not part:
                raise Closed
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def hung_up(self):
        """Whether the server closes the connection, having sent nothing more."""
        try:
            self.receive(1)
        except Closed:
            return True
        return False

    # ---- handshake ----

    def send_option(self, option, data=b"", length=None):
        number = OPT.get(option, option)
        self.send(struct.pack(">QII", IHAVEOPT, number, len(data) if length is None else length) + data)

    def option_reply(self):
        magic, option, kind, length = struct.unpack(">QIII", self.receive(20))
        assert magic == 0x3e889045565a9, hex(magic)
        return option, kind, self.receive(length)

    def option(self, option, data=b""):
        """Sends it and gives all replies as (type, data), the final one last."""
        self.send_option(option, data)
        replies = []
        while True:
            _, kind, body = self.option_reply()
            replies.append((kind, body))
            if kind == ACK or kind & ERR:
                return replies

    def negotiate(self, mode):
        if mode != "simple":
            assert self.option("structured_reply" if mode == "structured" else "extended_headers")[-1][0] == ACK
        self.mode = mode

    @staticmethod
    def name_data(name, infos=()):
        raw = name.encode()
        return struct.pack(">I", len(raw)) + raw + struct.pack(f">H{len(infos)}H", len(infos), *infos)

    @staticmethod
    def meta_data(name, queries):
        raw = name.encode()
        data = struct.pack(">I", len(raw)) + raw + struct.pack(">I", len(queries))
        return data + b"".join(struct.pack(">I", len(q.encode())) + q.encode() for q in queries)

    def contexts(self, option, name, *queries):
        """{name: id} that the server offers (list_meta_context) or has selected (set_meta_context)."""
        replies = self.option(option, self.meta_data(name, queries))
        assert replies[-1][0] == ACK, replies
        return {body[4:].decode(): struct.unpack(">I", body[:4])[0] for kind, body in replies if kind == META_CONTEXT}

    def go(self, name="", infos=(), option="go"):
        """Gives the infos by number; {0: (size, flags)} at least."""
        replies = self.option(option, self.name_data(name, infos))
        assert replies[-1][0] == ACK, replies
        found = {}
        for kind, body in replies[:-1]:
            assert kind == INFO
            number = struct.unpack(">H", body[:2])[0]
            if number == 0:
                found[0] = struct.unpack(">QH", body[2:])
            elif number == 3:
                found[3] = struct.unpack(">III", body[2:])
            else:
                found[number] = body[2:].decode()
        return found

    # ---- transmission ----

    def request_bytes(self, command, offset=0, length=0, flags=0, cookie=None):
        if cookie is None:
            self.cookie += 1
            cookie = self.cookie
        kind = CMD.get(command, command)
        if self.mode == "extended":
            return struct.pack(">IHHQQQ", 0x21e41c71, flags, kind, cookie, offset, length)
        return struct.pack(">IHHQQI", 0x25609513, flags, kind, cookie, offset, length)

    def send_request(self, command, offset=0, length=0, flags=0, payload=b""):
        self.send(self.request_bytes(command, offset, length, flags) + payload)
        return self.cookie

    def chunk(self):
        """(cookie, flags, type, payload) of a structured or extended reply."""
        if self.mode == "extended":
            magic, flags, kind, cookie, _, length = struct.unpack(">IHHQQQ", self.receive(32))
            assert magic == 0x6e8a278c, hex(magic)
        else:
            magic, flags, kind, cookie, length = struct.unpack(">IHHQI", self.receive(20))
            assert magic == 0x668e33ef, hex(magic)
        return cookie, flags, kind, self.receive(length)

    def reply(self, length=0):
        """(cookie, error, data): of a read all its chunks put together, of a block status {context: runs}."""
        if self.mode == "simple":
            magic, error, cookie = struct.unpack(">IIQ", self.receive(16))
            assert magic == 0x67446698, hex(magic)
            return cookie, error, self.receive(length) if error == 0 else b""
        error, data, status = 0, b"", {}
        while True:
            cookie, flags, kind, payload = self.chunk()
            if kind == CHUNK_DATA:
                data += payload[8:]
            elif kind == CHUNK_HOLE:
                data += bytes(struct.unpack(">QI", payload)[1])
            elif kind == CHUNK_STATUS:
                numbers = struct.unpack(f">{len(payload) // 4}I", payload)
                status[numbers[0]] = list(zip(numbers[1::2], numbers[2::2]))
            elif kind == CHUNK_STATUS_EXT:
                context, count = struct.unpack(">II", payload[:8])
                numbers = struct.unpack(f">{2 * count}Q", payload[8:])
                status[context] = list(zip(numbers[0::2], numbers[1::2]))
            elif kind & 0x8000:
                error = struct.unpack(">I", payload[:4])[0]
            if flags & 1:
                return cookie, error, status or data

    def call(self, command, offset=0, length=0, flags=0, payload=b""):
        """One request and its reply: (error, data)."""
        if command == "write" and self.mode == "extended":
            flags |= FLAG_PAYLOAD_LEN
        self.send_request(command, offset, length, flags, payload)
        cookie, error, data = self.reply(length if command == "read" else 0)
        assert cookie == self.cookie, (cookie, self.cookie)
        return error, data
