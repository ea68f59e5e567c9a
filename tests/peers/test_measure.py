"""`measure`: every number is qemu-img's, over tables of options and over sources of every kind."""

import itertools
import os
import unittest

from cofre_peers import (LONG, MIB, QEMU_TOOL, SANITIZED, Image, PeerCase, aes_options, cofre, luks_options, qemu_img,
                         random_disk)


class MeasureCase(PeerCase):

    def setUp(self):
        super().setUp()
        self.passphrase = self.secret()
        self.objects = ["--object", f"secret,id=s0,file={self.passphrase}"]

    def same(self, *arguments, secrets=False):
        theirs = qemu_img("measure", *(self.objects if secrets else []), *arguments, cwd=self.dir)
        ours = cofre("measure", *arguments, cwd=self.dir)
        self.assertEqual(ours.code, theirs.code, f"{ours}{theirs}")
        if "--output=json" in arguments and theirs.code == 0:
            self.assertEqual(ours.json(), theirs.json(), f"{ours}{theirs}")
        else:
            self.assertEqual(ours.out, theirs.out, f"{ours}{theirs}")
        return ours


class Sizes(MeasureCase):

    def random_size(self):
        return self.rng.choice(["0", "1", "511", "513", "1000001", "1M", "1G", "7G", "1T", "100T", "5P",
                                str(self.rng.randrange(1 << self.rng.randrange(1, 56)))])

    def random_options(self):
        cluster = 512 << self.rng.randrange(13)
        options = [f"cluster_size={cluster}"] if self.rng.random() < 0.9 else []
        choices = [f"refcount_bits={1 << self.rng.randrange(7)}", "lazy_refcounts=on", "compression_type=zstd",
                   "data_file=x", "backing_file=x,backing_fmt=raw", "size=5G", "encryption=on"]
        choices += [f"preallocation={mode}" for mode in ("off", "metadata", "falloc", "full")]
        options += self.rng.sample(choices, self.rng.randrange(3))
        if self.rng.random() < 0.3:
            options.append("extended_l2=on")
        return ",".join(options)

    def test_random_options(self):
        for _ in range(400 if LONG else 25 if SANITIZED else 80):
            size, options = self.random_size(), self.random_options()
            with self.subTest(size=size, options=options):
                self.same("--size", size, "-O", "qcow2", *(["-o", options] if options else []))

    def test_version_2(self):
        for size, options in itertools.product(("1G", "1000001"), ("compat=0.10", "compat=0.10,cluster_size=512", "compat=1.1",
                                                                  "compat=0.10,refcount_bits=1")):
            with self.subTest(size=size, options=options):
                self.same("--size", size, "-O", "qcow2", "-o", options)

    def test_raw(self):
        for size in ("0", "1", "512", "1000001", "1.5G", "7E"):
            with self.subTest(size=size):
                self.same("--size", size)
                self.same("--size", size, "-O", "raw", "-o", "preallocation=full", "--output=json")

    def test_luks(self):
        """Also how long the header is with each cipher; our side needs no passphrase for that."""
        for cipher, mode in (("", "xts"), ("aes-128", "xts"), ("aes-256", "cbc"), ("serpent-256", "cbc"), ("twofish-256", "cbc"),
                             ("cast5-128", "cbc")):
            for target in (("512", "4k", "64k", "2M", "container") if LONG else self.rng.sample(("512", "64k", "2M", "container"), 1)):
                values = {"cipher_mode": mode, **({"cipher_alg": cipher} if cipher else {})}
                with self.subTest(cipher=cipher, mode=mode, target=target):
                    if target == "container":
                        self.same("--size", "3G", "-O", "luks", "-o", luks_options(prefix="", **values), secrets=True)
                    else:
                        options = luks_options(**values) + f",cluster_size={target}"
                        self.same("--size", "1000001", "-O", "qcow2", "-o", options, secrets=True)

    def test_what_it_says_is_what_comes(self):
        """A fully allocated image is as long as measured."""
        for options in ("", "cluster_size=4k", "extended_l2=on"):
            with self.subTest(options=options):
                arguments = ["-O", "qcow2", *(["-o", options] if options else [])]
                measured = self.same("--size", "20M", *arguments, "--output=json").json()
                disk = self.write_file("full.raw", self.rng.randbytes(20 * MIB))
                self.ok(cofre("convert", "-f", "raw", *arguments, disk, self.path("full.qcow2")))
                self.assertLessEqual(os.path.getsize(self.path("full.qcow2")), measured["fully-allocated"])


