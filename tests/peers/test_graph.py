"""Names of images as QEMU's command line has them: nested options, json:, protocols, filters. The same words go to
qemu-img or qemu-io and to Cofre's personality of it: exit codes, what info and map tell, and guest bytes must agree."""

import json
import os
import subprocess
import time
import unittest

from cofre_peers import COFRE, COMPAT_DIR, MIB, QEMU_IMG, QEMU_IO, PeerCase, compat, run
from serving import Server

NBD = "qemu-nbd"
NBDKIT = "nbdkit"


def theirs(tool, *args, **how):
    return run({"qemu-img": QEMU_IMG, "qemu-io": QEMU_IO}[tool], *args, **how)


def parsed(name):
    """A json: name as a value: QEMU's order of keys is that of its hash table."""
    return json.loads(name[5:]) if name.startswith("json:") else name


class GraphTest(PeerCase):

    def setUp(self):
        super().setUp()
        self.raw = self.path("r.img")
        with open(self.raw, "wb") as file:
            file.write(self.rng.randbytes(MIB + 1424))
        self.base = self.path("a.qcow2")
        self.top = self.path("b.qcow2")
        self.ok(theirs("qemu-img", "create", "-f", "qcow2", self.base, "8M"))
        self.ok(theirs("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 64k", "-c", "write -P 2 1M 8k", self.base))
        self.ok(theirs("qemu-img", "create", "-f", "qcow2", "-b", self.base, "-F", "qcow2", self.top))
        self.ok(theirs("qemu-io", "-f", "qcow2", "-c", "write -P 3 2M 64k", self.top))

    def both(self, tool, *args):
        """Runs both; exit codes agree."""
        mine, other = compat(tool, *args), theirs(tool, *args)
        self.assertEqual(mine.code, other.code, f"{mine}\n{other}")
        return mine, other

    def same_info(self, *name):
        """What info tells of the name: format, size, and the name itself."""
        mine, other = self.both("qemu-img", "info", "--output", "json", *name)
        if other.code != 0:
            return
        for key in ("format", "virtual-size", "filename", "cluster-size"):
            self.assertEqual(parsed(str(mine.json().get(key))), parsed(str(other.json().get(key))), f"{key}: {mine}\n{other}")

    def same_map(self, *name):
        mine, other = self.both("qemu-img", "map", "--output", "json", *name)
        if other.code == 0:
            self.assertEqual(mine.json(), other.json(), f"{mine}\n{other}")

    def same_content(self, *name):
        """Both convert the image to the same raw bytes."""
        mine, other = self.path("mine.raw"), self.path("other.raw")
        first = compat("qemu-img", "convert", "-O", "raw", *name, mine)
        second = theirs("qemu-img", "convert", "-O", "raw", *name, other)
        self.assertEqual(first.code, second.code, f"{first}\n{second}")
        if second.code != 0:
            return
        with open(mine, "rb") as a, open(other, "rb") as b:
            self.assertTrue(a.read() == b.read(), f"{first}\n{second}")


