"""`cofre serve --config FILE`: what it says is served; mistakes are named with line and column; systemd hears of the start and
the end, passes credentials, and takes the unit."""

import os
import shutil
import socket
import subprocess
import unittest

from cofre_peers import COFRE, COFRE_TOOL, MIB, Image, PeerCase, cofre, luks_options, qemu_img, qemu_io, run
from serving import Server, uri_of

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SIZE = 4 * MIB


class Config(PeerCase):

    def setUp(self):
        super().setUp()
        self.plain = self.path("plain.qcow2")
        self.ok(qemu_img("create", "-q", "-f", "qcow2", self.plain, str(SIZE)))
        self.socket = self.path("socket")

    def config(self, text):
        return self.write_file("config.toml", text)

    def serve(self, text, *args):
        return Server(self.socket, COFRE, "serve", "--config", self.config(text), *args)

    def names(self):
        listed = self.ok(run("nbdinfo", "--list", "--json", uri_of(self.socket))).json()["exports"]
        return {one["export-name"]: (one.get("description", ""), one["is-read-only"]) if "is-read-only" in one else
                (one.get("description", ""), one["is_read_only"]) for one in listed}

    def test_what_it_says_is_served(self):
        luks = self.create(COFRE_TOOL, Image(self.path("luks.qcow2"), "qcow2", self.secret(name="key")), SIZE,
                           options=luks_options())
        other = self.create(COFRE_TOOL, Image(self.path("other.qcow2"), "qcow2", self.secret("another one", name="key2")), SIZE,
                            options=luks_options())
        text = f"""
            [server]
            nbd = "unix:{self.socket}"
            control = '{self.path("control")}'
            objects = ["secret,id=s1,file={other.secret}"]
            [[export]]
            name = "plain"
            description = "a plain one"
            image = "{self.plain}"
            format = "qcow2"
            read-only = true
            [[export]]
            name = "luks"
            image = "{luks.path}"
            format = "qcow2"
            passphrase-file = "{luks.secret}"
            [[export]]
            name = "other"
            image = "{other.path}"
            format = "qcow2"
            key-secret = "s1"
            [[export]]
            name = "opts"
            image-opts = "driver=raw,file.driver=null-co,file.size=1M"
            """
        self.assertIn("4 exports", self.ok(cofre("serve", "--config", self.config(text), "--check-config")).out)
        self.assertFalse(os.path.exists(self.socket), "a check opens nothing")
        with self.serve(text) as server:
            self.assertEqual(self.names(), {"plain": ("a plain one", True), "luks": ("", False), "other": ("", False),
                                            "opts": ("", False)})
            for name in ("luks", "other"):
                self.ok(qemu_io("-f", "raw", "-c", "write -P 6 0 64k", uri_of(self.socket, name)))
            self.assertEqual(server.stop(), 0, server.said())
        for image in (luks, other):
            self.ok(qemu_io("-c", "read -P 6 0 64k", *image.args()))

    def test_the_command_line_wins(self):
        text = f'[server]\nnbd = "unix:{self.socket}"\ncontrol = "{self.path("from-file")}"\n'
        with self.serve(text, "--control", self.path("from-line"), "-x", "mine", "-f", "qcow2", self.plain):
            self.assertTrue(os.path.exists(self.path("from-line")))
            self.assertFalse(os.path.exists(self.path("from-file")))
            self.assertEqual(list(self.names()), ["mine"])

    def test_mistakes_are_named(self):
        export = '[[export]]\nname = "x"\nimage = "y"\n'
        for line, column, text in (
                (2, 1, "[server]\nnbdd = 1\n"), (2, 7, "[server]\nnbd = 1\n"), (2, 10, '[server]\nshared = "3"\n'),
                (2, 11, "[server]\nverbose = 1\n"), (1, 2, "[servers]\n"), (1, 1, "x = 1\n"),
                (4, 1, export + "colour = 1\n"), (4, 10, export + "format = 1\n"), (4, 11, export + 'bitmaps = "a"\nread-only = 3\n'.replace('"a"', "[1]")),
                (4, 14, export + 'key-secret = "s0"\n'), (4, 10, export + 'serial = "s"\n'), (1, 3, '[[export]]\nname = "x"\n')):
            with self.subTest(text=text):
                path = self.config(text)
                result = cofre("serve", "--config", path, "--check-config")
                self.refused(result)
                where = result.err.removeprefix("cofre: ").removeprefix(path + ":").split(":")[:2]
                self.assertEqual(where[0], str(line), result)
                if not text.startswith("[[export]]\nname = \"x\"\nimage = \"y\"\nbitmaps") and line > 1:
                    self.assertEqual(where[1], str(column), result)
        for broken in ("[server", "a = \n", 'x = "\\q"', "[server]\n[server]\n", "\xff"):
            result = cofre("serve", "--config", self.config(broken), "--check-config")
            self.refused(result, self.path("config.toml") + ":")
        self.refused(cofre("serve", "--config", self.path("nowhere.toml")), "cannot read")
        self.refused(cofre("serve", "--check-config", self.plain), "--config")

    def test_the_example_is_right(self):
        self.assertIn("2 exports", self.ok(cofre("serve", "--config", os.path.join(ROOT, "examples", "cofre-serve.toml"),
                                                 "--check-config")).out)


