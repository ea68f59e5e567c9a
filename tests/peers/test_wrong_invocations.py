"""Wrong invocations of every command: what qemu-img refuses the personality of its name refuses, with the same exit code
and a reason, and nothing is left behind or changed; what it takes is taken."""

import os
import shutil
import unittest

from cofre_peers import COMPAT_TOOL, PeerCase, qemu_img

NUMBERS = ("", "-1", "x", "1x", "1.5", "1k1", "0x", "99999999999999999999", "16E", " ", "1 ", "+", "-", "1e3")
BY_OPTIONS = ["--image-opts", "driver=qcow2,file.filename=x.qcow2"]
FORMAT_AND_OPTIONS = ["-f", "qcow2", *BY_OPTIONS]
# For any command that reads one image.
ONE_IMAGE = [
    [], ["x.qcow2", "x.qcow2"], ["nowhere"], ["folder"], [""], ["empty"], ["--nosuch", "x.qcow2"], ["-Z", "x.qcow2"],
    ["x.qcow2", "--nosuch"], ["-f", "nosuch", "x.qcow2"], ["-f", "", "x.qcow2"], ["-f", "luks", "x.qcow2"], ["-f", "qcow2", "x.raw"],
    ["-f"], ["x.qcow2", "-f"], FORMAT_AND_OPTIONS, BY_OPTIONS, ["--image-opts", "x.qcow2"],
    ["--image-opts", "driver=nosuch,file.filename=x.qcow2"], ["--image-opts", "driver=qcow2"],
    ["--image-opts", "driver=qcow2,file.filename=x.qcow2,nosuch=1"], ["--image-opts", "driver=qcow2,file.filename=nowhere"],
    ["--object", "nosuch,id=a", "x.qcow2"], ["--object", "secret,id=a", "x.qcow2"], ["--object", "secret,id=a,file=nowhere", "x.qcow2"],
    ["--object", "secret,id=a,data=x,nosuch=1", "x.qcow2"], ["--object", "secret,data=x", "x.qcow2"], ["--object", "", "x.qcow2"],
    ["--object", "secret,id=a,data=x", "--object", "secret,id=a,data=y", "x.qcow2"], ["json:{}"], ["json:{", "x"], ["json:nonsense"],
    ["nosuch:thing"], ["nbd://localhost:1/x"], ["-f", "qcow2", "-f", "raw", "x.raw"], ["--", "x.qcow2"], ["--", "-f", "x.qcow2"],
]

