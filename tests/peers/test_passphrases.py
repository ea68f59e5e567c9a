"""Where passphrases come from: secret objects in all their forms, files, descriptors, the terminal."""

import base64
import os
import unittest

from cofre_peers import COFRE, COFRE_TOOL, MIB, QEMU_TOOL, Image, PeerCase, cofre, luks_options, qemu_img, random_disk, run
from serving import OUR_QEMU_NBD
from terminal import END_OF_INPUT, on_terminal

WORD = "open sesame"


class PassphraseCase(PeerCase):

    def setUp(self):
        super().setUp()
        self.disk = random_disk(self.rng, 1 * MIB)
        self.source = self.write_file("disk1.img", self.disk)
        self.word_file = self.secret(WORD)

    def encrypted(self):
        """A LUKS qcow2 that qemu-img made of the source."""
        image = Image(self.path("theirs.qcow2"), "qcow2", self.word_file)
        self.ok(qemu_img("convert", *image.object_args(), "-f", "raw", "-O", "qcow2", "-o", luks_options(),
                         self.source, image.path))
        return image

    def qemu_reads(self, path):
        self.holds(QEMU_TOOL, Image(path, "qcow2", self.word_file), self.disk)


class SecretObjects(PassphraseCase):

    def test_every_form(self):
        image = self.encrypted()
        encoded = base64.b64encode(WORD.encode()).decode()
        encoded_file = self.write_file("secret.b64", encoded)
        forms = {
            "file": f"secret,id=s0,file={self.word_file}",
            "data": f"secret,id=s0,data={WORD}",
            "data base64": f"secret,id=s0,format=base64,data={encoded}",
            "file base64": f"secret,id=s0,format=base64,file={encoded_file}",
            "data raw": f"secret,id=s0,format=raw,data={WORD}",
            "json": f'{{"qom-type": "secret", "id": "s0", "data": "{WORD}"}}',
        }
        for name, form in forms.items():
            with self.subTest(form=name):
                out = self.path("out.raw")
                for tool in (QEMU_TOOL, COFRE_TOOL):
                    result = self.ok(tool.img("convert", "--object", form, "--image-opts", "-O", "raw", image.opts(), out))
                    self.same_bytes(self.read_file(out), self.disk, result)
                    os.unlink(out)

    def test_faults(self):
        image = self.encrypted()
        out = self.path("out.raw")
        for name, form, word in (("no such file", f"secret,id=s0,file={self.path('nowhere')}", "nowhere"),
                                 ("bad base64", "secret,id=s0,format=base64,data=%%%", "base64"),
                                 ("other id", f"secret,id=other,data={WORD}", "s0"),
                                 ("no id", f"secret,data={WORD}", "id")):
            with self.subTest(fault=name):
                for tool in (qemu_img, cofre):
                    self.refused(tool("convert", "--object", form, "--image-opts", "-O", "raw", image.opts(), out), word)
                self.assertFalse(os.path.exists(out), f"{name}: no target may be left")

    def test_secret_for_source_and_another_for_target(self):
        image = self.encrypted()
        other = self.secret("another word", "other")
        target = Image(self.path("again.qcow2"), "qcow2", other, secret_id="s1")
        self.ok(cofre("convert", *image.object_args(), *target.object_args(), "--image-opts", "-O", "qcow2",
                      "-o", luks_options("s1"), image.opts(), target.path))
        self.holds(QEMU_TOOL, target, self.disk)
        self.holds(COFRE_TOOL, target, self.disk)

    def test_secret_is_not_shown(self):
        """Not by the command's own output; with -q nothing is printed at all."""
        result = self.ok(cofre("create", "--object", f"secret,id=s0,data={WORD}", "-f", "qcow2", "-o", luks_options(),
                               self.path("c.qcow2"), "1M"))
        self.assertNotIn(WORD, result.out + result.err)

    def test_one_secret_for_a_chain(self):
        """A LUKS layer that names no secret is tried with the one before it; with another passphrase it wants its own."""
        other = self.secret("another", "other")
        for name, word, below in (("base", self.word_file, []), ("top", self.word_file, ["-b", "base", "-F", "qcow2"]),
                                  ("strange", other, ["-b", "base", "-F", "qcow2"])):
            self.ok(cofre("create", "-q", "--passphrase-file", word, "-f", "qcow2", *below,
                          "-o", "encrypt.format=luks,encrypt.iter-time=10", self.path(name), *([] if below else ["1M"])))
        self.ok(cofre("io", "--passphrase-file", self.word_file, "-c", "write -P 7 0 64k", self.path("base")))
        top = Image(self.path("top"), "qcow2", self.word_file)
        self.ok(cofre("io", *top.args(), "-c", "read -P 7 0 64k"))
        out = self.path("out")
        self.ok(cofre("convert", *top.object_args(), "--image-opts", "-O", "raw", top.opts(), out))
        self.assertEqual(self.read_file(out)[:1], b"\7")
        strange = Image(self.path("strange"), "qcow2", other)
        self.refused(cofre("io", *strange.args(), "-c", "read 0 64k"), "base", "passphrase")

    def test_malformed_secret_is_not_shown(self):
        socket = self.path("socket")
        commands = ((COFRE, "info"), (COFRE, "serve", "--nbd", f"unix:{socket}"), (OUR_QEMU_NBD, "-k", socket))
        forms = (f'{{"qom-type": "secret", "id": "s0", "data": "{WORD}"', f"secret,id=s0,data={WORD},=x",
                 f"secret,id=s0,={WORD}")
        for command in commands:
            for form in forms:
                with self.subTest(command=command[0], form=form):
                    result = self.refused(run(*command, "--object", form, self.source), "--object", code=1)
                    self.assertNotIn(WORD, result.out + result.err)