class NameTable(GraphTest):

    def table(self):
        raw, base, top = self.raw, self.base, self.top
        colon = os.path.join(self.dir, "co:lon.img")
        with open(colon, "wb") as file:
            file.write(b"x" * 4096)
        names = [["-f", "qcow2", f'json:{{"driver":"raw","file":{{"driver":"file","filename":"{base}"}}}}'],
                 ["-f", "raw", f'json:{{"driver":"qcow2","file":{{"driver":"file","filename":"{base}"}}}}'],
                 [f'json:{{"driver":"qcow2","backing":null,"file":{{"driver":"file","filename":"{top}"}}}}'],
                 [f'json:{{"file":{{"filename":"{top}"}}}}'], [f"file:{base}"], [f"file:{colon}"], [colon],
                 [f"host_device:{raw}"], ["fat-of-things:x"], ["nbd:localhost"], ["null-co:"], [""],
                 ["nbd+unix:///e"], ["nbd+unix:///e?socket=/nonexistent/s"], ["nbd:unix:/nonexistent/s"]]
        options = [f"driver=file,filename={raw}", f"driver=qcow2,filename={base}", f"filename={base}", base,
                   f"file={base}", f"file.filename={base}", f"driver=raw,file.filename={raw},offset=512,size=1024",
                   f"driver=raw,file.filename={raw},offset=512", f"driver=raw,file.filename={raw},offset=511",
                   f"driver=raw,file.filename={raw},size=1000", f"driver=raw,file.filename={raw},offset=512,size=10M",
                   f"driver=raw,file.filename={raw},offset=2M", f"driver=raw,file.filename=file:{raw}",
                   f"driver=host_device,filename={raw}", f"driver=vmdk-like,file.filename={raw}",
                   f"driver=qcow2,file.driver=raw,file.offset=0,file.size={os.path.getsize(base) // 512 * 512},file.file.filename={base}",
                   f"driver=qcow2,file.driver=raw,file.offset=512,file.file.filename={raw}",
                   f"driver=qcow2,file.driver=qcow2,file.file.filename={base}",
                   f"driver=throttle,file.driver=qcow2,file.file.filename={top}",
                   f"driver=throttle,throttle-group=none,file.driver=qcow2,file.file.filename={top}",
                   f"driver=copy-on-read,file.driver=qcow2,file.file.filename={top}",
                   f"driver=blkdebug,image.filename={base},align=4096", "driver=null-co,size=1M,read-zeroes=on",
                   "driver=null-aio,size=1M,read-zeroes=on", "driver=null-co,colour=red",
                   f"driver=qcow2,file.filename={top},backing=", f"driver=qcow2,file.filename={top},backing=null",
                   f"driver=raw,file.driver=nbd,file.path=/nonexistent/s,file.host=x"]
        return [[n] if isinstance(n, str) else n for n in names] + [["--image-opts", o] for o in options]

    def test_info(self):
        for name in self.table():
            with self.subTest(name=name):
                self.same_info(*name)

    def test_content(self):
        for name in self.table():
            with self.subTest(name=name):
                self.same_content(*name)

    def test_options_of_qcow2_and_nodes(self):
        """Each is taken or refused as QEMU does."""
        for option in ("lazy-refcounts=on", "pass-discard-request=on", "pass-discard-request=x", "pass-discard-snapshot=off",
                       "pass-discard-other=on", "discard-no-unref=on", "overlap-check=all", "overlap-check=foo",
                       "overlap-check=all,overlap-check.template=none", "overlap-check.template=cached",
                       "overlap-check.main-header=on", "overlap-check.bar=on", "cache-size=1M", "l2-cache-size=16",
                       "l2-cache-size=16X", "l2-cache-entry-size=4096", "l2-cache-entry-size=1000",
                       "l2-cache-entry-size=131072", "refcount-cache-size=1M", "cache-clean-interval=5",
                       "cache-clean-interval=x", "cache-clean-interval=18446744073709551615",
                       "cache-size=1M,l2-cache-size=2M", "cache-size=1M,refcount-cache-size=2M",
                       "cache-size=3M,refcount-cache-size=2M,l2-cache-size=1M", "encrypt.format=luks", "detect-zeroes=on",
                       "detect-zeroes=foo", "detect-zeroes=unmap", "detect-zeroes=unmap,discard=unmap", "discard=on",
                       "discard=foo", "auto-read-only=on", "read-only=on", "force-share=on", "cache.direct=maybe",
                       "cache.no-flush=on", "cache.writeback=off", "copy-on-read=on", "bogus=1", "node-name=n1",
                       "node-name=1n", "file.locking=auto", "file.locking=off", "file.locking=foo", "file.aio=threads",
                       "file.aio=native", "file.bogus=1", "file.read-only=on", "file.node-name=f", "file.drop-cache=off",
                       "file.x-check-cache-dropped=on", "file.aio-max-batch=4", "file.pr-manager=x", "file.driver=foo",
                       "file.force-share=on", f"data-file.filename={self.raw}", "key-secret=k", "offset=1", "size=5"):
            name = f"driver=qcow2,file.filename={self.base},{option}"
            with self.subTest(option=option):
                self.both("qemu-img", "map", "--image-opts", name)
        for option in ("read-only=on", "force-share=on", "lazy-refcounts=on", "auto-read-only=on", "detect-zeroes=on",
                       "cache-size=1M", "l2-cache-size=512", "pass-discard-other=on"):
            name = f"driver=qcow2,file.filename={self.base},{option}"
            with self.subTest(writing=option):
                self.both("qemu-io", "--image-opts", "-c", "write -P 7 3M 64k", "-c", "read -P 7 3M 64k", name)
                self.ok(theirs("qemu-img", "check", self.base))

    def test_a_window_of_a_raw_image_is_written(self):
        for offset, size in ((512, None), (4096, 8192), (511, 1024)):
            name = f"driver=raw,offset={offset},file.filename={self.raw}" + (f",size={size}" if size else "")
            with self.subTest(name=name):
                self.ok(compat("qemu-io", "--image-opts", "-c", "write -P 0x5a 512 512", name))
                self.ok(theirs("qemu-io", "--image-opts", "-c", "read -P 0x5a 512 512", name))
                self.ok(theirs("qemu-io", "--image-opts", "-c", "write -P 0xa5 0 1k", name))
                self.ok(compat("qemu-io", "--image-opts", "-c", "read -P 0xa5 0 1k", name))
                self.same_content("--image-opts", name)

    def test_a_window_across_holes_and_odd_bytes_is_mapped(self):
        """qemu-img fails an assertion there."""
        path = self.path("holes.img")
        with open(path, "wb") as file:
            file.write(b"a" * 10_000)
            file.seek(200_000)
            file.write(b"b" * 3_000)
        for offset in (1, 511, 4097):
            name = "json:" + json.dumps({"driver": "raw", "offset": offset, "file": {"driver": "file", "filename": path}})
            entries = self.ok(compat("qemu-img", "map", "--output=json", name)).json()
            info = self.ok(theirs("qemu-img", "info", "--output=json", name)).json()
            self.assertEqual(sum(entry["length"] for entry in entries), info["virtual-size"])
            data = [entry for entry in entries if entry["data"] and not entry["zero"]]
            self.assertLessEqual(data[0]["start"], 0)
            self.assertTrue(any(e["start"] <= 200_000 - offset < e["start"] + e["length"] for e in data), entries)

    def test_backing_options(self):
        with open(self.path("other.img"), "wb") as file:
            file.write(b"z" * (8 * MIB))
        for backing in (f"backing.driver=raw,backing.file.filename={self.path('other.img')}", "backing.driver=raw",
                        "backing.discard=unmap", "backing.bogus=1",
                        f"backing.driver=null-co,backing.size=1M,backing.file.filename={self.raw}"):
            with self.subTest(backing=backing):
                self.same_content("--image-opts", f"driver=qcow2,file.filename={self.top},{backing}")

    def test_a_qcow2_header_names_json(self):
        image = self.path("named.qcow2")
        backing = f'json:{{"driver":"qcow2","file":{{"driver":"file","filename":"{self.base}"}}}}'
        self.ok(theirs("qemu-img", "create", "-f", "qcow2", "-b", backing, "-F", "qcow2", image))
        self.same_content(image)