class Sources(MeasureCase):

    TARGETS = ("", "cluster_size=512", "cluster_size=2M,refcount_bits=64", "extended_l2=on", "preallocation=falloc",
               "backing_file=x,backing_fmt=raw", "compat=0.10")

    def same_for(self, *source):
        for options in self.TARGETS:
            with self.subTest(target=options):
                self.same("-O", "qcow2", *(["-o", options] if options else []), *source)
        self.same("-O", "qcow2", "--output=json", *source)
        self.same("-O", "raw", *source)

    def test_raw_with_holes(self):
        path = self.path("holes.raw")
        with open(path, "wb") as file:
            for _ in range(6):
                file.seek(self.rng.randrange(64 * MIB) // 4096 * 4096)
                file.write(self.rng.randbytes(self.rng.randrange(1, 300_000)))
            file.truncate(64 * MIB + self.rng.choice([0, 1, 513]))
        self.same_for("-f", "raw", path)
        self.same("-O", "luks", "-o", luks_options(prefix=""), "-f", "raw", path, secrets=True)

    def test_qcow2(self):
        for name, options in (("standard", ""), ("version 2", "compat=0.10"), ("small", "cluster_size=512"),
                              ("subclusters", "extended_l2=on"), ("preallocated", "preallocation=metadata"),
                              ("data file", f"data_file={self.path('d.bin')}"),
                              ("raw data file", f"data_file={self.path('d.bin')},data_file_raw=on")):
            with self.subTest(source=name):
                path = self.path("s.qcow2")
                self.ok(qemu_img("create", "-q", "-f", "qcow2", *(["-o", options] if options else []), path, "5000448", cwd=self.dir))
                self.io(QEMU_TOOL, Image(path, "qcow2"), "write 3k 1M", "write -z 2M 300k", "write -z -u 3M 200k", "write 4M 1",
                        "discard 64k 64k")
                self.same_for(path)

    def test_compressed(self):
        disk = self.write_file("d.raw", random_disk(self.rng, 5 * MIB))
        self.ok(qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", disk, self.path("c.qcow2")))
        self.same_for(self.path("c.qcow2"))

    def test_chain(self):
        base = self.write_file("base.raw", self.rng.randbytes(1 * MIB + 77))
        for name, below, format in (("mid.qcow2", base, "raw"), ("top.qcow2", "mid.qcow2", "qcow2")):
            self.ok(qemu_img("create", "-q", "-f", "qcow2", "-b", below, "-F", format, name, "3M", cwd=self.dir))
            self.io(QEMU_TOOL, Image(self.path(name), "qcow2"), f"write {self.rng.randrange(40) * 64}k 100k", "write -z 64k 64k")
        self.same_for("top.qcow2")

    def test_encrypted(self):
        """The map suffices: no passphrase here."""
        for name, options in (("luks", luks_options()), ("aes", aes_options())):
            image = self.create(QEMU_TOOL, Image(self.path("e.qcow2"), "qcow2", self.passphrase), "8M", options=options)
            self.io(QEMU_TOOL, image, "write 1M 100k", "write -z 5M 1M")
            with self.subTest(encryption=name):
                theirs = self.ok(qemu_img("measure", *image.object_args(), "-O", "qcow2", "--image-opts", image.opts()))
                self.assertEqual(self.ok(cofre("measure", "-O", "qcow2", image.path)).out, theirs.out)

    def test_bitmaps(self):
        path = self.path("b.qcow2")
        self.ok(qemu_img("create", "-q", "-f", "qcow2", path, "500M"))
        for name, granularity in (("one", "64k"), ("a longer name", "512"), ("three", "1M")):
            self.ok(qemu_img("bitmap", "--add", "-g", granularity, path, name))
            self.same_for(path)

    def test_snapshot(self):
        path = self.path("s.qcow2")
        self.ok(qemu_img("create", "-q", "-f", "qcow2", path, "5M"))
        self.io(QEMU_TOOL, Image(path, "qcow2"), "write 1M 1M")
        self.ok(qemu_img("snapshot", "-c", "one", path))
        self.io(QEMU_TOOL, Image(path, "qcow2"), "write 3M 1M", "discard 1M 512k")
        for name in ("one", "1", "snapshot.name=one", "nosuch", ""):
            with self.subTest(snapshot=name):
                self.same("-O", "qcow2", "-l", name, path)
        self.same("-O", "qcow2", path)
        self.same("-O", "qcow2", "--size", "1M", "-l", "one")

    def test_arguments(self):
        self.ok(qemu_img("create", "-q", "-f", "qcow2", self.path("x.qcow2"), "1M"))
        for arguments in ([], ["x.qcow2", "x.qcow2"], ["--size", "1G", "x.qcow2"], ["--size", "1G", "-f", "raw"], ["--size", "-5"],
                          ["--size", "x"], ["--size", ""], ["--size", "8E", "-O", "qcow2"], ["--size", "7E", "-O", "qcow2"],
                          ["--size", "1G", "--image-opts"], ["--size", "1G", "-O", "foo"], ["--size", "1G", "-O", "vmdk"], ["--size", "1G", "-O", "vdi"], ["--size", "1G", "--size", "2G"],
                          ["--size", "1G", "-O", "qcow2", "-o", "foo=bar"], ["--size", "1G", "--output=foo"], ["nowhere"], ["."],
                          ["--size", "1G", "-O", "qcow2", "-o", "cluster_size=1000"], ["-U", "x.qcow2"], ["-f", "raw", "x.qcow2"],
                          ["--size", "1G", "-O", "qcow2", "-o", "extended_l2=on,cluster_size=4k"],
                          ["--image-opts", "driver=qcow2,file.filename=x.qcow2"], ["--image-opts", "-f", "raw", "x.qcow2"],
                          ["--size", "1G", "-O", "qcow2", "-o", "cluster_size=4k", "-o", "refcount_bits=64"]):
            with self.subTest(arguments=arguments):
                self.same(*arguments)


if __name__ == "__main__":
    unittest.main(verbosity=2)