class PassphraseOptions(PassphraseCase):

    def test_passphrase_file_encrypts(self):
        for options in ("encrypt.format=luks,encrypt.iter-time=10", "encrypt.format=aes"):
            with self.subTest(options=options):
                path = self.path("enc.qcow2")
                self.ok(cofre("convert", "--passphrase-file", self.word_file, "-f", "raw", "-O", "qcow2", "-o", options,
                              self.source, path))
                self.qemu_reads(path)
                os.unlink(path)

    def test_passphrase_file_decrypts(self):
        image, out = self.encrypted(), self.path("out.raw")
        result = self.ok(cofre("convert", "--passphrase-file", self.word_file, "-O", "raw", image.path, out))
        self.same_bytes(self.read_file(out), self.disk, result)

    def test_passphrase_file_with_every_command(self):
        image = self.encrypted()
        with_word = ["--passphrase-file", self.word_file]
        self.ok(cofre("info", *with_word, image.path))
        self.ok(cofre("check", *with_word, image.path))
        self.ok(cofre("map", *with_word, "--output=json", image.path))
        self.ok(cofre("compare", *with_word, image.path, self.source))
        self.ok(cofre("io", *with_word, "-c", "read 0 64k", image.path))
        self.ok(cofre("create", "-q", *with_word, "-f", "qcow2", "-o", "encrypt.format=luks,encrypt.iter-time=10",
                      self.path("new.qcow2"), "1M"))

    def test_passphrase_fd(self):
        path = self.path("fd.qcow2")
        self.ok(cofre("convert", "--passphrase-fd", "0", "-f", "raw", "-O", "qcow2", "-o",
                      "encrypt.format=luks,encrypt.iter-time=10", self.source, path, stdin=WORD))
        self.qemu_reads(path)

    def test_an_empty_passphrase_file_encrypts_nothing(self):
        """A script's variable that was never set must not make an image that anybody opens."""
        for content in ("", "\n"):
            with self.subTest(content=content):
                empty = self.write_file("empty", content)
                self.refused(cofre("convert", "--passphrase-file", empty, "-O", "qcow2", "-o", "encrypt.format=luks",
                                   self.source, self.path("out.qcow2")), "out.qcow2", "empty passphrase", code=1)
                self.refused(cofre("create", "--passphrase-file", empty, "-f", "luks", self.path("out.luks"), "1M"),
                             "empty passphrase", code=1)
        self.assertEqual(sorted(os.listdir(self.dir)), ["disk1.img", "empty", "secret"])

    def test_missing_passphrase_file(self):
        result = cofre("convert", "--passphrase-file", self.path("nowhere"), "-f", "raw", "-O", "qcow2", "-o",
                       "encrypt.format=luks", self.source, self.path("x.qcow2"))
        self.refused(result, "nowhere")
        self.assertFalse(os.path.exists(self.path("x.qcow2")), f"{result}")

    def test_no_passphrase_and_no_terminal(self):
        image = self.encrypted()
        for args in (("convert", "-O", "raw", image.path, self.path("out.raw")), ("compare", image.path, self.source),
                     ("io", "-c", "read 0 512", image.path)):
            with self.subTest(command=args[0]):
                self.refused(cofre(*args), "theirs.qcow2", "--passphrase-file", code=2 if args[0] == "compare" else 1)
        self.assertFalse(os.path.exists(self.path("out.raw")))

    def test_info_needs_no_passphrase(self):
        image = self.encrypted()
        self.ok(cofre("info", image.path))
        self.ok(cofre("info", "--output=json", image.path))


