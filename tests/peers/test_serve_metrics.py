"""The metrics of `cofre serve`: text that Prometheus takes, whose counters say what qemu-io did; and a strict little server."""

import re
import socket
import unittest
import urllib.request

from cofre_peers import KIB, MIB, PeerCase, cofre, qemu_img, qemu_io
from serving import cofre_serve, nbdsh

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? (\S+)")


def unescape(value):
    return re.sub(r"\\(.)", lambda m: "\n" if m.group(1) == "n" else m.group(1), value)


def parse(text):
    """{(name, labels): value} of a page in the text format 0.0.4, which is checked line for line: every sample stands under
    its family's HELP and TYPE, in one piece, once; histograms add up."""
    assert text.endswith("\n"), "the last line has no end"
    samples, types, family = {}, {}, None
    lines = text[:-1].split("\n")
    for number, line in enumerate(lines):
        if line.startswith("# HELP "):
            assert re.fullmatch(rf"# HELP {NAME} \S.*", line), line
            name = line.split(" ")[2]
            assert lines[number + 1].startswith(f"# TYPE {name} "), line
        elif line.startswith("# TYPE "):
            match = re.fullmatch(rf"# TYPE ({NAME}) (counter|gauge|histogram)", line)
            assert match and match.group(1) not in types, line
            family = match.group(1)
            types[family] = match.group(2)
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            name, labels, value = match.groups()
            allowed = [family + end for end in ("_bucket", "_sum", "_count")] if types[family] == "histogram" else [family]
            assert name in allowed, f"{line} under {family}"
            assert types[family] != "counter" or name.endswith("_total"), line
            pairs = tuple((k, unescape(v)) for k, v in re.findall(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"', labels or ""))
            assert (name, pairs) not in samples, f"twice: {line}"
            samples[name, pairs] = float(value)
    for family, kind in types.items():
        if kind == "histogram":
            check_histogram(family, samples)
    return samples


def check_histogram(family, samples):
    buckets = {}
    for (name, labels), value in samples.items():
        if name == family + "_bucket":
            assert labels[-1][0] == "le"
            buckets.setdefault(labels[:-1], []).append((float(labels[-1][1]), value))
    for labels, steps in buckets.items():
        assert steps == sorted(steps), f"{family}{labels}: not cumulative"
        assert steps[-1] == (float("inf"), samples[family + "_count", labels]), f"{family}{labels}"
        assert (family + "_sum", labels) in samples


class Metrics(PeerCase):

    def plain(self):
        path = self.path("disk.qcow2")
        self.ok(qemu_img("create", "-q", "-f", "qcow2", path, "8M"))
        return path

    def serve(self, *args):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        return cofre_serve(self.path("socket"), "--metrics", f"127.0.0.1:{self.port}", "-f", "qcow2", *args)

    def scrape(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=60) as answer:
            self.assertEqual(answer.headers["Content-Type"], "text/plain; version=0.0.4; charset=utf-8")
            return parse(answer.read().decode())

    def test_counters_say_what_was_done(self):
        name = 'a "disk"\\ of mine'
        with self.serve("-x", name, self.plain()) as server:
            before = self.scrape()
            self.assertEqual(before["cofre_export_size_bytes", (("export", name),)], 8 * MIB)
            self.ok(qemu_io("-f", "raw", "-c", "write -P 1 0 128k", "-c", "write -P 1 1M 4k", "-c", "write -z 2M 64k",
                            "-c", "discard 3M 64k", "-c", "flush", "-c", "read 4M 12k", server.uri(name)))
            after = self.scrape()

        def grown(sample, **labels):
            key = sample, (("export", name), *labels.items())
            return after[key] - before[key]

        self.assertEqual(grown("cofre_export_requests_total", op="write"), 2)
        self.assertEqual(grown("cofre_export_bytes_total", op="write"), 132 * KIB)
        self.assertEqual(grown("cofre_export_requests_total", op="write_zeroes"), 1)
        self.assertEqual(grown("cofre_export_requests_total", op="discard"), 1)
        self.assertGreaterEqual(grown("cofre_export_bytes_total", op="read"), 12 * KIB)
        self.assertGreaterEqual(grown("cofre_export_requests_total", op="flush"), 1)
        self.assertEqual(grown("cofre_export_request_duration_seconds_count", op="write"), 2)
        self.assertGreater(grown("cofre_export_request_duration_seconds_sum", op="write"), 0)
        self.assertEqual(sum(after[key] for key in after if key[0] == "cofre_export_request_errors_total"), 0)

    def test_errors_are_counted(self):
        with self.serve("-x", "disk", "-r", self.plain()) as server:
            self.ok(nbdsh(server.uri("disk"), "h.set_strict_mode(0)\nfor i in range(3):\n"
                          "    try: h.pwrite(b'x' * 512, 0)\n    except nbd.Error: pass"))
            found = self.scrape()
            self.assertEqual(found["cofre_export_request_errors_total", (("export", "disk"), ("op", "write"))], 3)
            self.assertEqual(found["cofre_export_bytes_total", (("export", "disk"), ("op", "write"))], 0)

    def exchange(self, request):
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as client:
            client.sendall(request)
            received = b""
            try:
                while piece := client.recv(65536):
                    received += piece
            except ConnectionResetError:
                pass
        return received

    def test_other_requests(self):
        with self.serve("-x", "disk", self.plain()) as server:
            for status, request in (
                    (404, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), (405, b"POST /metrics HTTP/1.1\r\n\r\n"),
                    (400, b"GET /metrics\r\n\r\n"), (400, b"GET /metrics HTTP/2\r\n\r\n"), (400, b"\r\n\r\n"),
                    (400, b"GET  /metrics HTTP/1.1\r\nx\r\n\r\n"), (400, b"GET /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"),
                    (400, b"\x00\xff\r\n\r\n"), (431, b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 9000),
                    (200, b"HEAD /metrics HTTP/1.1\r\n\r\n"), (200, b"GET /metrics?x=1 HTTP/1.0\r\nHost: a\r\n\r\n")):
                with self.subTest(request=request[:40]):
                    self.assertTrue(self.exchange(request).startswith(f"HTTP/1.1 {status} ".encode()), request)
            self.assertTrue(self.exchange(b"HEAD /metrics HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n"))
            slow = [socket.create_connection(("127.0.0.1", self.port)) for _ in range(7)]
            for client in slow:
                self.addCleanup(client.close)
                client.sendall(b"GET /met")
            self.scrape()  # there is a place left
            self.ok(qemu_io("-f", "raw", "-c", "write 0 4k", server.uri("disk")))
            self.assertEqual(server.stop(), 0, server.said())

    def test_on_a_unix_socket(self):
        path = self.path("metrics")
        with cofre_serve(self.path("socket"), "--metrics", f"unix:{path}", "-f", "qcow2", self.plain()):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
                received = b""
                while piece := client.recv(65536):
                    received += piece
        head, _, body = received.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 200 "), head)
        self.assertIn(("process_start_time_seconds", ()), parse(body.decode()))

    def test_an_address_that_is_none(self):
        for address in ("127.0.0.1:none", "unix:", "::::"):
            self.refused(cofre("serve", "--nbd", f"unix:{self.path('socket')}", "--metrics", address, self.plain()),
                         ("listen", "socket", "port"))


if __name__ == "__main__":
    unittest.main()
