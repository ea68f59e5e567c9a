"""cofre doctor on libvirt domains. The domain files pass libvirt's own schema; processor models are held against the
map that libvirt has of them (Debian package libvirt0), and against what QEMU itself says of them."""

import glob
import json
import os
import subprocess
import unittest
import xml.etree.ElementTree as ElementTree

from cofre_peers import MIB, Image, cofre, cryptsetup, luks_options, qemu_img, run
from doctor import FAILED, DoctorCase

DOMAINS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "domains")
CPU_MAP = "/usr/share/libvirt/cpu_map"
SCHEMA = "/usr/share/libvirt/schemas/domain.rng"


def libvirt_models():
    """{model: set of features}, those of the models it is built on included."""
    elements = {}
    for path in glob.glob(os.path.join(CPU_MAP, "x86_*.xml")):
        for model in ElementTree.parse(path).getroot().findall("model"):
            elements[model.get("name")] = model

    def features(name):
        own = {feature.get("name") for feature in elements[name].findall("feature")}
        return own.union(*(features(base.get("name")) for base in elements[name].findall("model")))

    return {name: features(name) for name in elements}


class Monitor:
    """QEMU with nothing but its monitor (QMP)."""

    def __init__(self):
        self.process = subprocess.Popen(["qemu-system-x86_64", "-S", "-M", "none", "-accel", "tcg", "-display", "none",
                                         "-nodefaults", "-qmp", "stdio"],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()
        self.execute("qmp_capabilities")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.communicate('{"execute": "quit"}\n', timeout=60)

    def execute(self, command, **arguments):
        self.process.stdin.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.process.stdin.flush()
        while True:
            answer = json.loads(self.process.stdout.readline())
            if "event" not in answer:
                return answer["return"]


def qemu_models():
    """{model: set of features}, the versions of each model included; without those that follow the host."""
    with Monitor() as monitor:
        names = [definition["name"] for definition in monitor.execute("query-cpu-definitions")]
        models = {}
        for name in set(names) - {"base", "host", "max"}:
            expansion = monitor.execute("query-cpu-model-expansion", type="full", model={"name": name})
            models[name] = {feature for feature, value in expansion["model"]["props"].items() if value is True}
        return models


class DomainCase(DoctorCase):
    def domain(self, name):
        """A file of domains/, with IMAGES made the scratch folder."""
        with open(os.path.join(DOMAINS, name), encoding="utf-8") as file:
            text = file.read()
        return self.write_file(name, text.replace("IMAGES", self.dir))

    def look(self, name, *args, **how):
        return self.doctor("--domain", self.domain(name), *args, **how)["domain"]


class Processors(DomainCase):
    def test_every_model_of_libvirt(self):
        models = libvirt_models()
        self.assertGreater(len(models), 50, f"no cpu_map in {CPU_MAP}: apt-get install libvirt0")
        self.check(models)

    def test_every_model_of_qemu(self):
        models = qemu_models()
        self.assertGreater(len(models), 100)
        self.check(models)

    def check(self, models):
        for model, features in sorted(models.items()):
            with self.subTest(model=model):
                xml = (f"<domain type='kvm'><name>x</name><cpu mode='custom' match='exact'><model>{model}</model></cpu>"
                       "</domain>")
                cpu = self.doctor("--domain", self.write_file("model.xml", xml))["domain"]["cpu"]
                self.assertEqual(cpu["guest-sees"], {name: name in features for name in ("aes", "avx2", "vaes")})

    def test_modes(self):
        self.assertEqual(self.ids(self.look("web1.xml")).get("guest-no-aes"), None)
        self.assertEqual(self.ids(self.look("old.xml"))["guest-no-aes"], "attention")
        self.assertEqual(self.ids(self.look("default-cpu.xml"))["guest-no-aes"], "attention")
        self.assertEqual(self.ids(self.look("disabled.xml"))["guest-no-aes"], "attention")
        self.assertEqual(self.ids(self.look("emulated.xml"))["guest-emulated"], "attention")
        self.assertEqual(self.ids(self.look("arm.xml"))["guest-arch-unknown"], "note")


class Disks(DomainCase):
    def make_images(self):
        secret = self.secret()
        self.ok(qemu_img("create", "-q", *Image("", secret=secret).object_args(), "-f", "qcow2", "-o", luks_options(),
                         self.path("system.qcow2"), "1M"))
        self.write_file("guest.raw", bytes(4 * MIB))
        self.ok(cryptsetup("luksFormat", "--type", "luks1", "--iter-time", "10", "--key-file", secret,
                           self.path("guest.raw")))
        self.ok(qemu_img("create", "-q", "-f", "qcow2", self.path("data.qcow2"), "1M"))

    def test_as_the_images_are(self):
        self.make_images()
        found = self.look("web1.xml")
        self.assertEqual(self.ids(found, "vda"), {"disk-encrypted": "ok"})
        self.assertEqual(self.ids(found, "vdb"), {"disk-guest-luks": "ok"})
        self.assertEqual(self.ids(found, "vdc"), {"disk-plain": "note", "disk-discard": "note"})
        self.assertEqual(self.ids(found, "vdd"), {"disk-plain": "note"})
        self.assertEqual(len(found["disks"]), 4, "a cdrom is no disk")
        self.assertEqual([disk["looked-at"] for disk in found["disks"]], [True, True, True, False])

    def test_images_that_cannot_be_looked_at(self):
        found = self.look("web1.xml")
        for disk in ("vda", "vdb", "vdc"):
            self.assertEqual(self.ids(found, disk)["disk-missing"], "attention")
        self.assertEqual(self.ids(found, "vdd"), {"disk-plain": "note"})
        self.assertIn("not looked at", self.finding(found, "disk-plain")["sentence"])

    def test_a_qcow2_image_said_to_be_raw(self):
        """The guest would see, and overwrite, the image's tables."""
        self.make_images()
        os.replace(self.path("system.qcow2"), self.path("guest.raw"))
        result = cofre("doctor", "--quick", "--domain", self.domain("web1.xml"))
        self.assertEqual(result.code, 2, f"{result}")
        self.assertEqual(self.ids(self.look("web1.xml"), "vdb"), {"disk-driver-mismatch": "attention"})

    def test_images_that_are_otherwise(self):
        self.make_images()
        os.replace(self.path("data.qcow2"), self.path("plain"))
        os.replace(self.path("system.qcow2"), self.path("data.qcow2"))
        os.replace(self.path("plain"), self.path("system.qcow2"))
        found = self.look("web1.xml")
        self.assertEqual(self.ids(found, "vda")["disk-encryption-mismatch"], "attention")
        self.assertEqual(self.ids(found, "vdc")["disk-encryption-mismatch"], "attention")

    def test_settings(self):
        found = self.look("old.xml")
        self.assertEqual(self.ids(found, "vda"), {"disk-missing": "attention", "disk-legacy-encryption": "attention", "disk-cache-unsafe": "attention",
                                                  "disk-discard": "note"})
        self.assertEqual(self.ids(found, "vdb"), {"disk-missing": "attention", "disk-encrypted": "ok", "disk-cache-writethrough": "note",
                                                  "disk-io-native": "attention", "disk-no-iothread": "note"})

    def test_host_image_and_domain_on_one_page(self):
        self.make_images()
        report = self.doctor("--domain", self.domain("web1.xml"), self.path("system.qcow2"))
        self.assertEqual(list(report), ["schema", "attention", "host", "image", "domain"])
        result = cofre("doctor", "--quick", "--domain", self.domain("web1.xml"), self.path("system.qcow2"))
        for words in ("Host\n", "Image ", "Domain web1\n", "  vda:\n"):
            self.assertIn(words, result.out)

    def test_a_pipe(self):
        with open(self.domain("old.xml"), encoding="utf-8") as file:
            result = cofre("doctor", "--quick", "--output=json", "--domain", "/dev/stdin", stdin=file.read())
        self.assertEqual(result.json()["domain"]["name"], "old")


class DomainFiles(DomainCase):
    def test_libvirts_schema_takes_them(self):
        names = os.listdir(DOMAINS)
        self.assertGreater(len(names), 5)
        for name in names:
            with self.subTest(name):
                self.ok(run("xmllint", "--noout", "--nonet", "--relaxng", SCHEMA, self.domain(name)))


class Hostile(DoctorCase):
    def refused_xml(self, xml, *words):
        path = self.write_file("bad.xml", xml)
        return self.bounded(self.refused(cofre("doctor", "--quick", "--domain", path), *words, code=FAILED))

    def test_entities(self):
        lines = [f"<!ENTITY l{n} '{f'&l{n - 1};' * 10}'>" for n in range(1, 10)]
        laughs = f"<!DOCTYPE domain [<!ENTITY l0 'lol'>{''.join(lines)}]><domain><name>&l9;</name></domain>"
        self.refused_xml(laughs, "document type")
        secret = self.write_file("outside", "must not be read")
        outside = self.refused_xml(f"<!DOCTYPE domain [<!ENTITY x SYSTEM 'file://{secret}'>]>"
                                   "<domain><name>&x;</name></domain>", "document type")
        self.assertNotIn("must not", outside.err)
        self.refused_xml("<!DOCTYPE domain SYSTEM 'http://example.invalid/d.dtd'><domain/>", "document type")

    def test_what_is_no_domain(self):
        for xml in ("", "plain text", "<domain>", "<network><name>x</name></network>", b"\xff\xfe\x00", b"\0" * 4096,
                    self.rng.randbytes(10_000)):
            with self.subTest(xml=xml[:20]):
                self.refused_xml(xml)

    def test_size_and_depth(self):
        self.refused_xml("<domain>" + " " * (5 * MIB) + "</domain>", "larger")
        path = self.write_file("deep.xml", "<domain>" + "<a>" * 500_000 + "</a>" * 500_000 + "</domain>")
        self.bounded(cofre("doctor", "--quick", "--domain", path))

    def test_names_do_not_reach_the_terminal_as_they_are(self):
        path = self.write_file("escape.xml", "<domain><name>\x1b]0;owned\x07</name><devices><disk><target dev='\x1b[2J'/>"
                                             "</disk></devices></domain>")
        self.assertNotIn("\x1b", cofre("doctor", "--quick", "--domain", path).out)

    def test_broken_files_do_no_harm(self):
        with open(os.path.join(DOMAINS, "web1.xml"), "rb") as file:
            good = file.read()
        for _ in range(40):
            bad = bytearray(good)
            for _ in range(self.rng.randrange(1, 30)):
                bad[self.rng.randrange(len(bad))] = self.rng.randrange(256)
            path = self.write_file("bad.xml", bytes(bad[:self.rng.randrange(len(bad))]))
            result = cofre("doctor", "--quick", "--output=json", "--domain", path)
            self.assertIn(result.code, (0, FAILED, 2), f"{result}")


if __name__ == "__main__":
    unittest.main()
