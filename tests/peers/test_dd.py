"""`dd` beside qemu-img: the same bytes, whatever the blocks; and what a copy must not destroy."""

import os
import unittest

from cofre_peers import COMPAT_TOOL, MIB, QEMU_TOOL, Image, PeerCase, cofre, luks_options, qemu_img, random_disk


class Dd(PeerCase):

    def setUp(self):
        super().setUp()
        self.disk = random_disk(self.rng, 1_000_001)
        self.source = self.write_file("in.raw", self.disk)

    def same(self, *arguments, output="out", out_format="raw"):
        """qemu-img and the personality of its name leave the same image, or none."""
        answers = []
        for program in (qemu_img, COMPAT_TOOL.img):
            if os.path.exists(self.path(output)):
                os.unlink(self.path(output))
            result = program("dd", *arguments, cwd=self.dir)
            content = None
            if result.code == 0:
                self.ok(qemu_img("convert", "-f", out_format, "-O", "raw", output, "content", cwd=self.dir))
                content = self.read_file(self.path("content"))
            answers.append((result, content))
        (theirs, their_content), (ours, our_content) = answers
        self.assertEqual((ours.code, ours.out), (theirs.code, theirs.out), f"{ours}{theirs}")
        self.assertEqual(bool(ours.err), bool(theirs.err), f"{ours}{theirs}")
        if their_content is not None:
            self.same_bytes(our_content, their_content, ours)

    def test_blocks(self):
        cases = [("bs=512",), ("bs=1000",), ("bs=1M",), ("bs=1000", "count=3"), ("bs=1000", "count=7", "skip=2"), ("bs=1M", "skip=1"),
                 ("bs=1M", "skip=2"), ("bs=1", "count=513"), ("bs=1", "skip=999999"), ("bs=7", "skip=3", "count=100000"), ("count=0",),
                 ("bs=1.5k", "count=1"), ("bs=512", "count=9223372036854775807"), ("bs=1G", "skip=9223372036854775807"),
                 ("bs=1k", "count=4", "skip=4"), ("bs=1k", "count=4", "skip=5"), ("count=1", "count=2"), ("skip=1k", "bs=64")]
        cases += [(f"bs={self.rng.randrange(1, 5000)}", f"skip={self.rng.randrange(400)}", f"count={self.rng.randrange(600)}")
                  for _ in range(15)]
        for case in cases:
            with self.subTest(case=case):
                self.same("-f", "raw", "if=in.raw", "of=out", *case)

    def test_formats(self):
        self.ok(qemu_img("convert", "-f", "raw", "-O", "qcow2", "in.raw", "in.qcow2", cwd=self.dir))
        for arguments, out_format in ((["-f", "qcow2", "-O", "raw", "if=in.qcow2"], "raw"), (["-O", "qcow2", "if=in.qcow2"], "qcow2"),
                                      (["-f", "raw", "-O", "qcow2", "if=in.raw", "bs=777", "skip=5"], "qcow2"),
                                      (["-U", "if=in.qcow2", "bs=4k", "count=9"], "raw"),
                                      (["--image-opts", "if=driver=qcow2,file.filename=in.qcow2", "bs=3k", "skip=1"], "raw")):
            with self.subTest(arguments=arguments):
                self.same(*arguments, "of=out", out_format=out_format)

    def test_backing_chain(self):
        self.ok(qemu_img("create", "-q", "-f", "qcow2", "-b", "in.raw", "-F", "raw", "top.qcow2", "2M", cwd=self.dir))
        self.io(QEMU_TOOL, Image(self.path("top.qcow2"), "qcow2"), "write -P 5 100k 99k", "write -z 500k 64k")
        for case in (["bs=1000", "skip=99"], ["bs=1M", "skip=1"], ["bs=333", "skip=100", "count=4000"]):
            with self.subTest(case=case):
                self.same("if=top.qcow2", "of=out", *case)

    def test_encrypted(self):
        secret = self.secret()
        objects = ["--object", f"secret,id=s0,file={secret}"]
        self.ok(qemu_img("convert", *objects, "-f", "raw", "-O", "qcow2", "-o", luks_options(), "in.raw", "safe.qcow2", cwd=self.dir))
        self.same(*objects, "--image-opts", "if=driver=qcow2,file.filename=safe.qcow2,encrypt.key-secret=s0", "of=out", "bs=1000", "skip=3")
        result = cofre("dd", "--passphrase-file", secret, "-O", "luks", "if=in.raw", "of=box.luks", "bs=1k", "count=9", cwd=self.dir)
        self.ok(result)
        box = Image(self.path("box.luks"), "luks", secret)
        self.holds(QEMU_TOOL, box, self.disk[:9 * 1024])

    def test_count_in_our_own_name(self):
        """As dd(1) counts: blocks copied, not blocks from the start."""
        self.ok(cofre("dd", "-f", "raw", "if=in.raw", "of=out", "bs=512", "skip=10", "count=4", cwd=self.dir))
        self.same_bytes(self.read_file(self.path("out")), self.disk[10 * 512:14 * 512], "4 blocks behind the 10th")

    def test_arguments(self):
        for arguments in ([], ["if=in.raw"], ["of=out"], ["if=nowhere", "of=out"], ["if=in.raw", "of=/no/dir/x"], ["if=in.raw", "of=out", "foo"],
                          ["if=in.raw", "of=out", "foo=x"], ["if=", "of=out"], ["if=in.raw", "of=."], ["if=.", "of=out"],
                          ["-n", "if=in.raw", "of=out"], ["-f", "foo", "if=in.raw", "of=out"], ["-O", "foo", "if=in.raw", "of=out"],
                          ["--image-opts", "-f", "raw", "if=driver=raw,file.filename=in.raw", "of=out"],
                          *(["if=in.raw", "of=out", f"{name}={value}"] for name in ("bs", "count", "skip")
                            for value in ("x", "-1", "", "4k,", "0x", "8E"))):
            with self.subTest(arguments=arguments):
                self.same(*arguments)
        for value in ("0", "2G", "4G", "1E"):
            with self.subTest(bs=value):
                self.same("if=in.raw", "of=out", f"bs={value}")

    def test_the_source_is_safe(self):
        """qemu-img empties it."""
        os.link(self.source, self.path("hard.raw"))
        for target in ("in.raw", "./in.raw", "hard.raw"):
            self.refused(cofre("dd", "-f", "raw", "if=in.raw", f"of={target}", cwd=self.dir), "source", code=1)
        self.same_bytes(self.read_file(self.source), self.disk, "untouched")

    def test_a_failed_copy_leaves_the_target(self):
        target = self.write_file("precious", b"precious" * MIB)
        self.refused(cofre("dd", "-O", "qcow2", "if=nowhere", f"of={target}", cwd=self.dir), "nowhere", code=1)
        self.assertEqual(self.read_file(target), b"precious" * MIB)


if __name__ == "__main__":
    unittest.main(verbosity=2)
