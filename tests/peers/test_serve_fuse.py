"""`cofre serve --fuse`: the disk as a file for programs that know nothing of images: dd, cp, fallocate, mkfs.ext4, e2fsck, many
threads at once; its end by a signal, by umount, by a kill; and what qemu-storage-daemon's export of the kind has too.

Needs a system that lets this user mount through /dev/fuse."""

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import threading
import time
import unittest

from cofre_peers import (COFRE, COFRE_TOOL, KIB, LONG, MIB, QEMU_TOOL, SEED, TIMEOUT_S, Image, PeerCase, aes_options, cofre,
                         luks_options, qemu_img, qemu_io, random_disk, run)
from mounted import MountedImage, mount_without_server, mounted_type, why_not
from serving import uri_of

SIZE = 24 * MIB if LONG else 6 * MIB
CLUSTER = 64 * KIB
NOBODY = 65534
CUT_OFF = (errno.ENOTCONN, errno.ECONNABORTED)
STORAGE_DAEMON = shutil.which("qemu-storage-daemon")


def extents_of(path):
    """(start, end, is data) of each run of a file, as lseek(2) tells."""
    fd = os.open(path, os.O_RDONLY)
    try:
        size, at, found = os.fstat(fd).st_size, 0, []
        while at < size:
            try:
                data = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as fault:
                if fault.errno != errno.ENXIO:
                    raise
                data = size
            if data > at:
                found.append((at, data, False))
            if data == size:
                break
            at = os.lseek(fd, data, os.SEEK_HOLE)
            found.append((data, at, True))
        return found
    finally:
        os.close(fd)


def merged(runs):
    """The same with neighbours of one kind made one."""
    found = []
    for start, end, data in runs:
        if found and found[-1][2] == data:
            start = found.pop()[0]
        found.append((start, end, data))
    return found


class FuseCase(PeerCase):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if reason := why_not():
            raise unittest.SkipTest(reason)

    def image(self, kind="luks", size=SIZE, name="image"):
        if kind == "raw":
            return self.create(COFRE_TOOL, Image(self.path(name), "raw"), size)
        secret = self.secret(name=name + ".secret") if kind in ("luks", "aes") else ""
        options = {"luks": luks_options(), "aes": aes_options()}.get(kind, "")
        return self.create(COFRE_TOOL, Image(self.path(name), "qcow2", secret), size, options=options)

    def overlay(self, disk, size=SIZE):
        """An empty encrypted overlay of a plain image that holds `disk`."""
        base = self.image("qcow2", len(disk), "base")
        self.ok(qemu_img("convert", "-n", "-f", "raw", "-O", "qcow2", self.write_file("base.raw", disk), base.path))
        image = Image(self.path("overlay"), "qcow2", self.secret(name="overlay.secret"))
        return self.create(COFRE_TOOL, image, size, "-b", base.path, "-F", "qcow2", options=luks_options())

    def fill(self, image, disk):
        raw = self.write_file("fill.raw", disk)
        self.ok(qemu_img("convert", "-n", *image.object_args(), "-f", "raw", "--target-image-opts", raw, image.opts()))

    def mount(self, image, *args, at="disk"):
        return MountedImage(self.path(at), *image.args(), *args)

    def ended(self, server, code=0, how=signal.SIGTERM):
        self.assertEqual(server.stop(how), code, server.said())
        self.assertEqual(mounted_type(server.path), "", server.said())

    def fails(self, number, call, *args):
        with self.assertRaises(OSError) as caught:
            call(*args)
        self.assertEqual(caught.exception.errno, number, os.strerror(caught.exception.errno))

    def is_cut_off(self, call, *args):
        """The server is gone: the kernel says so at once in one way, and later in another."""
        with self.assertRaises(OSError) as caught:
            call(*args)
        self.assertIn(caught.exception.errno, CUT_OFF, os.strerror(caught.exception.errno))