class Systemd(PeerCase):

    def test_it_hears_of_start_and_end(self):
        image = self.path("disk.qcow2")
        self.ok(qemu_img("create", "-q", "-f", "qcow2", image, str(SIZE)))
        for address in (self.path("notify"), "\0cofre-test-%d" % os.getpid()):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
                manager.bind(address)
                manager.settimeout(60)
                process = subprocess.Popen([COFRE, "serve", "--nbd", "unix:" + self.path("socket"), "-f", "qcow2", image],
                                           env={**os.environ, "NOTIFY_SOCKET": address.replace("\0", "@")},
                                           stdout=subprocess.DEVNULL)
                try:
                    self.assertEqual(manager.recv(4096).split(b"\n"), [b"READY=1", b"STATUS=1 exports"])
                    self.ok(qemu_io("-f", "raw", "-c", "read 0 4k", uri_of(self.path("socket"))))
                    process.terminate()
                    self.assertEqual(manager.recv(4096), b"STOPPING=1")
                    self.assertEqual(process.wait(60), 0)
                finally:
                    process.kill()
                    process.wait()

    def test_credentials(self):
        luks = self.create(COFRE_TOOL, Image(self.path("luks.qcow2"), "qcow2", self.secret(name="disk")), SIZE,
                           options=luks_options())
        path = self.path("socket")
        text = (f'[server]\nnbd = "unix:{path}"\n[[export]]\nname = "disk"\nimage = "{luks.path}"\nformat = "qcow2"\n'
                'passphrase-credential = "disk"\n')
        config = self.write_file("config.toml", text)
        self.refused(cofre("serve", "--config", config, "--check-config"), "config.toml:7:", "CREDENTIALS_DIRECTORY")
        with Server(path, "env", f"CREDENTIALS_DIRECTORY={self.dir}", COFRE, "serve", "--config", config) as server:
            self.ok(qemu_io("-f", "raw", "-c", "write -P 6 0 64k", server.uri("disk")))
        self.write_file("config.toml", text.replace('"disk"\n', '"../disk"\n').replace('name = "../disk"', 'name = "disk"'))
        self.refused(cofre("serve", "--config", config, "--check-config", env={"CREDENTIALS_DIRECTORY": self.dir}), "credential")

    def test_the_unit(self):
        verify = shutil.which("systemd-analyze")
        if not verify:
            self.skipTest("there is no systemd here")  # and tests do not change what starts a machine
        with open(os.path.join(ROOT, "dist", "systemd", "cofre-serve@.service.in"), encoding="utf-8") as file:
            unit = file.read().replace("@CMAKE_INSTALL_FULL_BINDIR@/cofre", COFRE)
        self.write_file("cofre-serve@.service", unit)
        result = run(verify, "verify", "--man=no", self.path("cofre-serve@.service"))
        mine = [line for line in result.err.splitlines() if "cofre-serve" in line]
        self.assertEqual((result.code, mine), (0, []), result)


if __name__ == "__main__":
    unittest.main()