class Filters(GraphTest):

    def test_throttle(self):
        name = f"driver=throttle,throttle-group=t,file.driver=qcow2,file.file.filename={self.top}"
        for limits, good in (("x-bps-total=100000000", True), ("limits.iops-read=1000", True), ("bps-total=1", False),
                             ("x-bps-total=100,x-bps-read=1", False), ("x-bps-total-max=5", False),
                             ("x-bps-total=100,x-bps-total-max=5", False),
                             ("x-bps-write=1000000,x-bps-write-max=2000000,x-bps-write-max-length=3", True)):
            group = ["--object", f"throttle-group,id=t,{limits}"]
            with self.subTest(limits=limits):
                mine, _ = self.both("qemu-img", "info", *group, "--image-opts", name)
                self.assertEqual(mine.code == 0, good, mine)
                if good:
                    self.same_content(*group, "--image-opts", name)
        group = ["--object", "throttle-group,id=t,x-bps-total=50000000"]
        self.same_info(*group, "--image-opts", name)
        below = f"driver=qcow2,file.driver=throttle,file.throttle-group=t,file.file.filename={self.top}"
        self.same_info(*group, "--image-opts", below)
        self.same_content(*group, "--image-opts", below)
        self.ok(compat("qemu-io", *group, "--image-opts", "-c", "write -P 9 4M 128k", below))
        self.ok(theirs("qemu-io", "-c", "read -P 9 4M 128k", self.top))

    def test_copy_on_read(self):
        copies = []
        for run_tool in (compat, theirs):
            image = self.path("cor.qcow2")
            self.ok(theirs("qemu-img", "create", "-f", "qcow2", "-b", self.base, "-F", "qcow2", image))
            name = f"driver=copy-on-read,file.driver=qcow2,file.file.filename={image}"
            self.ok(run_tool("qemu-io", "--image-opts", "-c", "read -P 1 0 64k", "-c", "read -P 0 256k 1k",
                                "-c", "read -P 2 1M 4k", name))
            self.ok(theirs("qemu-img", "check", image))
            extents = self.ok(theirs("qemu-img", "map", "--output", "json", image)).json()
            copies.append([{k: e[k] for k in ("start", "length", "depth", "zero")} for e in extents])
        self.assertEqual(copies[0], copies[1])

    def test_detect_zeroes(self):
        for mode in ("detect-zeroes=on", "detect-zeroes=unmap,discard=unmap"):
            for run_tool in (compat, theirs):
                image = self.path("zeroes.qcow2")
                self.ok(theirs("qemu-img", "create", "-f", "qcow2", image, "1M"))
                self.ok(run_tool("qemu-io", "--image-opts", "-c", "write -P 0 0 128k", "-c", "write -P 5 128k 64k",
                                    f"driver=qcow2,file.filename={image},{mode}"))
                extents = self.ok(theirs("qemu-img", "map", "--output", "json", image)).json()
                self.assertEqual([e["data"] for e in extents], [False, True, False])

    def test_null(self):
        for name in (["null-co://"], ["--image-opts", "driver=null-aio,size=1M"],
                     ["--image-opts", "driver=null-co,size=1M,read-zeroes=on,latency-ns=1000"]):
            with self.subTest(name=name):
                self.same_info(*name)
                self.ok(compat("qemu-io", "-c", "write 0 64k", "-c", "read 0 64k", "-c", "flush", *name))

        self.same_map("--image-opts", "driver=null-co,size=1M,read-zeroes=on")
        self.ok(compat("qemu-io", "--image-opts", "-c", "read -P 0 0 64k", "driver=null-co"))

    def test_blkverify(self):
        copy = self.path("copy.raw")
        self.ok(theirs("qemu-img", "convert", "-O", "raw", self.base, copy))
        name = f"blkverify:{copy}:{self.base}"
        self.same_content("-f", "raw", name)
        self.ok(compat("qemu-io", "-f", "raw", "-c", "write -P 6 0 4k", "-c", "read -P 6 0 4k", name))
        self.ok(theirs("qemu-img", "compare", "-f", "raw", "-F", "qcow2", copy, self.base))
        self.ok(theirs("qemu-io", "-f", "raw", "-c", "write -P 8 0 512", copy))
        self.both("qemu-io", "-f", "raw", "-c", "read 0 4k", name)

    def test_blkdebug_fails_where_qemu_does(self):
        for rules, command in (("inject-error.0.event=none", "read 0 64k"),
                               ("inject-error.0.event=read_aio", "read 0 64k"),
                               ("inject-error.0.event=l2_load", "read 0 64k"),
                               ("inject-error.0.event=l2_update", "write 4M 64k"),
                               ("inject-error.0.event=write_aio", "write 0 64k"),
                               ("inject-error.0.event=cluster_alloc", "write 4M 64k"),
                               ("inject-error.0.event=flush_to_os,inject-error.0.iotype=flush", "write 0 4k;flush"),
                               ("inject-error.0.event=flush_to_disk,inject-error.0.iotype=read", "write 0 4k;flush;read 0 4k"),
                               ("inject-error.0.event=read_aio,inject-error.0.sector=0", "read 0 64k"),
                               ("inject-error.0.event=write_aio,inject-error.0.iotype=read", "write 0 64k"),
                               ("set-state.0.event=read_aio,set-state.0.new_state=2,"
                                "inject-error.0.event=read_aio,inject-error.0.state=2", "read 0 64k"),
                               ("inject-error.0.event=nonsense", "read 0 64k"), ("inject-error.0.errno=5", "read 0 64k"),
                               ("bogus=1", "read 0 64k"), ("align=3", "read 0 64k")):
            name = f"driver=qcow2,file.driver=blkdebug,file.image.filename={self.base}," + \
                ",".join(rule if rule.startswith("bogus") else f"file.{rule}" for rule in rules.split(","))
            with self.subTest(rules=rules):
                self.both("qemu-io", "--image-opts", *(word for part in command.split(";") for word in ("-c", part)), name)

    def test_an_error_that_comes_once(self):
        """Its event comes with each of these reads, and the image is as good as before after the first."""
        image = json.dumps({"driver": "qcow2", "file": {
            "driver": "blkdebug", "inject-error": [{"event": "l2_load", "errno": 5, "once": True}],
            "image": {"driver": "file", "filename": self.base}}})
        self.both("qemu-io", "-c", "read 0 64k", "-c", "read 0 64k", "-c", "read 1M 64k", "json:" + image)

    def test_blkdebug_configuration(self):
        config = self.path("rules.conf")
        with open(config, "w", encoding="utf-8") as file:
            file.write('# once\n[inject-error]\nevent = "read_aio"\nerrno = "28"\nonce = "on"\n')
        for commands in (["-c", "read 0 64k"], ["-c", "read 0 64k", "-c", "read -P 1 0 64k"]):
            mine, _ = self.both("qemu-io", *commands, "-f", "qcow2", f"blkdebug:{config}:{self.base}")
            self.assertIn("No space left on device", mine.out)


