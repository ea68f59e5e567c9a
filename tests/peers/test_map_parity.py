"""What maps tell after the same commands: cofre's images and qemu-img's, each seen by both programs, have the same maps but for host
offsets. Each case is one that random sequences of commands (test_command_sequences.py) once found to differ."""

import os
import shutil
import unittest

from cofre_peers import COMPAT_DIR, QEMU_IMG, QEMU_IO, PeerCase, run


class MapParity(PeerCase):

    PROGRAMS = ((QEMU_IMG, QEMU_IO), (f"{COMPAT_DIR}/qemu-img", f"{COMPAT_DIR}/qemu-io"))

    def maps(self, *commands, look="disk.qcow2"):
        """The commands ("img ..." or "io FILE COMMAND; COMMAND...") by each pair of programs, in a folder of its own; then the maps of
        `look`, which must agree. Returns qemu-img's of its own image."""
        seen = []
        for number, (img, io) in enumerate(self.PROGRAMS):
            folder = self.path(f"by{number}")
            shutil.rmtree(folder, ignore_errors=True)
            os.mkdir(folder)
            for command in commands:
                if command.startswith("img "):
                    self.ok(run(img, *command.split()[1:], cwd=folder))
                else:
                    _, file, words = command.split(" ", 2)
                    self.ok(run(io, "-d", "unmap", "-f", "qcow2", *(part for word in words.split("; ") for part in ("-c", word)), file,
                                cwd=folder))
            views = [self.ok(run(eyes, "map", "--output=json", look, cwd=folder)).json() for eyes, _ in self.PROGRAMS]
            self.assertEqual(*views, f"the image of {img}, seen by qemu-img and by cofre")
            self.ok(run(QEMU_IMG, "check", "-q", look, cwd=folder))
            seen.append(self.joined(views[0]))
        self.assertEqual(*seen, "qemu-img's image and cofre's")
        return seen[0]

    def joined(self, extents):
        """Without host offsets, and without holes that the host's file has below stored data."""
        joined = []
        for extent in extents:
            key = [extent["depth"], extent["present"], extent["data"], extent["zero"] and not extent["data"]]
            if joined and joined[-1][1] == key:
                joined[-1][0] += extent["length"]
            else:
                joined.append([extent["start"] + extent["length"], key])
        return joined

    def test_zeroes_in_a_fresh_image_are_present(self):
        for options in ("cluster_size=64k", "cluster_size=512", "extended_l2=on", "compat=0.10"):
            with self.subTest(options=options):
                extents = self.maps(f"img create -q -f qcow2 -o {options} disk.qcow2 3M",
                                    "io disk.qcow2 write -z 128k 128k; write -z 1049088 512; write -z -u 2M 100k")
                self.assertEqual([0, True, False, True] in [key for _, key in extents], options != "compat=0.10", extents)

    def test_part_of_a_cluster_that_is_zero_below_becomes_a_zero_cluster(self):
        extents = self.maps("img create -q -f qcow2 base.qcow2 1M", "io base.qcow2 write -P 1 0 64k",
                            "img create -q -f qcow2 -b base.qcow2 -F qcow2 disk.qcow2 1M",
                            "io disk.qcow2 write -z 1024 512; write -z 66048 512; write -z 200k 100k")
        self.assertIn([131072, [0, True, False, True]], extents)

    def test_part_of_a_cluster_past_a_short_backing_file(self):
        self.maps("img create -q -f qcow2 -o cluster_size=4k base.qcow2 100k", "io base.qcow2 write -P 1 0 100k",
                  "img create -q -f qcow2 -b base.qcow2 -F qcow2 disk.qcow2 1M",
                  "io disk.qcow2 write -z 120k 512; write -z 200k 1024; write -z 90k 1k")

    def test_copied_clusters_keep_their_unstored_subclusters(self):
        extents = self.maps("img create -q -f qcow2 -o extended_l2=on disk.qcow2 1M",
                            "io disk.qcow2 write -P 1 20k 2k; write -P 2 40k 2k; write -z 50k 2k",
                            "img snapshot -c s disk.qcow2", "io disk.qcow2 write -P 3 30k 2k",
                            "img snapshot -c t disk.qcow2", "io disk.qcow2 write -z 30k 2k; write -z -u 40k 1k")
        self.assertEqual(extents[0], [20480, [0, False, False, True]])

    def test_grown_bytes_are_not_present(self):
        for options in ("cluster_size=64k", "cluster_size=512", "extended_l2=on"):
            with self.subTest(options=options):
                extents = self.maps(f"img create -q -f qcow2 -o {options} disk.qcow2 1049088", "io disk.qcow2 write -P 1 0 512",
                                    "img resize -q disk.qcow2 2M")
                self.assertEqual(len(extents), 2, extents)

    def test_a_discard_gives_back_preallocated_clusters(self):
        extents = self.maps("img create -q -f qcow2 -o extended_l2=on,preallocation=metadata disk.qcow2 1M", "io disk.qcow2 discard 256k 256k")
        self.assertIn([524288, [0, True, False, True]], extents)

    def test_a_discard_leaves_clusters_without_space_alone(self):
        extents = self.maps("img create -q -f qcow2 -o extended_l2=on disk.qcow2 1M", "io disk.qcow2 write -z 70k 2k; discard 64k 64k")
        self.assertEqual(extents[1], [73728, [0, True, False, True]])

    def test_preallocation_begins_at_the_next_cluster(self):
        self.maps("img create -q -f qcow2 -o extended_l2=on,cluster_size=1M disk.qcow2 1M",
                  "img resize -q --preallocation=falloc disk.qcow2 1114112")

    def test_convert_stores_single_subclusters(self):
        for cluster in ("64k", "256k", "1M"):
            with self.subTest(cluster=cluster):
                extents = self.maps("img create -q -f qcow2 source.qcow2 3M", "io source.qcow2 write -P 3 320k 64k; write -P 4 2M 512",
                                    f"img convert -O qcow2 -o extended_l2=on,cluster_size={cluster} source.qcow2 disk.qcow2")
                self.assertEqual(extents[0], [327680, [0, False, False, True]])

    def test_holes_of_a_data_file(self):
        """qemu-img looks at the file below stored clusters where the image's own file has more clusters than blocks."""
        self.maps("img create -q -f qcow2 -o cluster_size=1M,data_file=disk.data,preallocation=metadata disk.qcow2 4M",
                  "io disk.qcow2 write -P 1 1M 64k")


if __name__ == "__main__":
    unittest.main()