INVOCATIONS = {
    "": [[], ["nosuch"], ["--nosuch"], ["-Z"], ["--version"], ["--help"], ["-V"], ["-h"], ["create"], ["-V", "nosuch"]],
    "info": ONE_IMAGE + [["--output"], ["--output=xml", "x.qcow2"], ["--output=", "x.qcow2"], ["--output", "json", "--output", "human", "x.qcow2"],
                         ["--backing-chain", "broken.qcow2"], ["broken.qcow2"], ["-U", "x.qcow2"], ["--backing-chain=1", "x.qcow2"],
                         ["--back", "x.qcow2"], ["-q", "x.qcow2"]],
    "check": ONE_IMAGE + [["--output=xml", "x.qcow2"], ["-r", "x.qcow2"], ["-r", "nosuch", "x.qcow2"], ["-r", "all", "-r", "leaks", "x.qcow2"],
                          ["-r", "all", "-U", "x.qcow2"], ["-T", "nosuch", "x.qcow2"], ["-T", "none", "x.qcow2"], ["x.raw"], ["-f", "raw", "x.raw"],
                          ["-q", "-q", "x.qcow2"], ["--repair", "all", "x.qcow2"]],
    "map": ONE_IMAGE + [["--output=xml", "x.qcow2"], ["--start-offset", "5M", "x.qcow2"], ["--max-length", "0", "x.qcow2"],
                        ["broken.qcow2"], *([option, number, "x.qcow2"] for number in NUMBERS for option in ("-s", "-l"))],
    "compare": [[], ["x.qcow2"], ["x.qcow2", "x.raw", "x.raw"], ["x.qcow2", "nowhere"], ["nowhere", "x.qcow2"], ["folder", "x.qcow2"],
                ["-f", "nosuch", "x.qcow2", "x.raw"], ["-F", "nosuch", "x.qcow2", "x.raw"], ["-T", "nosuch", "x.qcow2", "x.raw"],
                ["x.qcow2", "x.raw"], ["-s", "x.qcow2", "x.raw"], ["--nosuch", "x.qcow2", "x.raw"], ["-f", "qcow2", "x.qcow2", "-F", "raw", "x.raw"],
                ["-F", "qcow2", "x.qcow2", "x.raw"], ["-q", "-q", "x.raw", "x.raw"], ["--image-opts", "-f", "raw", "x.raw", "x.raw"],
                ["--image-opts", "driver=raw,file.filename=x.raw", "driver=qcow2,file.filename=x.qcow2"], ["broken.qcow2", "x.raw"]],
    "create": [[], ["-f", "qcow2"], ["new.img"], ["-f", "qcow2", "new.img"], ["-f", "nosuch", "new.img", "1M"], ["-f", "qcow2", "new.img", "1M", "1M"],
               *(["-f", "qcow2", "new.img", number] for number in NUMBERS), *(["-f", "raw", "new.img", number] for number in NUMBERS),
               *(["-f", "qcow2", "-o", f"cluster_size={number}", "new.img", "1M"] for number in (*NUMBERS, "0", "256", "3M", "4M", "1000")),
               *(["-f", "qcow2", "-o", f"refcount_bits={number}", "new.img", "1M"] for number in (*NUMBERS, "0", "3", "65", "128")),
               *(["-f", "qcow2", "-o", option, "new.img", "1M"] for option in (
                   "nosuch=1", "nosuch", "=", "", "preallocation=nosuch", "preallocation=", "compat=0.9", "compat=", "lazy_refcounts=maybe",
                   "lazy_refcounts=on,compat=0.10", "extended_l2=on,cluster_size=4k", "data_file_raw=on", "compression_type=nosuch",
                   "compression_type=zstd,compat=0.10", "encryption=maybe", "encrypt.format=nosuch", "encrypt.key-secret=a", "backing_fmt=raw",
                   "size=2M", "refcount_bits=1,compat=0.10", "backing_file=nowhere,backing_fmt=raw", "encrypt.format=luks",
                   "encrypt.format=luks,encrypt.key-secret=nosuch", "encryption=on,encrypt.format=luks", "cluster_size=4k,cluster_size=8k")),
               ["-f", "qcow2", "-o", "size=2M", "new.img"], ["-f", "raw", "-o", "cluster_size=4k", "new.img", "1M"],
               ["-f", "raw", "-o", "preallocation=metadata", "new.img", "1M"], ["-f", "raw", "-b", "x.raw", "-F", "raw", "new.img"],
               ["-f", "qcow2", "-b", "nowhere", "-F", "raw", "new.img"], ["-f", "qcow2", "-b", "x.raw", "new.img"], ["-f", "qcow2", "-F", "raw", "new.img", "1M"],
               ["-f", "qcow2", "-b", "x.raw", "-F", "nosuch", "new.img"], ["-f", "qcow2", "-u", "-b", "nowhere", "-F", "raw", "new.img"],
               ["-f", "qcow2", "-u", "-b", "nowhere", "-F", "raw", "new.img", "1M"], ["-f", "qcow2", "-b", "x.raw", "-F", "qcow2", "new.img"],
               ["-f", "qcow2", "-b", "x.raw", "-F", "raw", "-o", "preallocation=full", "new.img"], ["-f", "qcow2", "-b", "new.img", "-F", "raw", "new.img"],
               ["-f", "qcow2", "no/folder/new.img", "1M"], ["-f", "qcow2", "folder", "1M"], ["-f", "luks", "new.img", "1M"], ["-Z", "new.img", "1M"],
               ["-f", "qcow2", "new.img", "7E"], ["-f", "qcow2", "-o", "cluster_size=512", "new.img", "64T"], ["", "1M"], ["-U", "new.img", "1M"]],
    "convert": [[], ["x.qcow2"], ["nowhere", "new.img"], ["folder", "new.img"], ["x.qcow2", "folder"], ["x.qcow2", "no/folder/new.img"],
                ["-f", "nosuch", "x.qcow2", "new.img"], ["-O", "nosuch", "x.qcow2", "new.img"], ["--nosuch", "x.qcow2", "new.img"],
                ["-o", "nosuch=1", "x.qcow2", "new.img"], ["-O", "qcow2", "-o", "nosuch=1", "x.qcow2", "new.img"],
                ["-O", "qcow2", "-o", "cluster_size=1000", "x.qcow2", "new.img"], ["-O", "qcow2", "-o", "size=x", "x.qcow2", "new.img"],
                ["-O", "qcow2", "-o", "size=512k", "x.qcow2", "new.img"], ["-O", "qcow2", "-o", "size=5M", "x.qcow2", "new.img"],
                *(["-m", number, "x.qcow2", "new.img"] for number in (*NUMBERS, "0", "17")),
                *(["-S", number, "x.qcow2", "new.img"] for number in (*NUMBERS, "0", "513", "1k")),
                ["-t", "nosuch", "x.qcow2", "new.img"], ["-T", "nosuch", "x.qcow2", "new.img"], ["-c", "x.qcow2", "new.img"], ["-c", "-O", "raw", "x.qcow2", "new.img"],
                ["-n", "x.qcow2", "nowhere.img"], ["-n", "-O", "qcow2", "x.qcow2", "x2.qcow2"], ["-n", "-O", "qcow2", "x.qcow2", "short.qcow2"],
                ["--target-is-zero", "x.qcow2", "new.img"], ["--target-image-opts", "x.qcow2", "driver=raw,file.filename=new.img"],
                ["-n", "--target-image-opts", "-O", "raw", "x.qcow2", "driver=raw,file.filename=x2.raw"], ["-n", "-o", "size=1M", "x.qcow2", "x2.raw"],
                ["-B", "x.raw", "-O", "qcow2", "x.qcow2", "new.img"], ["-B", "nowhere", "-F", "raw", "-O", "qcow2", "x.qcow2", "new.img"],
                ["-B", "x.raw", "-F", "raw", "-O", "raw", "x.qcow2", "new.img"], ["-F", "raw", "-O", "qcow2", "x.qcow2", "new.img"],
                ["-B", "x.raw", "-F", "raw", "-O", "qcow2", "x.qcow2", "x.qcow2", "new.img"], ["--image-opts", "-f", "raw", "x.qcow2", "new.img"],
                ["-O", "luks", "x.qcow2", "new.img"], ["broken.qcow2", "new.img"], ["-O", "qcow2", "-O", "raw", "x.qcow2", "new.img"],
                ["-c", "-O", "qcow2", "-o", "preallocation=full", "x.qcow2", "new.img"], ["-U", "x.qcow2", "new.img"],
                *(["-r", number, "x.qcow2", "new.img"] for number in (*NUMBERS, "0", "1G")),
                ["-c", "-C", "-O", "qcow2", "x.raw", "new.img"], ["-S", "4k", "-C", "x.raw", "new.img"], ["--salvage", "-C", "x.raw", "new.img"],
                ["-S", "0", "-C", "x.raw", "new.img"], ["-C", "-W", "x.raw", "new.img"], ["--salvage", "-c", "-O", "qcow2", "x.raw", "new.img"],
                ["-n", "-F", "raw", "x.raw", "x2.raw"], ["-n", "-B", "x.raw", "-F", "raw", "-O", "qcow2", "x.qcow2", "x2.qcow2"],
                ["-n", "-c", "-O", "qcow2", "x.raw", "x2.qcow2"], ["-n", "-c", "x.raw", "x2.raw"], ["-n", "-O", "qcow2", "x.raw", "x2.raw"],
                ["-n", "--target-is-zero", "-S", "0", "x.raw", "x2.raw"], ["-n", "--target-image-opts", "x.raw", "x2.raw"],
                ["-n", "--target-image-opts", "x.raw", "driver=nosuch,file.filename=x2.raw"], ["--bitmaps", "-O", "qcow2", "x.raw", "new.img"],
                ["--bitmaps", "x.qcow2", "new.img"], ["--bitmaps", "-O", "qcow2", "-o", "compat=0.10", "x.qcow2", "new.img"],
                ["--bitmaps", "-O", "qcow2", "x.qcow2", "x2.qcow2", "new.img"], ["--skip-broken-bitmaps", "-O", "qcow2", "x.qcow2", "new.img"],
                ["-l", "nosuch", "x.qcow2", "new.img"], ["-l", "", "x.qcow2", "new.img"], ["-l", "snapshot.nosuch=1", "x.qcow2", "new.img"],
                ["-l", "one", "x.raw", "new.img"], ["-l", "one", "x.qcow2", "x2.qcow2", "new.img"], ["-s", "one", "x.qcow2", "new.img"],
                ["-e", "x.qcow2", "new.img"], ["x.raw", "null-co://"], ["x.raw", "nbd://localhost:1/x"], ["x.raw", "nosuch:x"],
                ["x.raw", "json:{}"], ["x.raw", "blkdebug::new.img"], ["x.raw", ""], ["", "new.img"]],
    "amend": [[], ["x.qcow2"], ["-o", "compat=1.1"], ["-o", "compat=1.1", "x.qcow2", "x2.qcow2"], ["-o", "compat=1.1", "nowhere"],
              ["-o", "compat=1.1", "folder"], ["-o", "", "x.qcow2"], ["-o", "nosuch=1", "x.qcow2"], ["-o", "compat=0.9", "x.qcow2"],
              ["-o", "lazy_refcounts=maybe", "x.qcow2"], ["-o", "cluster_size=4k", "x.qcow2"], ["-o", "preallocation=full", "x.qcow2"],
              ["-o", "encryption=on", "x.qcow2"], ["-o", "encrypt.format=luks", "x.qcow2"], ["-o", "data_file=x", "x.qcow2"],
              ["-o", "extended_l2=on", "x.qcow2"], ["-o", "compression_type=zstd", "x.qcow2"], ["-o", "size=x", "x.qcow2"],
              ["-o", "size=512k", "x.qcow2"], ["-o", "refcount_bits=3", "x.qcow2"], ["-o", "compat=0.10,lazy_refcounts=on", "x.qcow2"],
              ["-o", "backing_file=nowhere", "x.qcow2"], ["-f", "nosuch", "-o", "compat=1.1", "x.qcow2"], ["-f", "raw", "-o", "compat=1.1", "x.raw"],
              ["-f", "raw", "-o", "size=2M", "x.raw"], ["--nosuch", "-o", "compat=1.1", "x.qcow2"], ["-t", "nosuch", "-o", "compat=1.1", "x.qcow2"],
              ["-o", "compat=1.1", *FORMAT_AND_OPTIONS], ["-o", "compat=1.1", "broken.qcow2"], ["-o", "help"], ["-o", "help", "x.qcow2"],
              ["-o", "compat=1.1", "-q", "x.qcow2"], ["--force", "-o", "compat=1.1", "x.qcow2"], ["-U", "-o", "compat=1.1", "x.qcow2"]],
    "rebase": [[], ["x.qcow2"], ["-b", "x.raw"], ["-b", "x.raw", "-F", "raw", "x.qcow2", "x2.qcow2"], ["-b", "nowhere", "-F", "raw", "x.qcow2"],
               ["-b", "x.raw", "x.qcow2"], ["-b", "x.raw", "-F", "nosuch", "x.qcow2"], ["-u", "-b", "nowhere", "-F", "raw", "x.qcow2"],
               ["-u", "-b", "nowhere", "x.qcow2"], ["-b", "x.raw", "-F", "raw", "nowhere"], ["-b", "x.raw", "-F", "raw", "folder"],
               ["-b", "x.raw", "-F", "raw", "x.raw"], ["-f", "raw", "-b", "x2.raw", "-F", "raw", "x.raw"], ["-b", "", "x.qcow2"],
               ["-b", "", "broken.qcow2"], ["-u", "-b", "", "broken.qcow2"], ["-b", "x.raw", "-F", "raw", "broken.qcow2"],
               ["-b", "x.qcow2", "-F", "qcow2", "x.qcow2"], ["-f", "nosuch", "-b", "x.raw", "-F", "raw", "x.qcow2"],
               ["-t", "nosuch", "-b", "x.raw", "-F", "raw", "x.qcow2"], ["-T", "nosuch", "-b", "x.raw", "-F", "raw", "x.qcow2"],
               ["--nosuch", "-b", "x.raw", "-F", "raw", "x.qcow2"], ["-b", "x.raw", "-F", "raw", *FORMAT_AND_OPTIONS],
               ["-b", "x.raw", "-F", "qcow2", "x.qcow2"], ["-F", "raw", "x.qcow2"]],
    "commit": [[], ["x.qcow2"], ["nowhere"], ["folder"], ["x.raw"], ["-f", "raw", "x.raw"], ["broken.qcow2"], ["over.qcow2", "x.qcow2"],
               ["-b", "nowhere", "over.qcow2"], ["-b", "x.raw", "over.qcow2"], ["-b", "x2.raw", "over.qcow2"], ["-t", "nosuch", "over.qcow2"],
               ["-f", "nosuch", "over.qcow2"], ["--nosuch", "over.qcow2"], ["-d", "over.qcow2"], ["-q", "over.qcow2"], FORMAT_AND_OPTIONS,
               *(["-r", number, "over.qcow2"] for number in (*NUMBERS, "0", "1G"))],
    "snapshot": [[], ["x.qcow2"], ["-l", "x.qcow2"], ["-l"], ["-l", "nowhere"], ["-l", "folder"], ["-l", "x.raw"], ["-l", "x.qcow2", "x2.qcow2"],
                 ["-c", "new"], ["-c", "", "x.qcow2"], ["-c", "new", "x.raw"], ["-a", "nosuch", "x.qcow2"], ["-d", "nosuch", "x.qcow2"],
                 ["-a", "one", "x.raw"], ["-d", "one", "x.raw"], ["-c", "new", "-l", "x.qcow2"], ["-c", "a", "-d", "b", "x.qcow2"],
                 ["-l", "-l", "x.qcow2"], ["-c", "a", "-c", "b", "x.qcow2"], ["-U", "-c", "a", "x.qcow2"], ["-U", "-l", "x.qcow2"],
                 ["--nosuch", "-l", "x.qcow2"], ["-q", "-c", "a", "x.qcow2"], ["-l", *BY_OPTIONS]],
    "bitmap": [[], ["x.qcow2"], ["x.qcow2", "b"], ["--add", "x.qcow2"], ["--add", "x.qcow2", "b", "c"], ["--add", "nowhere", "b"],
               ["--add", "folder", "b"], ["--add", "x.raw", "b"], ["--add", "-f", "raw", "x.raw", "b"], ["--add", "x.qcow2", ""],
               ["--add", "x.qcow2", "b"], ["--remove", "x.qcow2", "nosuch"], ["--clear", "x.qcow2", "nosuch"],
               ["--enable", "x.qcow2", "nosuch"], ["--disable", "x.qcow2", "nosuch"], ["--merge", "nosuch", "x.qcow2", "nosuch"],
               ["--add", "--remove", "x.qcow2", "b"], ["--enable", "--disable", "x.qcow2", "b"], ["-g", "64k", "--clear", "x.qcow2", "b"],
               ["--add", "-b", "x2.qcow2", "x.qcow2", "b"], ["-b", "x2.qcow2", "--merge", "nosuch", "x.qcow2", "b"],
               ["--add", "-F", "qcow2", "x.qcow2", "b"], ["--add", "-b", "nowhere", "--merge", "s", "x.qcow2", "b"],
               ["--add", "-f", "nosuch", "x.qcow2", "b"], ["--nosuch", "--add", "x.qcow2", "b"], ["--add", *FORMAT_AND_OPTIONS, "b"],
               ["--add", "x.qcow2", "b" * 1024], ["--add", "broken.qcow2", "b"], ["--merge", "x.qcow2", "b"],
               *(["--add", "-g", number, "x.qcow2", "b"] for number in (*NUMBERS, "0", "1", "256", "512", "1000", "4G"))],
    "measure": ONE_IMAGE + [["--size", "1M", "x.qcow2"], ["--size", "1M", "-f", "raw"], ["--size"], ["--output=xml", "x.qcow2"], ["-O", "nosuch", "x.qcow2"],
                            ["-o", "nosuch=1", "x.qcow2"], ["-O", "qcow2", "-o", "cluster_size=1000", "x.qcow2"], ["broken.qcow2"],
                            *(["--size", number] for number in NUMBERS)],
    "resize": [[], ["x.qcow2"], ["2M"], ["x.qcow2", "x.raw", "2M"], ["nowhere", "2M"], ["folder", "2M"], ["--nosuch", "x.qcow2", "2M"], ["-U", "x.qcow2", "2M"],
               *(["x.qcow2", number] for number in NUMBERS), *(["x.qcow2", f"+{number}"] for number in NUMBERS),
               *(["--shrink", "-f", "raw", "x.raw", f"-{number}"] for number in NUMBERS), ["x.qcow2", "512k"], ["--preallocation", "nosuch", "x.qcow2", "2M"],
               ["--shrink", "--preallocation=full", "x.qcow2", "512k"], ["-f", "nosuch", "x.qcow2", "2M"], ["-f", "raw", *BY_OPTIONS, "2M"],
               ["x.qcow2", "2M", "--shrink"], ["-f", "raw", "--preallocation=metadata", "x.raw", "2M"], ["broken.qcow2", "2M"]],
    "dd": [[], ["if=x.raw"], ["of=new.img"], ["if=nowhere", "of=new.img"], ["if=x.raw", "of=folder"], ["if=x.raw", "of=no/folder/new.img"],
           ["if=x.raw", "of=new.img", "nosuch=1"], ["if=x.raw", "of=new.img", "nosuch"], ["-O", "nosuch", "if=x.raw", "of=new.img"],
           ["-f", "nosuch", "if=x.raw", "of=new.img"], ["--nosuch", "if=x.raw", "of=new.img"], ["--image-opts", "-f", "raw", "if=x.raw", "of=new.img"],
           *(["if=x.raw", "of=new.img", f"{name}={number}"] for number in (*NUMBERS, "0") for name in ("bs", "skip", "count"))],
    "bench": [[], ["x.qcow2", "x.qcow2"], ["nowhere"], ["-c", "1", "folder"], ["--nosuch", "x.qcow2"], ["-f", "nosuch", "x.qcow2"],
              ["-c", "1", "-f", "raw", *BY_OPTIONS], ["-c", "1", "-w", "-U", "x.qcow2"], ["-c", "1", "-t", "nosuch", "x.qcow2"], ["-c", "1", "-i", "nosuch", "x.qcow2"],
              ["-c", "1", "-n", "x.qcow2"], ["-c", "1", "-i", "native", "x.qcow2"], ["-c", "5", "-w", "--flush-interval", "4", "-d", "5", "x.qcow2"],
              ["-c", "5", "--flush-interval", "4", "-d", "2", "x.qcow2"], ["-c", "1", "-o", "1M", "x.qcow2"], ["-c", "1", "-s", "2M", "x.qcow2"],
              ["-c", "1", "-s", "60k", "-o", "1000k", "x.qcow2"], ["-c", "1", "-s", "0", "x.qcow2"], ["-c", "3", "-S", "1000", "x.qcow2"],
              *(["-c", number, "x.qcow2"] for number in (*NUMBERS, "0", "3000000000", "1k")),
              *(["-c", "1", "-d", number, "x.qcow2"] for number in (*NUMBERS, "3000000000", "1k")),
              *(["-c", "1", option, number, "x.qcow2"] for number in NUMBERS for option in ("-o", "-s", "-S")),
              *(["-c", "1", "-w", "--pattern", number, "x.qcow2"] for number in (*NUMBERS, "0", "255", "256")),
              *(["-c", "1", "-w", "--flush-interval", number, "x.qcow2"] for number in (*NUMBERS, "0", "64"))],
}