class TheHistoricLine(PassphraseCase):
    """cofre convert -o encryption -O qcow2 disk1.img enc1.qcow2"""

    LINE = ["convert", "-o", "encryption", "-O", "qcow2", "disk1.img", "enc1.qcow2"]

    def test_asks_twice_on_a_terminal(self):
        code, shown = on_terminal(self.LINE, [WORD, WORD], cwd=self.dir)
        self.assertEqual(code, 0, shown)
        self.assertNotIn(WORD, shown, "the passphrase must not be echoed")
        self.qemu_reads(self.path("enc1.qcow2"))
        info = self.ok(qemu_img("info", "--output=json", self.path("enc1.qcow2"))).json()
        self.assertTrue(info["encrypted"])

    def test_two_different_answers_are_not_taken(self):
        """They are asked for again; the end of the terminal's input ends the asking."""
        code, shown = on_terminal(self.LINE, [WORD, "a slip", END_OF_INPUT], cwd=self.dir)
        self.assertNotEqual(code, 0, shown)
        self.assertFalse(os.path.exists(self.path("enc1.qcow2")), shown)

    def test_an_empty_answer_is_not_taken(self):
        code, shown = on_terminal(self.LINE, ["", END_OF_INPUT], cwd=self.dir)
        self.assertNotEqual(code, 0, shown)
        self.assertFalse(os.path.exists(self.path("enc1.qcow2")), shown)

    def test_without_a_terminal_says_which_option_to_give(self):
        result = self.refused(cofre(*self.LINE, cwd=self.dir), "--passphrase-file")
        self.assertFalse(os.path.exists(self.path("enc1.qcow2")), f"{result}")

    def test_with_a_passphrase_file(self):
        self.ok(cofre("convert", "--passphrase-file", self.word_file, *self.LINE[1:], cwd=self.dir))
        self.qemu_reads(self.path("enc1.qcow2"))

    def test_with_encryption_on_and_a_secret(self):
        """The longer spelling of the same option, as qemu-img takes it."""
        for tool in (qemu_img, cofre):
            path = self.path("on.qcow2")
            self.ok(tool("convert", "--object", f"secret,id=s0,file={self.word_file}", "-f", "raw", "-O", "qcow2",
                         "-o", "encryption=on,encrypt.key-secret=s0", self.source, path))
            self.qemu_reads(path)
            self.holds(COFRE_TOOL, Image(path, "qcow2", self.word_file), self.disk)

    def test_asks_once_to_open(self):
        image = self.encrypted()
        code, shown = on_terminal(["convert", "-O", "raw", image.path, self.path("out.raw")], [WORD])
        self.assertEqual(code, 0, shown)
        self.assertNotIn(WORD, shown)
        self.same_bytes(self.read_file(self.path("out.raw")), self.disk, shown)


if __name__ == "__main__":
    unittest.main(verbosity=2)