class Nbd(GraphTest):

    def setUp(self):
        super().setUp()
        self.socket = self.path("s")

    def server(self, image, *args):
        return Server(self.socket, NBD, "-k", self.socket, "-t", "-e", "8", *args, image)

    def test_names(self):
        with self.server(self.base, "-f", "raw", "-x", "exp"):
            for name in ([f"nbd+unix:///exp?socket={self.socket}"], [f"nbd:unix:{self.socket}:exportname=exp"],
                         ["-f", "raw", f"nbd:unix:{self.socket}:exportname=exp"],
                         ["--image-opts", f"driver=nbd,path={self.socket},export=exp"],
                         ["--image-opts", f"driver=nbd,server.type=unix,server.path={self.socket},export=exp"],
                         ["--image-opts", f"driver=qcow2,file.driver=nbd,file.server.type=unix,"
                                          f"file.server.path={self.socket},file.export=exp"],
                         ["--image-opts", f"driver=nbd,path={self.socket},export=other"],
                         ["--image-opts", f"driver=nbd,path={self.socket},export=exp,bogus=1"]):
                with self.subTest(name=name):
                    self.same_info(*name)
                    self.same_map(*name)
                    self.same_content(*name)

    def test_a_raw_export(self):
        with self.server(self.top, "-f", "qcow2"):
            name = f"nbd:unix:{self.socket}"
            self.same_map("-f", "raw", name)
            self.same_content("-f", "raw", name)
            self.both("qemu-img", "compare", "-f", "raw", "-F", "qcow2", name, self.top)
            mine = compat("qemu-io", "-f", "raw", "-c", "write -P 0x11 64k 128k", "-c", "write -z 1M 64k", "-c", "flush",
                        "-c", "discard 2M 64k", "-c", "write -f -P 0x22 3M 4k", "-c", "read -P 0x11 64k 128k",
                        "-c", "read -P 0 1M 64k", "-c", "read -P 0x22 3M 4k", name)
            self.ok(mine)
            self.ok(theirs("qemu-io", "-f", "raw", "-c", "read -P 0x11 64k 128k", "-c", "read -P 0 1M 64k",
                              "-c", "read -P 0x22 3M 4k", name))
        self.ok(theirs("qemu-img", "check", self.top))

    def test_convert_into_an_export(self):
        source = self.path("big.raw")
        with open(source, "wb") as file:
            file.write(self.rng.randbytes(3 * MIB) + b"\0" * (3 * MIB) + self.rng.randbytes(2 * MIB))
        with self.server(self.base, "-f", "qcow2"):
            self.ok(compat("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, f"nbd:unix:{self.socket}"))
        self.ok(theirs("qemu-img", "compare", "-f", "raw", "-F", "qcow2", source, self.base))

    def test_encrypted_images_over_nbd(self):
        key = self.path("key")
        with open(key, "w", encoding="utf-8") as file:
            file.write("open sesame")
        secret = ["--object", f"secret,id=s0,file={key}"]
        for kind, options, opening in (("qcow2", "encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10",
                                        "encrypt.key-secret=s0"), ("luks", "key-secret=s0,iter-time=10", "key-secret=s0")):
            image = self.path(f"enc.{kind}")
            self.ok(compat("qemu-img", "create", *secret, "-f", kind, "-o", options, image, "4M"))
            if kind == "qcow2":
                os.truncate(image, 8 * MIB)  # an export does not grow
            with self.subTest(kind=kind), self.server(image, "-f", "raw"):
                name = f"driver={kind},{opening},file.driver=nbd,file.server.type=unix,file.server.path={self.socket}"
                self.ok(compat("qemu-io", *secret, "--image-opts", "-c", "write -P 0x42 1M 256k", name))
                self.ok(theirs("qemu-io", *secret, "--image-opts", "-c", "read -P 0x42 1M 256k",
                                  "-c", "write -P 0x43 2M 64k", name))
                self.ok(compat("qemu-io", *secret, "--image-opts", "-c", "read -P 0x43 2M 64k", name))
                self.same_content(*secret, "--image-opts", name)

    def test_a_header_opens_no_connection_but_options_do(self):
        """Unlike QEMU, and on purpose: whoever made the image does not choose whom this host talks to."""
        with self.server(self.base, "-f", "raw", "-e", "8"):
            image = self.path("remote.qcow2")
            for name in (f"nbd+unix://?socket={self.socket}",
                         f'json:{{"driver":"qcow2","file":{{"driver":"nbd","path":"{self.socket}"}}}}'):
                self.ok(theirs("qemu-img", "create", "-f", "qcow2", "-b", name, "-F", "qcow2", image))
                refused = compat("qemu-img", "convert", "-O", "raw", image, self.path("no.raw"))
                self.assertEqual(refused.code, 1, refused)
                self.assertIn("opens no connection by itself", refused.err)
                self.assertEqual(compat("qemu-img", "info", "--backing-chain", image).code, 1)
                mine, other = self.path("mine.raw"), self.path("other.raw")
                self.ok(compat("qemu-img", "convert", "-O", "raw", "--image-opts",
                                f"driver=qcow2,file.filename={image},backing.driver=qcow2,backing.file.driver=nbd,"
                                f"backing.file.path={self.socket}", mine))
                self.ok(theirs("qemu-img", "convert", "-O", "raw", image, other))
                self.ok(theirs("qemu-img", "compare", "-f", "raw", "-F", "raw", mine, other))

    def test_a_read_only_export(self):
        with self.server(self.base, "-f", "raw", "-r"):
            name = f"nbd:unix:{self.socket}"
            self.both("qemu-io", "-f", "raw", "-c", "write 0 4k", name)
            self.both("qemu-io", "-r", "-f", "raw", "-c", "read 0 4k", name)

    def test_nbdkit(self):
        """A server of other make: blocks of 4 KiB, few abilities."""
        with Server(self.socket, NBDKIT, "-f", "-U", self.socket, "--filter=blocksize-policy", "memory", "8M",
                    "blocksize-minimum=4096", "blocksize-preferred=65536", "blocksize-maximum=1M",
                    "blocksize-error-policy=error"):
            name = f"nbd:unix:{self.socket}"
            self.ok(compat("qemu-io", "-f", "raw", "-c", "write -P 1 512 1k", "-c", "write -P 2 64k 4M",
                            "-c", "read -P 1 512 1k", "-c", "read -P 0 0 512", "-c", "read -P 2 64k 4M", name))
            self.ok(theirs("qemu-io", "-f", "raw", "-c", "read -P 1 512 1k", "-c", "read -P 2 64k 4M", name))
            self.same_map("-f", "raw", name)
        os.unlink(self.socket)
        with Server(self.socket, NBDKIT, "-f", "-U", self.socket, "--filter=nozero", "--filter=noextents",
                    "memory", "8M"):
            self.ok(compat("qemu-io", "-f", "raw", "-c", "write -P 1 0 64k", "-c", "write -z 0 32k", "-c", "read -P 0 0 32k",
                            "-c", "read -P 1 32k 32k", f"nbd:unix:{self.socket}"))

    def test_errors_of_the_server(self):
        with Server(self.socket, NBDKIT, "-f", "-U", self.socket, "--filter=error", "memory", "8M", "error-pread=ENOSPC",
                    "error-rate=100%"):
            mine = compat("qemu-io", "-f", "raw", "-c", "read 0 4k", f"nbd:unix:{self.socket}")
            self.assertEqual(mine.code, 1, mine)
            self.assertIn("No space left", mine.out)

    def test_a_dying_server(self):
        """An error, and an end: no waiting for what does not come."""
        with Server(self.socket, NBDKIT, "-f", "-U", self.socket, "--filter=delay", "memory", "8M", "delay-read=60") as server:
            client = subprocess.Popen([COFRE, "io", "-f", "raw", "-c", "read 0 4k", "-c", "read 4k 4k",
                                       f"nbd:unix:{self.socket}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            time.sleep(0.5)
            server.kill()
            out, _ = client.communicate(timeout=60)
        self.assertEqual(client.returncode, 1, out)
        for offset in (b"0", b"4096"):
            self.assertIn(b"the NBD server is gone: cannot read 4096 bytes at offset " + offset + b"\n", out)

    def test_a_server_that_comes_back(self):
        args = (NBDKIT, "-f", "-U", self.socket, "--filter=delay", "file", self.raw, "delay-read=1")
        with Server(self.socket, *args) as server:
            client = subprocess.Popen([os.path.join(COMPAT_DIR, "qemu-io"), "--image-opts", "-c", "read 0 4k", "-c", "read 4k 4k",
                                       f"driver=nbd,path={self.socket},reconnect-delay=30"],
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            time.sleep(0.5)
            server.kill()
        os.unlink(self.socket)
        with Server(self.socket, *args):
            out, _ = client.communicate(timeout=60)
        self.assertEqual(client.returncode, 0, out)

    def test_a_server_that_comes_late(self):
        client = subprocess.Popen([os.path.join(COMPAT_DIR, "qemu-io"), "--image-opts", "-c", "read 0 4k",
                                   f"driver=nbd,path={self.socket},open-timeout=30"],
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        time.sleep(0.3)
        with self.server(self.raw, "-f", "raw"):
            out, _ = client.communicate(timeout=60)
        self.assertEqual(client.returncode, 0, out)

    def test_tls_with_a_shared_key(self):
        folder = self.path("psk")
        os.mkdir(folder)
        with open(os.path.join(folder, "keys.psk"), "w", encoding="utf-8") as file:
            file.write("alice:" + "5a" * 32 + "\n")
        with self.server(self.base, "-f", "raw", "--object", f"tls-creds-psk,id=t,dir={folder},endpoint=server", "--tls-creds",
                         "t"):
            name = f"driver=qcow2,file.driver=nbd,file.path={self.socket},file.tls-creds=t"
            good = ["--object", f"tls-creds-psk,id=t,dir={folder},username=alice,endpoint=client"]
            self.same_info(*good, "--image-opts", name)
            self.same_content(*good, "--image-opts", name)
            self.both("qemu-img", "info", f"nbd:unix:{self.socket}")
            self.both("qemu-img", "info", "--image-opts", name)
            self.both("qemu-img", "info", "--object", f"tls-creds-psk,id=t,dir={folder},username=bob,endpoint=client",
                      "--image-opts", name)

    def make_certificates(self):
        folder = self.path("pki")
        os.mkdir(folder)
        with open(self.path("ca.info"), "w", encoding="utf-8") as file:
            file.write("cn = Cofre test\nca\ncert_signing_key\n")
        with open(self.path("server.info"), "w", encoding="utf-8") as file:
            file.write("cn = localhost\ndns_name = localhost\ntls_www_server\nencryption_key\nsigning_key\n")
        with open(self.path("client.info"), "w", encoding="utf-8") as file:
            file.write("cn = client\ntls_www_client\nencryption_key\nsigning_key\n")
        ca_key = self.path("ca-key.pem")
        ca = os.path.join(folder, "ca-cert.pem")
        self.ok(run("certtool", "--generate-privkey", "--ecc", "--outfile", ca_key))
        self.ok(run("certtool", "--generate-self-signed", "--load-privkey", ca_key, "--template", self.path("ca.info"),
                       "--outfile", ca))
        for role in ("server", "client"):
            key = os.path.join(folder, f"{role}-key.pem")
            self.ok(run("certtool", "--generate-privkey", "--ecc", "--outfile", key))
            self.ok(run("certtool", "--generate-certificate", "--load-ca-certificate", ca, "--load-ca-privkey", ca_key,
                           "--load-privkey", key, "--template", self.path(f"{role}.info"), "--outfile",
                           os.path.join(folder, f"{role}-cert.pem")))
        return folder

    def test_tls_with_certificates(self):
        folder = self.make_certificates()
        with self.server(self.base, "-f", "raw", "--object", f"tls-creds-x509,id=t,dir={folder},endpoint=server,verify-peer=on",
                         "--tls-creds", "t"):
            name = f"driver=qcow2,file.driver=nbd,file.path={self.socket},file.tls-creds=t"
            creds = ["--object", f"tls-creds-x509,id=t,dir={folder},endpoint=client"]
            self.ok(compat("qemu-img", "info", *creds, "--image-opts", name))
            self.ok(compat("qemu-io", "-r", *creds, "--image-opts", "-c", "read -P 1 0 64k", name))


if __name__ == "__main__":
    unittest.main(verbosity=2)