class Content(FuseCase):

    def same_as_converted(self, image):
        content, _ = self.content(QEMU_TOOL, image)
        with self.mount(image) as server:
            found = self.ok(run("sha256sum", server.path)).out.split()[0]
            self.assertEqual(found, hashlib.sha256(content).hexdigest(), f"{image} COFRE_TEST_SEED={SEED}")
            self.ended(server)

    def test_every_kind_reads_as_it_converts(self):
        for kind in ("luks", "aes", "qcow2", "raw"):
            image = self.image(kind, name=kind)
            self.fill(image, random_disk(self.rng, SIZE))
            self.same_as_converted(image)

    def test_a_chain_and_a_size_of_odd_sectors(self):
        self.same_as_converted(self.overlay(random_disk(self.rng, SIZE // 2 - 512), SIZE + 512))

    def test_what_is_written_is_in_the_image(self):
        for kind in ("luks", "aes", "qcow2", "overlay"):
            disk = bytearray(random_disk(self.rng, SIZE))
            image = self.overlay(disk) if kind == "overlay" else self.image(kind, name=kind)
            if kind != "overlay":
                disk = bytearray(SIZE)
            with self.mount(image) as server:
                with open(server.path, "r+b", buffering=0) as file:
                    for _ in range(40):
                        length = self.rng.choice([1, 511, 4096, 65536, 300_001, MIB + 17])
                        at = self.rng.randrange(SIZE - length)
                        disk[at:at + length] = piece = self.rng.randbytes(length)
                        self.assertEqual(os.pwrite(file.fileno(), piece, at), length)
                        back = self.rng.randrange(SIZE)
                        self.same_bytes(os.pread(file.fileno(), length, back), disk[back:back + length], kind)
                self.ended(server)
            self.clean(QEMU_TOOL, image)
            self.holds(QEMU_TOOL, image, disk)

    def test_dd_with_direct_io(self):
        image = self.image()
        disk = self.rng.randbytes(SIZE)
        raw = self.write_file("disk.raw", disk)
        with self.mount(image) as server:
            self.ok(run("dd", f"if={raw}", f"of={server.path}", "bs=64k", "oflag=direct", "conv=notrunc,fsync"))
            self.ok(run("dd", f"if={server.path}", f"of={self.path('back.raw')}", "bs=4k", "iflag=direct"))
            self.same_bytes(self.read_file(self.path("back.raw")), disk, "through dd")
            self.ended(server)
        self.holds(QEMU_TOOL, image, disk)

    def test_a_file_system_in_it(self):
        image = self.image(size=32 * MIB)
        with self.mount(image) as server:
            self.ok(run("mkfs.ext4", "-q", "-F", server.path))
            self.ok(run("e2fsck", "-f", "-n", server.path))
            self.ended(server)
        self.clean(QEMU_TOOL, image)
        content, _ = self.content(QEMU_TOOL, image)
        self.ok(run("e2fsck", "-f", "-n", self.write_file("copy.raw", content)))

    def test_an_image_mounted_over_itself(self):
        disk = random_disk(self.rng, SIZE)
        image = self.image()
        self.fill(image, disk)
        with self.mount(image, at="image") as server:
            self.same_bytes(self.read_file(image.path), disk, "in the place of the image")
            self.ended(server)
        self.holds(QEMU_TOOL, image, disk)

    def test_nbd_clients_beside_it(self):
        image = self.image()
        socket = self.path("socket")
        with self.mount(image, "--nbd", f"unix:{socket}") as server:
            first = self.read_file(server.path)
            self.same_bytes(first, bytes(SIZE), "an empty disk")
            self.ok(qemu_io("-f", "raw", "-c", "write -P 7 100k 64k", uri_of(socket)))
            self.same_bytes(self.read_file(server.path)[100 * KIB:164 * KIB], b"\7" * 64 * KIB, "written over NBD")
            fd = os.open(server.path, os.O_RDWR)
            # Space is not reserved while somebody else may write there; glibc's replacement would race with them.
            self.ok(run("fallocate", "-l", str(SIZE), server.path), code=1)
            os.close(fd)
            self.ok(run("umount", server.path))
            self.ok(qemu_io("-f", "raw", "-c", "read -P 7 100k 64k", uri_of(socket)))  # NBD goes on
            self.ended(server)


class Space(FuseCase):

    def map_of(self, image):
        runs = self.ok(qemu_img("map", "--output=json", *image.args())).json()
        return merged((run["start"], run["start"] + run["length"], run["data"] and not run["zero"]) for run in runs)

    def test_holes_are_those_of_the_image(self):
        for kind in ("luks", "qcow2", "overlay"):
            image = self.overlay(random_disk(self.rng, SIZE)) if kind == "overlay" else self.image(kind, name=kind)
            for _ in range(6):
                at = self.rng.randrange(SIZE // CLUSTER) * CLUSTER
                verb = self.rng.choice(["write -P 5", "write -z", "write -z -u"])
                self.io(QEMU_TOOL, image, f"{verb} {at} {min(2 * CLUSTER, SIZE - at)}")
            expected = self.map_of(image)
            with self.mount(image, "-r") as server:
                self.assertEqual(merged(extents_of(server.path)), expected, f"{kind} COFRE_TEST_SEED={SEED}")
                self.ok(run("cp", "--sparse=auto", server.path, self.path("copy")))
                self.ended(server)
            content, _ = self.content(QEMU_TOOL, image)
            self.same_bytes(self.read_file(self.path("copy")), content, kind)

    def test_fallocate(self):
        for kind in ("luks", "qcow2"):
            image = self.image(kind, name=kind)
            disk = bytearray(self.rng.randbytes(SIZE))
            self.fill(image, disk)
            with self.mount(image) as server:
                full = os.stat(server.path).st_blocks * 512
                self.assertGreaterEqual(full, SIZE)
                self.ok(run("fallocate", "-p", "-o", "1000", "-l", str(2 * MIB), server.path))
                disk[1000:1000 + 2 * MIB] = bytes(2 * MIB)
                self.ok(run("fallocate", "-z", "-o", str(3 * MIB), "-l", "100001", server.path))
                disk[3 * MIB:3 * MIB + 100001] = bytes(100001)
                self.same_bytes(self.read_file(server.path), disk, kind)
                self.assertLess(os.stat(server.path).st_blocks * 512, full - MIB)
                self.ok(run("fallocate", "-p", "-o", str(SIZE - CLUSTER), "-l", str(MIB), server.path))  # past the end
                disk[SIZE - CLUSTER:] = bytes(CLUSTER)
                self.assertEqual(os.stat(server.path).st_size, SIZE)
                self.assertIn((CLUSTER, 2 * MIB, False), [(max(a, CLUSTER), min(b, 2 * MIB), data)
                                                          for a, b, data in extents_of(server.path)])
                self.ended(server)
            self.clean(QEMU_TOOL, image)
            self.holds(QEMU_TOOL, image, disk)

    def test_reserving_space_keeps_the_content(self):
        for kind in ("luks", "overlay"):
            disk = random_disk(self.rng, SIZE)
            image = self.overlay(disk) if kind == "overlay" else self.image(kind, name=kind)
            with self.mount(image) as server:
                before = self.read_file(server.path)
                self.ok(run("fallocate", "-l", str(SIZE), server.path))
                self.same_bytes(self.read_file(server.path), before, kind)
                self.assertEqual(extents_of(server.path), [(0, SIZE, True)])
                self.ended(server)
            self.clean(QEMU_TOOL, image)
            self.holds(QEMU_TOOL, image, before)
            runs = self.ok(qemu_img("map", "--output=json", *image.args())).json()
            self.assertEqual({(part["depth"], part["data"]) for part in runs}, {(0, True)}, f"{runs}")

    def test_the_size_stays(self):
        image = self.image()
        with self.mount(image) as server:
            os.truncate(server.path, SIZE)
            self.fails(errno.EPERM, os.truncate, server.path, SIZE - 1)
            self.fails(errno.EFBIG, os.truncate, server.path, SIZE + 1)
            self.fails(errno.EPERM, os.open, server.path, os.O_WRONLY | os.O_TRUNC)
            fd = os.open(server.path, os.O_RDWR)
            self.assertEqual(os.pwrite(fd, b"x" * 100, SIZE - 10), 10)
            self.fails(errno.EFBIG, os.pwrite, fd, b"x", SIZE)
            self.assertEqual(os.pread(fd, 100, SIZE - 10), b"x" * 10)
            self.assertEqual(os.pread(fd, 100, SIZE), b"")
            self.fails(errno.EFBIG, os.posix_fallocate, fd, 0, SIZE + 1)
            self.fails(errno.ENXIO, os.lseek, fd, SIZE, os.SEEK_DATA)
            os.close(fd)
            self.ended(server)
            self.assertIn("cofre resize", server.said())


class Faults(FuseCase):

    def failing(self, number):
        image = self.image("qcow2")
        image.extra = (f"file.driver=blkdebug,file.image.driver=file,file.image.filename={image.path},"
                       f"file.inject-error.0.event=write_aio,file.inject-error.0.errno={number},file.inject-error.0.once=on")
        opts = image.opts().replace(f",file.filename={image.path}", "")
        return MountedImage(self.path("disk"), "--image-opts", opts)

    def test_the_disk_s_errors_are_the_program_s(self):
        for number in (errno.ENOSPC, errno.EIO):
            with self.failing(number) as server:
                fd = os.open(server.path, os.O_RDWR)
                self.fails(number, os.pwrite, fd, b"x" * 4096, 0)
                self.assertEqual(os.pwrite(fd, b"y" * 4096, 0), 4096)
                self.assertEqual(os.pread(fd, 4096, 0), b"y" * 4096)
                os.close(fd)
                self.ended(server)
            os.unlink(self.path("image"))

    def test_read_only(self):
        disk = random_disk(self.rng, SIZE)
        image = self.image()
        self.fill(image, disk)
        with self.mount(image, "--read-only") as server:
            self.assertEqual(os.stat(server.path).st_mode & 0o7777, 0o400)
            self.same_bytes(self.read_file(server.path), disk, "read-only")
            for call in ((os.open, server.path, os.O_RDWR), (os.truncate, server.path, 0), (os.chmod, server.path, 0o600)):
                self.fails(errno.EROFS, *call)
            self.ended(server)
        self.holds(QEMU_TOOL, image, disk)

    def test_mode_and_times(self):
        with self.mount(self.image()) as server:
            before = os.stat(server.path)
            self.assertEqual((before.st_mode & 0o7777, before.st_uid, before.st_size), (0o600, os.geteuid(), SIZE))
            os.chmod(server.path, 0o640)
            os.utime(server.path, (1, 2))
            after = os.stat(server.path)
            self.assertEqual((after.st_mode & 0o7777, after.st_atime, after.st_mtime), (0o640, 1, 2))
            with open(server.path, "r+b", buffering=0) as file:
                file.write(b"x")
            self.assertGreater(os.stat(server.path).st_mtime, 2)
            self.ended(server)

    def test_other_users(self):
        if os.geteuid() != 0:
            raise unittest.SkipTest("needs root, to be somebody else")
        os.chmod(self.dir, 0o755)
        other = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "head", "-c1"]
        with self.mount(self.image(name="a"), "--fuse-allow-other", "off") as server:
            os.chmod(server.path, 0o644)
            self.refused(run(*other, server.path), "permission denied")
            self.fails(errno.EPERM, os.chown, server.path, NOBODY, NOBODY)
            self.ended(server)
        with self.mount(self.image(name="b"), "--fuse-allow-other", "on") as server:
            self.refused(run(*other, server.path), "permission denied")
            os.chown(server.path, NOBODY, NOBODY)
            self.ok(run(*other, server.path))
            self.ended(server)


class Mounts(FuseCase):

    def test_a_file_that_was_there_is_there_again(self):
        self.write_file("disk", "what was there")
        os.chmod(self.path("disk"), 0o640)
        with self.mount(self.image()) as server:
            self.assertEqual(os.stat(server.path).st_size, SIZE)
            self.ended(server, how=signal.SIGINT)
        self.assertEqual(self.read_file(self.path("disk")), b"what was there")
        self.assertEqual(os.stat(self.path("disk")).st_mode & 0o777, 0o640)

    def test_a_file_that_was_made_is_gone(self):
        with self.mount(self.image()) as server:
            self.ended(server)
        self.assertFalse(os.path.lexists(self.path("disk")))

    def test_umount_ends_it(self):
        image = self.image()
        with self.mount(image) as server:
            with open(server.path, "r+b", buffering=0) as file:
                file.write(b"x" * 4096)
            self.ok(run("fusermount3", "-u", server.path))
            self.assertEqual(server.wait(), 0, server.said())
        self.assertFalse(os.path.lexists(self.path("disk")))
        self.clean(QEMU_TOOL, image)
        self.holds(QEMU_TOOL, image, b"x" * 4096 + bytes(SIZE - 4096))

    def test_several_images(self):
        images = [self.image(name=f"image{i}") for i in range(3)]
        paths = [self.path(f"disk {i}") for i in range(3)]
        options = [part for path in paths[1:] for part in ("--fuse", path)]
        server = MountedImage(paths[0], *options, *images[0].object_args(), "--image-opts",
                              *(image.opts() for image in images))
        with server:
            for i, path in enumerate(paths):
                with open(path, "r+b", buffering=0) as file:
                    file.write(bytes([i + 1]) * 4096)
            self.ok(run("umount", paths[0]))
            self.assertEqual(self.read_file(paths[1])[:4096], b"\2" * 4096)
            self.ended(server)
        for i, image in enumerate(images):
            self.holds(QEMU_TOOL, image, bytes([i + 1]) * 4096 + bytes(SIZE - 4096))
        self.assertEqual([path for path in paths if os.path.lexists(path)], [])

    def test_in_the_background(self):
        pid_file = self.path("pid")
        image = self.image()
        self.ok(cofre("serve", "--fork", "--pid-file", pid_file, "--fuse", self.path("disk"), *image.args()))
        self.addCleanup(lambda: mounted_type(self.path("disk")) and run("umount", "-l", self.path("disk")))
        self.assertEqual(len(self.read_file(self.path("disk"))), SIZE)
        self.ok(run("umount", self.path("disk")))
        deadline = time.monotonic() + TIMEOUT_S
        while os.path.exists(pid_file) and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertFalse(os.path.exists(pid_file))

    def test_refusals(self):
        image = self.image()
        os.mkdir(self.path("folder"))
        self.addCleanup(shutil.rmtree, self.path("folder"))
        self.refused(cofre("serve", "--fuse", self.path("folder"), *image.args()), "regular file", code=1)
        self.refused(cofre("serve", "--fuse", self.path("none/disk"), *image.args()), "none", "no such file", code=1)
        self.refused(cofre("serve", "--fuse", "a", "--fuse", "b", *image.args()), "give one for each")
        self.refused(cofre("serve", "--fuse", "a", "--fuse-allow-other", "yes", *image.args()), "off, on, or auto")
        self.refused(cofre("serve", "--fuse", "a", "--once", *image.args()), "--once")
        with self.mount(image) as server:
            second = self.image(name="second")
            self.refused(cofre("serve", "--fuse", server.path, *second.args()), "another server", code=1)
            self.ended(server)

    def test_what_others_left_is_theirs(self):
        if os.geteuid() != 0:
            raise unittest.SkipTest("needs root, to leave a mount")
        path = self.write_file("disk", "")
        mount_without_server(path)
        try:
            self.refused(cofre("serve", "--fuse", path, *self.image().args()), "fuse.other", "fusermount3 -u", code=1)
            self.assertEqual(mounted_type(path), "fuse.other")
        finally:
            self.ok(run("umount", path))

    def test_without_privileges(self):
        if os.geteuid() != 0:
            raise unittest.SkipTest("all of it runs without")
        image = self.image()
        content = random_disk(self.rng, SIZE)
        self.fill(image, content)
        shutil.copy(COFRE, self.path("cofre"))  # where nobody may go
        os.mkdir(self.path("device"))
        self.addCleanup(shutil.rmtree, self.path("device"))
        for name in (".", "image", "image.secret"):
            os.chown(self.path(name), NOBODY, NOBODY)
        as_nobody = ('mount -t tmpfs none device && mknod -m 666 device/fuse c 10 229 && mount --bind device/fuse /dev/fuse && '
                     f'exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups sh -ec "$0"')
        serve = f"./cofre serve --fork --pid-file pid --fuse disk {' '.join(Image('image', 'qcow2', 'image.secret').args())}"
        until_gone = "while test -e pid; do sleep 0.05; done"
        steps = [f"{serve}; sha256sum disk; stat -c %u disk; fusermount3 -u disk; {until_gone}; ! test -e disk",
                 f"{serve}; kill -9 $(cat pid); sleep 0.2; ! stat disk; rm pid; {serve}; sha256sum disk; kill $(cat pid); {until_gone}",
                 f"! {serve} --fuse-allow-other on"]
        with open("/etc/fuse.conf", encoding="utf-8") as lines:
            allowed = "user_allow_other" in (line.rstrip() for line in lines)
        if allowed:
            steps[2] = f"{serve} --fuse-allow-other on; fusermount3 -u disk; {until_gone}"
        said = [self.ok(run("unshare", "-m", "sh", "-c", as_nobody, step, cwd=self.dir)) for step in steps]
        for result in said[:2]:
            self.assertIn(hashlib.sha256(content).hexdigest(), result.out, f"{result}")
        if not allowed:
            self.assertIn("user_allow_other", said[2].err)

    def test_where_nobody_may_mount(self):
        if os.geteuid() != 0:
            raise unittest.SkipTest("needs root, to make such places")
        self.image()
        # By names that hold without /dev, where the folder may be.
        serve = [os.path.abspath(COFRE), "serve", "--fuse", "disk", *Image("image", "qcow2", "image.secret").args()]
        no_device = run("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev && exec "$@"', "sh", *serve, cwd=self.dir)
        self.refused(no_device, "/dev/fuse", "modprobe fuse", "--device /dev/fuse", code=1)
        no_right = run("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", *serve, cwd=self.dir)
        self.refused(no_right, "cannot mount on", "--cap-add SYS_ADMIN", code=1)
        self.assertFalse(os.path.lexists(self.path("disk")))


class Ends(FuseCase):

    def test_what_fsync_confirmed_outlives_a_kill(self):
        image = self.image()
        disk = bytearray(SIZE)
        server = self.mount(image)
        try:
            for _ in range(4):
                server.start()  # on what the last one left mounted
                self.same_bytes(self.read_file(server.path), disk, f"COFRE_TEST_SEED={SEED}")
                fd = os.open(server.path, os.O_RDWR)
                for _ in range(12):
                    at = self.rng.randrange(SIZE - 70_000)
                    disk[at:at + 70_000] = piece = self.rng.randbytes(70_000)
                    os.pwrite(fd, piece, at)
                os.fsync(fd)
                server.kill()
                self.is_cut_off(os.pread, fd, 1, 0)
                self.is_cut_off(os.close, fd)
                self.assertEqual(mounted_type(server.path), "fuse.cofre")
        finally:
            server.close()
        self.holds(COFRE_TOOL, image, disk)
        self.ok(cofre("check", "-r", "all", *image.args()))
        self.holds(QEMU_TOOL, image, disk)

    def test_a_write_that_is_to_be_durable_is(self):
        image = self.image()
        with self.mount(image) as server:
            fd = os.open(server.path, os.O_RDWR | os.O_DSYNC)
            os.pwrite(fd, b"s" * 100_000, 12345)
            server.kill()
            self.is_cut_off(os.close, fd)
        self.holds(COFRE_TOOL, image, bytes(12345) + b"s" * 100_000 + bytes(SIZE - 112345))

    def test_a_signal_while_it_is_busy(self):
        image = self.image()
        confirmed = {}
        with self.mount(image) as server:
            def write(number):
                fd = os.open(server.path, os.O_RDWR)
                try:
                    for turn in range(1, 1_000_000):
                        os.pwrite(fd, bytes([turn % 256]) * CLUSTER, number * CLUSTER)
                        confirmed[number] = turn % 256
                except OSError as fault:
                    confirmed[-1 - number] = fault.errno
                finally:
                    try:
                        os.close(fd)
                    except OSError:
                        pass

            threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
            for thread in threads:
                thread.start()
            time.sleep(0.3)
            self.ended(server)
            for thread in threads:
                thread.join(TIMEOUT_S)
        self.assertEqual({confirmed[-1 - i] for i in range(8)} - set(CUT_OFF), set())
        self.clean(QEMU_TOOL, image)
        content, _ = self.content(QEMU_TOOL, image)
        for i in range(8):
            # What was answered is there; one more write may have been done whose answer nobody got.
            self.assertIn(content[i * CLUSTER], (confirmed[i], (confirmed[i] + 1) % 256))
            self.assertEqual(len(set(content[i * CLUSTER:(i + 1) * CLUSTER])), 1)


class Model(FuseCase):
    """Threads, each with stripes of the disk that are its own, whose borders no cluster or sector knows."""

    THREADS = 6
    STRIPE = 41_003

    def work(self, number, path, rng, disk, faults):
        try:
            fd = os.open(path, os.O_RDWR | (os.O_DIRECT if number == 0 else 0))
            stripes = range(number, len(disk) // self.STRIPE, self.THREADS)
            for _ in range(1500 if LONG else 250):
                start = rng.choice(stripes) * self.STRIPE
                at = start + rng.randrange(self.STRIPE)
                length = rng.randrange(1, start + self.STRIPE - at + 1)
                act = rng.random()
                if act < 0.45:
                    disk[at:at + length] = piece = rng.randbytes(length)
                    assert os.pwrite(fd, piece, at) == length
                elif act < 0.85:
                    assert os.pread(fd, length, at) == disk[at:at + length], f"at {at}, {length} bytes"
                elif act < 0.95:
                    mode = rng.choice(["-p", "-z"])
                    subprocess.run(["fallocate", mode, "-o", str(at), "-l", str(length), path], check=True)
                    disk[at:at + length] = bytes(length)
                elif act < 0.97:
                    # Reserves what is there, of others too, while they write.
                    subprocess.run(["fallocate", "-n", "-o", str(at), "-l", str(3 * self.STRIPE), path], check=True)
                else:
                    os.fsync(fd)
            os.close(fd)
        except Exception as fault:  # pylint: disable=broad-except
            faults.append(f"thread {number}: {fault!r}")

    def check_model(self, image, disk):
        faults = []
        with self.mount(image) as server:
            threads = [threading.Thread(target=self.work, args=(i, server.path, self.rng.__class__(self.rng.random()), disk, faults))
                       for i in range(self.THREADS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(faults, [], f"COFRE_TEST_SEED={SEED}\n{server.said()}")
            self.same_bytes(self.read_file(server.path), disk, "through the mount")
            self.ended(server)
        self.clean(QEMU_TOOL, image)
        self.holds(QEMU_TOOL, image, disk)

    def test_luks(self):
        self.check_model(self.image("luks", 4 * MIB), bytearray(4 * MIB))

    def test_chain(self):
        disk = bytearray(random_disk(self.rng, 4 * MIB))
        self.check_model(self.overlay(disk, 4 * MIB), disk)


class StorageDaemon(FuseCase):
    """The export of qemu-storage-daemon, where this one has it."""

    def test_the_same_file(self):
        if not STORAGE_DAEMON or "fuse" not in run(STORAGE_DAEMON, "--help").out:
            raise unittest.SkipTest("no qemu-storage-daemon with FUSE")
        disk = random_disk(self.rng, SIZE)
        image = self.image("qcow2")
        self.fill(image, disk)
        with self.mount(image) as server:
            ours = self.seen(server.path)
            self.ended(server)
        path = self.write_file("theirs", "")
        process = subprocess.Popen(
            [STORAGE_DAEMON, "--blockdev", f"driver=file,filename={image.path},node-name=f", "--blockdev",
             "driver=qcow2,file=f,node-name=q", "--export", f"fuse,id=e,node-name=q,mountpoint={path},writable=on"])
        try:
            deadline = time.monotonic() + TIMEOUT_S
            while os.stat(path).st_size != SIZE:
                self.assertTrue(process.poll() is None and time.monotonic() < deadline, "the daemon does not mount")
                time.sleep(0.01)
            self.assertEqual(ours, self.seen(path))
        finally:
            process.kill()
            process.wait()
            run("umount", "-l", path)

    def seen(self, path):
        found = os.stat(path)
        return (found.st_mode, found.st_size, found.st_blocks, found.st_uid, found.st_nlink, merged(extents_of(path)),
                hashlib.sha256(self.read_file(path)).hexdigest(), self.ok(qemu_img("map", "-f", "raw", "--output=json", path)).out)


if __name__ == "__main__":
    unittest.main()