class WrongInvocations(PeerCase):

    def lay_out(self):
        """A folder with what the invocations name."""
        folder = self.path("work")
        shutil.rmtree(folder, ignore_errors=True)
        os.mkdir(folder)
        os.mkdir(os.path.join(folder, "folder"))
        for name in ("x.qcow2", "x2.qcow2", "short.qcow2", "x.raw", "x2.raw", "over.qcow2", "broken.qcow2"):
            shutil.copy(os.path.join(self.gallery, name), os.path.join(folder, name))
        open(os.path.join(folder, "empty"), "w").close()
        return folder

    def setUp(self):
        super().setUp()
        self.gallery = self.path("gallery")
        os.mkdir(self.gallery)
        for arguments in (["-f", "qcow2", "x.qcow2", "1M"], ["-f", "qcow2", "x2.qcow2", "1M"], ["-f", "qcow2", "short.qcow2", "512k"],
                          ["-f", "raw", "x.raw", "1M"], ["-f", "raw", "x2.raw", "1M"],
                          ["-f", "qcow2", "-b", "x.raw", "-F", "raw", "over.qcow2"],
                          ["-f", "qcow2", "-u", "-b", "gone.qcow2", "-F", "qcow2", "broken.qcow2", "1M"]):
            self.ok(qemu_img("create", "-q", *arguments, cwd=self.gallery))

    def outcome(self, program, command, arguments):
        folder = self.lay_out()
        before = self.state(folder)
        words = [command] if command else []
        result = program(*words, *arguments, cwd=folder, timeout=60)
        return result, before, self.state(folder)

    def state(self, folder):
        """The names, and the content of what was there."""
        return {name: self.read_file(os.path.join(folder, name)) for name in sorted(os.listdir(folder)) if name != "folder"}

    def each(self, command):
        for arguments in INVOCATIONS[command]:
            with self.subTest(command=command, arguments=arguments):
                theirs, _, _ = self.outcome(qemu_img, command, arguments)
                ours, before, after = self.outcome(COMPAT_TOOL.img, command, arguments)
                if command == "measure" and theirs.code == 0 and "Command syntax:" in theirs.out:
                    self.refused(ours)      # QEMU shows its help and calls that success
                    continue
                self.assertEqual(ours.code, theirs.code, f"{ours}{theirs}")
                if ours.code != 0 and not (command == "compare" and ours.code == 1 and not ours.err):
                    self.refused(ours)
                    self.assertEqual(before, after, f"nothing may be left or changed{ours}")

    def test_program(self):
        self.each("")

    def test_info(self):
        self.each("info")

    def test_check(self):
        self.each("check")

    def test_map(self):
        self.each("map")

    def test_compare(self):
        self.each("compare")

    def test_create(self):
        self.each("create")

    def test_convert(self):
        self.each("convert")

    def test_amend(self):
        self.each("amend")

    def test_rebase(self):
        self.each("rebase")

    def test_commit(self):
        self.each("commit")

    def test_snapshot(self):
        self.each("snapshot")

    def test_bitmap(self):
        self.each("bitmap")

    def test_measure(self):
        self.each("measure")

    def test_resize(self):
        self.each("resize")

    def test_dd(self):
        self.each("dd")

    def test_bench(self):
        self.each("bench")


if __name__ == "__main__":
    unittest.main(verbosity=2)
