"""rebase and commit beside qemu-img: the same chains, plain, aes and LUKS, go through both; exit codes are the same,
every reader sees the same bytes afterwards, and no check finds a fault."""

import os
import shutil
import signal
import subprocess
import time
import unittest

from cofre_peers import (COFRE, COFRE_TOOL, COMPAT_TOOL, KIB, LONG, MIB, QEMU_IO, QEMU_TOOL, TIMEOUT_S, Image, Interactive,
                         PeerCase, aes_options, cofre, luks_options, qemu_img, run)

ROUNDS = 40 if LONG else 5


class ChainCase(PeerCase):
    """Chains of images with a secret each, in folders of their own, so that names in headers are relative."""

    def setUp(self):
        super().setUp()
        self.secrets = {}
        for name in ("s0", "s1", "s2", "s3"):
            self.secrets[name] = self.secret(f"passphrase of {name}", name)

    def objects(self):
        return [part for name, path in self.secrets.items() for part in ("--object", f"secret,id={name},file={path}")]

    def name_of(self, chain, folder, prefix=""):
        """--image-opts for a chain: the path of the top, and the key of every layer."""
        parts = []
        for depth, layer in enumerate(chain):
            dots = "backing." * depth
            if depth == 0:
                parts.append(f"driver={layer['format']},file.filename={os.path.join(folder, layer['name'])}")
            if layer["secret"]:
                key = "key-secret" if layer["format"] == "luks" else "encrypt.key-secret"
                parts.append(f"{dots}{key}={layer['secret']}")
        return ",".join(parts)

    def make_layer(self, folder, name, size, below, secret, kind):
        """One image of `kind` over the chain `below`. Its place in a chain."""
        layer = {"name": name, "format": "luks" if kind == "container" else "raw" if kind == "raw" else "qcow2",
                 "secret": secret if kind in ("aes", "luks", "container") else "", "size": size, "kind": kind}
        options = {"plain": [], "raw": [], "v2": ["compat=0.10"], "small": ["cluster_size=4k"],
                   "subclusters": ["extended_l2=on"], "aes": [aes_options(secret)], "luks": [luks_options(secret)],
                   "container": [luks_options(secret, prefix="")]}[kind]
        backing = ["-u", "-b", below[0]["name"], "-F", below[0]["format"]] if below else []
        path = os.path.join(folder, name)
        maker = cofre if kind in ("luks", "container") else qemu_img  # QEMU takes seconds to make a LUKS header
        self.ok(maker("create", "-q", *self.objects(), "-f", layer["format"], *backing,
                         *(["-o", ",".join(options)] if options else []), path, str(size)))
        return layer

    def scribble(self, folder, chain):
        """Random writes, of few values so that layers often agree, through qemu-io."""
        size = chain[0]["size"]
        commands = []
        for _ in range(self.rng.randrange(1, 7)):
            length = min(self.rng.choice([512, 4096, 65536, 300 * KIB]), size)
            offset = self.rng.randrange(0, (size - length) // 512 + 1) * 512
            kind = self.rng.choice(["write -P 1", "write -P 2", "write -P 0", "write -z"])
            commands += ["-c", f"{kind} {offset} {length}"]
        self.ok(run(QEMU_IO, *self.objects(), "--image-opts", *commands, self.name_of(chain, folder)))

    def make_chain(self, folder, names, kinds, sizes=None):
        """names[0] is the bottom. Gives the chain, the top first."""
        chain = []
        for i, name in enumerate(names):
            size = sizes[i] if sizes else self.rng.randrange(1, 4 * MIB // 512) * 512
            layer = self.make_layer(folder, name, size, chain, f"s{i}", kinds[i])
            chain = [layer, *chain]
            self.scribble(folder, chain)
        return chain

    def random_kind(self, bottom):
        kinds = ["plain", "plain", "small", "subclusters", "v2", "aes", "luks"]
        return self.rng.choice(kinds + (["raw", "container"] if bottom else []))

    def shows(self, tool, chain, folder):
        out = os.path.join(self.dir, "shown.raw")
        self.ok(tool.img("convert", *self.objects(), "--image-opts", "-O", "raw", self.name_of(chain, folder), out))
        return self.read_file(out)

    def check(self, chain, folder):
        for depth, layer in enumerate(chain):
            if layer["format"] == "qcow2":
                result = self.ok(qemu_img("check", *self.objects(), "--image-opts",
                                          self.name_of(chain[depth:], folder)))
                self.assertIn("No errors were found", result.out, f"{result}")

    def copies(self, folder):
        """The same folder for each tool."""
        folders = {}
        for tool in (QEMU_TOOL, COMPAT_TOOL):
            folders[tool.name] = os.path.join(self.dir, tool.name)
            shutil.copytree(folder, folders[tool.name])
        return folders

    def scratch(self, name):
        path = os.path.join(self.dir, name)
        os.mkdir(path)
        return path

    def forget_all(self):
        """Also what a failed round left."""
        self.forget(*(entry.path for entry in os.scandir(self.dir) if entry.is_dir()))

    def forget(self, *paths):
        for path in paths:
            shutil.rmtree(path)


class Rebase(ChainCase):
    def test_random_chains(self):
        for number in range(ROUNDS):
            folder = self.scratch("made")
            old = self.make_chain(folder, ["a", "b", "top"], [self.random_kind(i == 0) for i in range(3)])
            other = self.make_chain(folder, ["x", "y"], [self.random_kind(i == 0) for i in range(2)])
            target = self.rng.choice([[], old[1:], old[2:], other, other[1:]])
            with self.subTest(round=number, old=old, target=target):
                self.rebase_both(folder, old, target)
            self.forget_all()

    def new_backing(self, old, target, place):
        """-b: a chain with keys needs a json: name; and QEMU knows an image that is named with keys by a json: name,
        which other names cannot be relative to."""
        if not target:
            return ["-b", ""]
        name = target[0]["name"]
        if any(layer["secret"] for layer in target):
            keys = ",".join('"{}": "{}"'.format(*part.split("=")) for part in self.name_of(target, place).split(","))
            name = "json:{" + keys + "}"
        elif any(layer["secret"] for layer in old):
            name = os.path.join(place, name)
        return ["-b", name, "-F", target[0]["format"]]

    def rebase_both(self, folder, old, target):
        before = self.shows(QEMU_TOOL, old, folder)
        folders = self.copies(folder)
        for tool in (QEMU_TOOL, COMPAT_TOOL):
            place = folders[tool.name]
            args = self.new_backing(old, target, place)
            self.ok(tool.img("rebase", *self.objects(), "--image-opts", *args, self.name_of(old, place)))
            chain = [old[0], *target]
            for reader in (QEMU_TOOL, COFRE_TOOL):
                self.same_bytes(self.shows(reader, chain, place), before, f"{tool.name}, read by {reader.name}")
            self.check(chain, place)

    def test_the_overlay_gets_what_qemu_img_would_give_it(self):
        """Data by the same clusters, and the same left to the backing file."""
        for kind in ("plain", "small", "subclusters"):
            with self.subTest(kind=kind):
                folder = self.scratch("made")
                self.make_chain(folder, ["a", "top"], ["plain", kind], [2 * MIB, 2 * MIB])
                self.make_chain(folder, ["x"], ["plain"], [2 * MIB])
                folders = self.copies(folder)
                maps = []
                for tool in (QEMU_TOOL, COMPAT_TOOL):
                    place = folders[tool.name]
                    self.ok(tool.img("rebase", "-b", "x", "-F", "qcow2", os.path.join(place, "top")))
                    maps.append([(e["start"], e["length"], e["depth"]) for e in self.ok(qemu_img(
                        "map", "--output=json", os.path.join(place, "top"))).json() if not e["zero"] and e["depth"]])
                self.assertEqual(maps[0], maps[1])
                self.forget(folder, *folders.values())

    def test_flatten(self):
        folder = self.scratch("made")
        chain = self.make_chain(folder, ["a", "b", "top"], ["raw", "aes", "luks"], [MIB, 2 * MIB, 3 * MIB])
        before = self.shows(QEMU_TOOL, chain, folder)
        self.ok(cofre("rebase", *self.objects(), "--image-opts", "-b", "", self.name_of(chain, folder)))
        for below in ("a", "b"):
            os.unlink(os.path.join(folder, below))
        for reader in (QEMU_TOOL, COFRE_TOOL):
            self.same_bytes(self.shows(reader, chain[:1], folder), before, reader.name)
        self.check(chain[:1], folder)

    def test_gaps_shorter_than_a_cluster(self):
        """Parts that need no copying, at a cluster's start and shorter than it, beside others that do."""
        folder = self.scratch("made")
        base, top = (os.path.join(folder, name) for name in ("base", "top"))
        self.ok(qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", base, "4M"))
        self.ok(run(QEMU_IO, "-c", "write -P 7 512k 64k", "-c", "write -P 8 1228k 4k", "-c", "write -P 9 2M 800k", base))
        self.ok(qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=1M", "-b", base, "-F", "qcow2", top))
        self.ok(qemu_img("convert", "-O", "raw", top, os.path.join(folder, "before")))
        self.ok(cofre("rebase", "-b", "", top, timeout=60))
        os.unlink(base)
        self.ok(qemu_img("compare", "-f", "raw", "-F", "qcow2", os.path.join(folder, "before"), top))

    def test_compressed(self):
        folder = self.scratch("made")
        chain = self.make_chain(folder, ["a", "top"], ["plain", "plain"], [4 * MIB, 4 * MIB])
        self.ok(run(QEMU_IO, "-c", "write -P 7 1M 2M", os.path.join(folder, "a")))
        before = self.shows(QEMU_TOOL, chain, folder)
        self.ok(cofre("rebase", "-c", "-b", "", os.path.join(folder, "top")))
        self.same_bytes(self.shows(QEMU_TOOL, chain[:1], folder), before, "compressed")
        said = self.ok(qemu_img("check", "--output=json", os.path.join(folder, "top"))).json()
        self.assertGreater(said["compressed-clusters"], 16)

    def test_unsafe_needs_no_key(self):
        folder = self.scratch("made")
        chain = self.make_chain(folder, ["a", "top"], ["luks", "luks"], [MIB, MIB])
        before = self.shows(QEMU_TOOL, chain, folder)
        os.rename(os.path.join(folder, "a"), os.path.join(folder, "moved"))
        self.ok(cofre("rebase", "-u", "-b", "moved", "-F", "qcow2", os.path.join(folder, "top")))
        self.same_bytes(self.shows(QEMU_TOOL, chain, folder), before, "moved")
        info = self.ok(qemu_img("info", "--output=json", os.path.join(folder, "top"))).json()
        self.assertEqual(info["backing-filename"], "moved")

    def test_one_passphrase_for_the_chain(self):
        key = self.secret("one for all", "key")
        for name, options in (("a", aes_options("k")), ("b", luks_options("k")), ("top", luks_options("k")),
                              ("x", luks_options("k"))):
            backing = {"b": ["-u", "-b", "a", "-F", "qcow2"], "top": ["-u", "-b", "b", "-F", "qcow2"]}.get(name, [])
            self.ok(qemu_img("create", "-q", "--object", f"secret,id=k,file={key}", "-f", "qcow2", *backing,
                             "-o", options, self.path(name), "1M"))
        for name in ("a", "b", "x"):
            self.ok(cofre("io", "--passphrase-file", key, "-c", "write -P 9 64k 300k", self.path(name)))
        self.ok(cofre("convert", "--passphrase-file", key, "-O", "raw", self.path("top"), self.path("before")))
        self.ok(cofre("rebase", "--passphrase-file", key, "-b", "x", "-F", "qcow2", self.path("top")))
        self.ok(cofre("compare", "--passphrase-file", key, self.path("before"), self.path("top")))
        self.ok(cofre("rebase", "--passphrase-file", key, "-b", "b", "-F", "qcow2", self.path("top")))
        self.ok(cofre("io", "--passphrase-file", key, "-c", "write -P 8 0 4k", self.path("top")))
        self.ok(cofre("map", "--output=json", "--passphrase-file", key, self.path("top")))
        self.ok(cofre("commit", "--passphrase-file", key, self.path("top")))
        self.ok(cofre("io", "--passphrase-file", key, "-r", "-c", "read -P 8 0 4k", self.path("b")))
        self.ok(cofre("convert", "--passphrase-file", key, "-O", "raw", self.path("b"), self.path("after")))
        self.ok(cofre("compare", "--passphrase-file", key, self.path("after"), self.path("top")))

    def test_refusals(self):
        folder = self.scratch("made")
        self.make_chain(folder, ["a", "top"], ["plain", "plain"], [MIB, MIB])
        self.ok(qemu_img("create", "-q", "-f", "raw", os.path.join(folder, "raw"), "1M"))
        before = self.read_file(os.path.join(folder, "top"))
        for args in (["top"], ["-b", "a", "top"], ["-u", "-b", "a", "top"], ["-b", "none", "-F", "raw", "top"],
                     ["-b", "a", "-F", "nonsense", "top"], ["-b", "top", "-F", "qcow2", "top"],
                     ["-f", "raw", "-b", "a", "-F", "qcow2", "raw"], ["-f", "raw", "-u", "-b", "", "raw"],
                     ["-u", "-b", "x" * 1100, "-F", "raw", "top"], ["-t", "bad", "-b", "", "top"],
                     ["-T", "bad", "-b", "", "top"], ["-b", "a", "-F", "qcow2", "top", "a"], ["-z", "top"]):
            with self.subTest(args=args):
                self.assertEqual(qemu_img("rebase", *args, cwd=folder).code, 1)
                self.refused(COMPAT_TOOL.img("rebase", *args, cwd=folder), code=1)
                self.assertEqual(self.read_file(os.path.join(folder, "top")), before)


class Interrupted(ChainCase):
    """Ctrl-C in the middle: the status says so, the images show what they showed, and no check finds even a leak."""

    SIZE = 48 * MIB

    def setUp(self):
        super().setUp()
        self.folder = self.scratch("made")
        self.write_file("made/base", self.rng.randbytes(self.SIZE))
        self.ok(cofre("create", "-q", *self.objects(), "-f", "qcow2", "-b", "base", "-F", "raw", "-o",
                      luks_options("s1", cipher_alg="serpent-256"), os.path.join(self.folder, "top")))
        self.chain = [{"name": "top", "format": "qcow2", "secret": "s1"}, {"name": "base", "format": "raw", "secret": ""}]

    def interrupt(self, *args, ready):
        process = subprocess.Popen([COFRE, *args], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + TIMEOUT_S
        while not ready():
            self.assertIsNone(process.poll(), "it ended before it could be stopped")
            self.assertLess(time.monotonic(), deadline, "it did not start")
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=TIMEOUT_S)
        self.assertEqual(process.returncode, 130, said)
        self.assertIn("cancelled", said)

    def test_rebase(self):
        top = os.path.join(self.folder, "top")
        before = self.shows(COFRE_TOOL, self.chain, self.folder)
        empty = os.stat(top).st_size
        self.interrupt("rebase", *self.objects(), "-b", "", "--image-opts", self.name_of(self.chain, self.folder),
                       ready=lambda: os.stat(top).st_size > empty + 4 * MIB)
        self.same_bytes(self.shows(QEMU_TOOL, self.chain, self.folder), before, "interrupted")
        self.check(self.chain, self.folder)
        self.assertEqual(self.ok(qemu_img("info", "--output=json", top)).json()["backing-filename"], "base")

    def test_commit(self):
        base = os.path.join(self.folder, "base")
        self.io(COFRE_TOOL, Image(os.path.join(self.folder, "top"), "qcow2", self.secrets["s1"], "s1"),
                "write -P 7 0 32M")
        before = self.shows(COFRE_TOOL, self.chain, self.folder)
        sevens = b"\7" * 4096

        def begun():
            with open(base, "rb") as file:
                return file.read(4096) == sevens

        self.interrupt("commit", *self.objects(), "-r", "4M", "--image-opts", self.name_of(self.chain, self.folder),
                       ready=begun)
        self.same_bytes(self.shows(QEMU_TOOL, self.chain, self.folder), before, "interrupted")
        self.check(self.chain, self.folder)
        self.ok(cofre("commit", *self.objects(), "--image-opts", self.name_of(self.chain, self.folder)))
        self.same_bytes(self.read_file(base), before, "given again")


class Commit(ChainCase):
    def test_random_chains(self):
        for number in range(ROUNDS):
            folder = self.scratch("made")
            chain = self.make_chain(folder, ["a", "b", "top"], [self.random_kind(i == 0) for i in range(3)])
            # QEMU leaves noise in the room that a container grows by.
            if chain[2]["format"] == "luks" and chain[0]["size"] > chain[2]["size"]:
                base = 1
            else:
                base = self.rng.choice([1, 1, 2])
            with self.subTest(round=number, chain=chain, base=base):
                self.commit_both(folder, chain, base, self.rng.random() < 0.3)
            self.forget_all()

    def commit_both(self, folder, chain, base, keep):
        before = self.shows(QEMU_TOOL, chain, folder)
        folders = self.copies(folder)
        lengths = []
        for tool in (QEMU_TOOL, COMPAT_TOOL) if self.qemu_can(chain, base) else (COMPAT_TOOL,):
            place = folders[tool.name]
            args = (["-d"] if keep else []) + (["-b", chain[base]["name"]] if base > 1 else [])
            result = self.ok(tool.img("commit", *self.objects(), *args, "--image-opts", self.name_of(chain, place)))
            self.assertEqual(result.out, "Image committed.\n")
            for reader in (QEMU_TOOL, COFRE_TOOL):
                self.same_bytes(self.shows(reader, chain, place), before, f"{tool.name}, read by {reader.name}")
                alone = self.shows(reader, chain[base:], place)
                self.same_bytes(alone[:len(before)], before, f"{tool.name}: the base, read by {reader.name}")
            lengths.append(len(alone))
            self.check(chain, place)
            own = {e["depth"] for e in self.ok(qemu_img("map", *self.objects(), "--output=json", "--image-opts",
                                                        self.name_of(chain, place))).json()}
            if not keep and base == 1:
                self.assertNotIn(0, own, "the top is empty")
        self.assertEqual(len(set(lengths)), 1)

    def qemu_can(self, chain, base):
        # Where keys are given for layers below, QEMU knows these by json: names only, and finds no other.
        if base > 1 and any(layer["secret"] for layer in chain[1:]):
            return False
        # It does not grow an image over a longer backing file without zero clusters to hide that.
        below = chain[base + 1:]
        grows_bare = chain[base]["kind"] == "v2" and chain[0]["size"] > chain[base]["size"]
        return not (grows_bare and below and below[0]["size"] > chain[base]["size"])

    def test_a_container_grows_by_zeros(self):
        folder = self.scratch("made")
        chain = self.make_chain(folder, ["a", "top"], ["container", "plain"], [MIB, 3 * MIB])
        before = self.shows(QEMU_TOOL, chain, folder)
        self.ok(cofre("commit", *self.objects(), "--image-opts", self.name_of(chain, folder)))
        for part in (chain, chain[1:]):
            self.same_bytes(self.shows(QEMU_TOOL, part, folder), before, "the container")

    def test_snapshots_of_the_top_stay(self):
        folder = self.scratch("made")
        chain = self.make_chain(folder, ["a", "top"], ["plain", "plain"], [MIB, MIB])
        top = os.path.join(folder, "top")
        self.ok(qemu_img("snapshot", "-c", "kept", top))
        self.scribble(folder, chain)
        before = self.shows(QEMU_TOOL, chain, folder)
        kept = self.snapshot(top)
        self.ok(cofre("commit", "-q", top))
        self.same_bytes(self.shows(QEMU_TOOL, chain, folder), before, "after the commit")
        self.same_bytes(self.snapshot(top), kept, "the snapshot's own clusters")
        self.check(chain, folder)

    def snapshot(self, top):
        """What the clusters of the snapshot hold, without those of the backing file."""
        alone = os.path.join(self.dir, "alone")
        shutil.copyfile(top, alone)
        self.ok(qemu_img("rebase", "-u", "-b", "", alone))
        self.ok(qemu_img("convert", "-l", "kept", "-O", "raw", alone, os.path.join(self.dir, "kept.raw")))
        return self.read_file(os.path.join(self.dir, "kept.raw"))

    def test_refusals(self):
        folder = self.scratch("made")
        self.make_chain(folder, ["a", "top"], ["plain", "plain"], [MIB, MIB])
        before = self.read_file(os.path.join(folder, "a"))
        for args in ([], ["a"], ["-b", "none", "top"], ["-b", "top", "top"], ["-t", "bad", "top"], ["-r", "x", "top"],
                     ["top", "a"], ["-z", "top"], ["missing"], ["-f", "raw", "top"]):
            with self.subTest(args=args):
                self.assertEqual(qemu_img("commit", *args, cwd=folder).code, 1)
                self.refused(COMPAT_TOOL.img("commit", *args, cwd=folder), code=1)
                self.assertEqual(self.read_file(os.path.join(folder, "a")), before)

    def test_a_backing_file_in_use_is_refused(self):
        folder = self.scratch("made")
        self.make_chain(folder, ["a", "top"], ["plain", "plain"], [MIB, MIB])
        with Interactive(QEMU_IO, os.path.join(folder, "a")) as user:
            user.command("length", "1 MiB")
            self.refused(cofre("commit", os.path.join(folder, "top")), "in use")


if __name__ == "__main__":
    unittest.main()
