"""A real guest on disks that `cofre serve` offers: a kernel of Debian in QEMU makes file systems on encrypted images over
vhost-user-blk and NBD, and notices nothing when the server is killed and started anew. Afterwards the real qemu-img
decrypts the images, and the files are there."""

import hashlib
import os
import time
import unittest

from cofre_peers import (COFRE, COFRE_TOOL, MIB, QEMU_TOOL, SANITIZED, Image, PeerCase, aes_options, cofre, luks_options,
                         run)
from guest import Guest, NbdDoor, VhostDoor, require_guest
from serving import Server

DISK = 64 * MIB


class Serving(Server):
    """`cofre serve` of one image behind one door."""

    def __init__(self, image, door, *args):
        super().__init__(door.socket, COFRE, "serve", *door.serve_args(), *image.object_args(), "--image-opts", *args, image.opts())

    def ready(self):
        """A probe would be the front end that a vhost-user-blk server takes for the guest's."""
        return "Listening on" in self.said()


@unittest.skipIf(SANITIZED, "an emulated machine and a sanitizer together take too long: the server's own tests run under it")
class GuestCase(PeerCase):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        require_guest()

    def encrypted(self, name, options):
        image = Image(self.path(f"{name}.qcow2"), "qcow2", self.secret(f"passphrase of {name}", name + ".secret"))
        return self.create(COFRE_TOOL, image, DISK, options=options)

    def serving(self, image, door, *args):
        served = Serving(image, door, *args).start()
        self.addCleanup(served.close)
        return served

    def file_in(self, raw, name):
        """A file of the file system in a raw image."""
        out = self.path("file")
        self.ok(run("debugfs", "-R", f"dump /{name} {out}", raw))
        content = self.read_file(out)
        os.unlink(out)
        return content

    def decrypted(self, image):
        raw = self.path("decrypted.raw")
        self.ok(QEMU_TOOL.img("convert", *image.object_args(), "--image-opts", "-O", "raw", image.opts(), raw))
        return raw


