"""What the header of an image names is opened only where that is allowed: other folders, symbolic links, json: names, data
files, extents, layers below."""

import os
import subprocess
import unittest

from cofre_peers import COFRE, MIB, PeerCase, cofre, compat, qemu_img
from serving import Server

WORDS = "can name any file of this host"


class UntrustedCase(PeerCase):

    def setUp(self):
        super().setUp()
        os.mkdir(self.path("mine"))
        os.mkdir(self.path("other"))
        self.foreign = self.write_file("other/secret.raw", b"\x77" * MIB)
        self.out = self.path("out.raw")

    def overlay(self, backing, name="mine/top.qcow2", format="raw"):
        """Of a name that need not lead to a file."""
        path = self.path(name)
        self.ok(qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", format, path, "1M"))
        return path

    def taken(self, path, *args, run=cofre):
        self.ok(run("convert", *args, "-O", "raw", path, self.out))
        return self.read_file(self.out)[:1]

    def kept_out(self, path, *args, words=WORDS):
        said = self.refused(cofre("convert", *args, "-O", "raw", path, self.out), words, code=1)
        self.assertFalse(os.path.exists(self.out))
        return said


class Names(UntrustedCase):

    def test_elsewhere(self):
        """Nobody said what the image is: what is outside of its folder stays closed; options open it, and so does -f."""
        for backing in (self.foreign, "../other/secret.raw"):
            with self.subTest(backing=backing):
                top = self.overlay(backing)
                said = self.kept_out(top)
                self.assertIn("--allow-backing=" + self.path("other"), said.err)
                for args in (["--allow-backing", self.path("other")], [f"--allow-backing={self.dir}"], ["--trusted"],
                             ["-f", "qcow2"]):
                    self.assertEqual(self.taken(top, *args), b"\x77")
                    os.unlink(self.out)

    def test_beside(self):
        self.write_file("mine/base.raw", b"\x55" * MIB)
        top = self.overlay("base.raw")
        self.assertEqual(self.taken(top), b"\x55")
        os.unlink(self.out)
        self.kept_out(top, "--untrusted")
        self.assertEqual(self.taken(top, "--untrusted", "--allow-backing", self.path("mine")), b"\x55")

    def test_a_symbolic_link_leads_where_it_leads(self):
        os.symlink(self.foreign, self.path("mine/link.raw"))
        self.kept_out(self.overlay("link.raw"))
        os.symlink(self.path("other"), self.path("mine/folder"))
        self.kept_out(self.overlay("folder/secret.raw"))
        os.symlink(self.path("mine"), self.path("other/mine"))
        self.write_file("mine/base.raw", b"\x55" * MIB)
        self.assertEqual(self.taken(self.overlay(self.path("other/mine/base.raw"))), b"\x55")

    def test_a_folder_whose_name_begins_alike(self):
        os.mkdir(self.path("mine2"))
        self.write_file("mine2/base.raw", b"\x66" * MIB)
        self.kept_out(self.overlay("../mine2/base.raw"))

    def test_json(self):
        for name in ("json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"%s\"}}",
                     "json:{\"file.filename\":\"%s\",\"driver\":\"raw\"}"):
            with self.subTest(name=name):
                self.kept_out(self.overlay(name % self.foreign))
        self.kept_out(self.overlay("nbd:unix:/nonexistent"), words="opens no connection")

    def test_layers_below(self):
        self.overlay(self.foreign, "mine/middle.qcow2")
        self.kept_out(self.overlay("middle.qcow2", format="qcow2"))

    def test_data_file(self):
        path = self.path("mine/data.qcow2")
        self.ok(qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={self.foreign},data_file_raw=on", path, "1M"))
        self.write_file("other/secret.raw", b"\x77" * MIB)
        self.kept_out(path)
        self.assertEqual(self.taken(path, "--trusted"), b"\x77")

    def test_extents(self):
        path = self.path("mine/disk.vmdk")
        self.ok(qemu_img("create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", path, "1M"))
        flat = self.path("mine/disk-flat.vmdk")
        os.unlink(flat)
        os.symlink(self.foreign, flat)
        self.kept_out(path)
        self.assertEqual(self.taken(path, "--trusted"), b"\x77")

    def test_options_say_what_the_header_does_not(self):
        """What the command line names is trusted."""
        top = self.overlay("nowhere.raw")
        self.ok(cofre("convert", "--untrusted", "--image-opts", "-O", "raw",
                      f"driver=qcow2,file.filename={top},backing.driver=raw,backing.file.filename={self.foreign}", self.out))
        self.assertEqual(self.read_file(self.out)[:1], b"\x77")

    def test_every_command(self):
        top = self.overlay(self.foreign)
        for command in (["map"], ["io", "-r", "-c", "read 0 512"], ["check"], ["compare", top], ["measure", "-O", "raw"],
                        ["info", "--backing-chain"], ["dd", f"if={top}", f"of={self.out}"]):
            with self.subTest(command=command):
                names = [] if command[0] == "dd" else [top]
                if command[0] == "check":
                    self.ok(cofre(*command, "--untrusted", *names))  # opens no backing file
                else:
                    self.refused(cofre(*command, "--untrusted", *names), WORDS)
        self.assertIn(self.foreign, self.ok(cofre("info", "--untrusted", top)).out)


class Programs(UntrustedCase):

    def test_by_qemus_name_chains_are_followed(self):
        self.assertEqual(self.taken(self.overlay(self.foreign), run=lambda *args: compat("qemu-img", *args)), b"\x77")

    def test_serve(self):
        top = self.overlay(self.foreign)
        socket = self.path("socket")
        command = [COFRE, "serve", "--nbd", f"unix:{socket}", "-f", "qcow2"]
        refused = subprocess.run([*command, top], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertIn(WORDS, refused.stderr)
        with Server(socket, *command, "--allow-backing", self.path("other"), top):
            self.assertEqual(self.taken(f"nbd+unix:///?socket={socket}"), b"\x77")

    def test_serve_whoever_names_the_image(self):
        """Also images that come later, or stand in a file."""
        top, socket, control = self.overlay(self.foreign), self.path("socket"), self.path("control")
        with Server(socket, COFRE, "serve", "--nbd", f"unix:{socket}", "--control", control):
            self.refused(cofre("ctl", "--socket", control, "export-add", "disk", top, "-f", "qcow2"), WORDS)
        config = self.write_file("serve.toml", f'[server]\nnbd = ["unix:{socket}"]\n[[export]]\nname = "disk"\n'
                                               f'image = "{top}"\nformat = "qcow2"\n')
        self.refused(cofre("serve", "--config", config), WORDS)
        with Server(socket, COFRE, "serve", "--config", config, "--allow-backing", self.path("other")):
            self.assertEqual(self.taken(f"nbd+unix:///disk?socket={socket}"), b"\x77")

    def test_exclusions(self):
        self.refused(cofre("info", "--trusted", "--untrusted", self.foreign), "excludes", code=1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