class FileSystems(GuestCase):

    def test_files_survive_a_killed_server(self):
        images = [self.encrypted("luks", luks_options()), self.encrypted("aes", aes_options()),
                  self.encrypted("nbd", luks_options())]
        doors = [VhostDoor(self.path("a")), VhostDoor(self.path("b"), queues=1, packed=True), NbdDoor(self.path("c"))]
        served = [self.serving(image, door) for image, door in zip(images, doors)]
        disks = ["vda", "vdb", "vdc"]
        with Guest(self.dir, doors) as guest:
            for disk in disks:
                self.assertEqual(guest.run(f"cat /sys/block/{disk}/size"), str(DISK // 512))
                guest.run(f"mke2fs -q /dev/{disk} && mkdir -p /mnt/{disk} && mount -t ext4 /dev/{disk} /mnt/{disk}")
                guest.run(f"cp /busybox /mnt/{disk}/program && sync")
            # Files are written again and again, so that every server is killed in the middle of something.
            for disk in disks:
                guest.run(f"(cd /mnt/{disk}; until [ -e /tmp/enough ]; do "
                          "dd if=/dev/urandom of=big bs=64k count=160 2>/dev/null || exit 1; "
                          "dd if=/dev/urandom of=small bs=4k count=50 conv=fsync 2>/dev/null || exit 1; "
                          f"done; sync; touch /tmp/ended-{disk}) >/dev/null &")
            for server in served:
                time.sleep(0.3)
                server.kill()
            time.sleep(0.3)
            for server in served:
                server.start()
            guest.run("touch /tmp/enough")
            for disk in disks:
                guest.run(f"until [ -e /tmp/ended-{disk} ]; do sleep 0.1; done")
            sums = {}
            for disk in disks:
                guest.run(f"umount /mnt/{disk} && echo 3 >/proc/sys/vm/drop_caches")
                guest.run(f"mount -t ext4 /dev/{disk} /mnt/{disk}")
                said = guest.run(f"cd /mnt/{disk} && md5sum program big small && cd / && umount /mnt/{disk}")
                sums[disk] = dict(reversed(line.split("  ")) for line in said.splitlines())
                self.assertEqual(sorted(sums[disk]), ["big", "program", "small"])
            self.assertNotIn("I/O error", guest.run("dmesg"))
            guest.power_off()
        for server in served:
            self.assertEqual(server.stop(), 0, server.said())
        for image, disk in zip(images, disks):
            self.clean(QEMU_TOOL, image)
            raw = self.decrypted(image)
            self.ok(run("e2fsck", "-f", "-n", raw))
            for name, digest in sums[disk].items():
                self.assertEqual(hashlib.md5(self.file_in(raw, name)).hexdigest(), digest, f"{disk}: {name}")


class Disks(GuestCase):

    def test_read_only_serial_discard_and_cache_mode(self):
        read_only, written = self.encrypted("ro", luks_options()), self.encrypted("rw", luks_options())
        self.io(COFRE_TOOL, read_only, "write -P 0x5a 1M 64k")
        doors = [VhostDoor(self.path("a")), VhostDoor(self.path("b"))]
        first = self.serving(read_only, doors[0], "--read-only", "--serial", "disk-of-a-test", "--poll-us", "20")
        second = self.serving(written, doors[1], "--num-queues", "3", "--queue-size", "256")
        with Guest(self.dir, doors) as guest:
            self.assertEqual(guest.run("cat /sys/block/vda/ro"), "1")
            self.assertEqual(guest.run("cat /sys/block/vda/serial"), "disk-of-a-test")
            self.assertEqual(guest.run("dd if=/dev/vda bs=64k skip=16 count=1 2>/dev/null | md5sum").split()[0],
                             hashlib.md5(b"\x5a" * 65536).hexdigest())
            self.assertEqual(guest.run("cat /sys/block/vdb/cache_type"), "write back")
            guest.run("echo 'write through' >/sys/block/vdb/cache_type")
            guest.run("yes text | dd of=/dev/vdb bs=1M count=4 iflag=fullblock conv=fsync 2>/dev/null")
            self.assertEqual(guest.run("blkdiscard -o 1M -l 1M /dev/vdb && echo done"), "done")
            guest.power_off()
        self.assertEqual(first.stop(), 0, first.said())
        self.assertEqual(second.stop(), 0, second.said())
        text = (b"text\n" * MIB)[:4 * MIB]
        self.holds(QEMU_TOOL, written, text[:MIB] + bytes(MIB) + text[2 * MIB:] + bytes(DISK - 4 * MIB))


class Options(PeerCase):

    def test_wrong_ones(self):
        image = Image(self.path("plain.qcow2"), "qcow2")
        self.create(COFRE_TOOL, image, MIB)
        socket = self.path("socket")
        serve = ["serve", "--vhost-user-blk", socket]
        self.refused(cofre(*serve, image.path, image.path), "2 images and 1 sockets")
        self.refused(cofre(*serve, "--serial", "x" * 21, image.path), "at most 20 bytes")
        self.refused(cofre(*serve, "--serial", "a", "--serial", "b", image.path), "serials")
        self.refused(cofre(*serve, "--num-queues", "0", image.path), "--num-queues")
        self.refused(cofre(*serve, "--num-queues", "257", image.path), "--num-queues")
        self.refused(cofre(*serve, "--queue-size", "1", image.path), "--queue-size")
        self.refused(cofre(*serve, "--poll-us", "-1", image.path), "--poll-us")
        self.refused(cofre(*serve, "--once", image.path), "--once")
        self.refused(cofre("serve", "--vhost-user-blk", self.path("no/such/folder"), image.path), "no/such/folder")
        self.write_file("socket", "something")
        self.refused(cofre(*serve, image.path), "is there already")
        self.assertEqual(self.read_file(socket), b"something")
