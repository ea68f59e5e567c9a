"""`cofre serve` over TLS: certificates and shared keys, with qemu-img, libnbd and `cofre` as clients, and those that must
stay outside."""

import os
import unittest

import nbd_wire as wire
from cofre_peers import KIB, MIB, PeerCase, cofre, qemu_img, random_disk, run
from nbd_wire import ACK, Client
from serving import OUR_QEMU_NBD, Server, cofre_serve, nbdsh

SIZE = 2 * MIB


class TlsCase(PeerCase):

    def setUp(self):
        super().setUp()
        self.socket = self.path("socket")
        self.disk = random_disk(self.rng, SIZE)
        self.raw = self.write_file("disk.raw", self.disk)

    def authority(self, folder):
        """A certificate authority, a server and two clients, as libnbd and QEMU name the files."""
        os.mkdir(folder)

        def openssl(*args):
            self.ok(run("openssl", *args))

        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "9", "-subj",
                "/CN=authority", "-keyout", f"{folder}/ca-key.pem", "-out", f"{folder}/ca-cert.pem")
        for name, file, use in (("localhost", "server", "serverAuth"), ("alice", "client", "clientAuth"),
                                ("mallory", "other", "clientAuth")):
            with open(f"{folder}/extensions", "w", encoding="ascii") as text:
                text.write(f"extendedKeyUsage={use}\nsubjectAltName=DNS:localhost\n")
            openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/O=Cofre/CN={name}",
                    "-keyout", f"{folder}/{file}-key.pem", "-out", f"{folder}/request.pem")
            openssl("x509", "-req", "-in", f"{folder}/request.pem", "-CA", f"{folder}/ca-cert.pem", "-CAkey",
                    f"{folder}/ca-key.pem", "-CAcreateserial", "-days", "9", "-extfile", f"{folder}/extensions", "-out",
                    f"{folder}/{file}-cert.pem")
        return folder

    def folder_of(self, folder, who):
        """Credentials of one of the clients alone."""
        alone = f"{folder}-{who}"
        os.mkdir(alone)
        os.symlink(f"{folder}/ca-cert.pem", f"{alone}/ca-cert.pem")
        for part in ("cert", "key"):
            os.symlink(f"{folder}/{who}-{part}.pem", f"{alone}/client-{part}.pem")
        return alone

    def x509_code(self, folder):
        return (f"h.set_tls(nbd.TLS_REQUIRE); h.set_tls_certificates({folder!r}); h.set_tls_verify_peer(False)")


class Certificates(TlsCase):

    def serve(self, folder, *args):
        return cofre_serve(self.socket, "--object", f"tls-creds-x509,id=t,endpoint=server,dir={folder},verify-peer=on",
                           "--tls-creds", "t", "-f", "raw", *args, self.raw)

    def test_clients_with_a_certificate_come_in(self):
        folder = self.authority(self.path("pki"))
        alice = self.folder_of(folder, "client")
        with self.serve(folder) as server:
            uri = f"nbds+unix:///?socket={self.socket}"
            code = (f"d = open({self.raw!r}, 'rb').read()\n"
                    "assert h.pread(len(d), 0) == d\n"
                    "h.pwrite(b'secret' * 100000, 1000); h.flush()\n"
                    "assert h.pread(600000, 1000) == b'secret' * 100000\nprint(h.get_tls_negotiated())")
            self.assertEqual(self.ok(nbdsh(uri, code, self.x509_code(alice))).out, "True\n")
            opts = f"driver=nbd,server.type=unix,server.path={self.socket},tls-creds=t"
            creds = ["--object", f"tls-creds-x509,id=t,endpoint=client,dir={alice},verify-peer=on"]
            expected = self.path("expected")
            self.ok(qemu_img("convert", *creds, "--image-opts", opts + ",tls-hostname=localhost", "-O", "raw", expected))
            self.same_bytes(self.read_file(expected)[1000:601000], b"secret" * 100000, "through qemu-img")
            self.assertEqual(server.stop(), 0, server.said())

    def test_others_stay_outside(self):
        folder = self.authority(self.path("pki"))
        stranger = self.folder_of(self.authority(self.path("pki2")), "client")
        with self.serve(folder, "-v") as server:
            uri = f"nbds+unix:///?socket={self.socket}"
            self.refused(nbdsh(uri, "", self.x509_code(stranger)), "error")
            self.refused(nbdsh(uri, "h.pread(512, 0)", "h.set_tls(nbd.TLS_REQUIRE); h.set_tls_verify_peer(False)"), "error")
            self.refused(run("nbdinfo", f"nbd+unix:///?socket={self.socket}"), ("tls", "not supported"))
            with Client(self.socket) as client:
                for option, data in (("list", b""), ("go", client.name_data("")), ("structured_reply", b"")):
                    self.assertEqual(client.option(option, data)[-1][0], wire.ERR_TLS_REQD)
                client.send_option("export_name", b"")
                self.assertTrue(client.hung_up())
            with Client(self.socket) as client:   # says that it will, and then speaks no TLS
                self.assertEqual(client.option("starttls")[-1][0], ACK)
                client.send(self.rng.randbytes(5000))
                try:
                    client.receive(100_000)
                except wire.Closed:
                    pass
            self.ok(nbdsh(uri, "h.pread(512, 0)", self.x509_code(self.folder_of(folder, "client"))))
            self.assertIn("TLS", server.said())

    def test_one_name_is_allowed(self):
        folder = self.authority(self.path("pki"))
        with self.serve(folder, "--object", "authz-simple,id=z,identity=CN=alice,,O=Cofre", "--tls-authz", "z") as server:
            uri = f"nbds+unix:///?socket={self.socket}"
            self.ok(nbdsh(uri, "h.pread(512, 0)", self.x509_code(self.folder_of(folder, "client"))))
            self.refused(nbdsh(uri, "h.pread(512, 0)", self.x509_code(self.folder_of(folder, "other"))), "error")
            self.assertEqual(server.stop(), 0, server.said())

    def test_bad_credentials(self):
        folder = self.authority(self.path("pki"))
        os.unlink(f"{folder}/server-key.pem")
        args = ("serve", "--nbd", f"unix:{self.socket}", "--tls-creds", "t", self.raw)
        self.refused(cofre(*args, "--object", f"tls-creds-x509,id=t,endpoint=server,dir={folder}"), "server-key.pem", code=1)
        self.write_file("pki/server-key.pem", "no key")
        self.refused(cofre(*args, "--object", f"tls-creds-x509,id=t,endpoint=server,dir={folder}"), "key", code=1)
        self.refused(cofre(*args, "--object", f"tls-creds-x509,id=t,endpoint=client,dir={folder}"), "server endpoint", code=1)
        self.refused(cofre(*args, "--object", f"tls-creds-anon,id=t,endpoint=server,dir={folder}"), "not supported", code=1)


class SharedKeys(TlsCase):

    def test_both_personalities_and_all_clients(self):
        folder = self.path("psk")
        os.mkdir(folder)
        key = self.rng.randbytes(32).hex()
        self.write_file("psk/keys.psk", f"qemu:{key}\nalice:{self.rng.randbytes(32).hex()}\n")
        other = self.path("other")
        os.mkdir(other)
        self.write_file("other/keys.psk", f"qemu:{self.rng.randbytes(32).hex()}\n")
        objects = ("--object", f"tls-creds-psk,id=t,endpoint=server,dir={folder}", "--tls-creds", "t", "-f", "raw", self.raw)
        for server in (cofre_serve(self.socket, *objects), Server(self.socket, OUR_QEMU_NBD, "-t", "-e", "0", "-k", self.socket, *objects)):
            with server:
                for name in ("qemu", "alice"):
                    before = (f"h.set_tls(nbd.TLS_REQUIRE); h.set_tls_psk_file({folder + '/keys.psk'!r}); "
                              f"h.set_tls_username({name!r})")
                    self.ok(nbdsh(f"nbds+unix:///?socket={self.socket}", f"h.pread({64 * KIB}, 0)", before))
                wrong = before.replace(folder, other).replace("alice", "qemu")
                self.refused(nbdsh(f"nbds+unix:///?socket={self.socket}", "h.pread(512, 0)", wrong), "error")
                opts = f"driver=nbd,server.type=unix,server.path={self.socket},tls-creds=t"
                creds = ["--object", f"tls-creds-psk,id=t,endpoint=client,dir={folder}"]
                for program in (qemu_img, cofre):
                    out = self.path("out.raw")
                    self.ok(program("convert", *creds, "--image-opts", opts, "-O", "raw", out))
                    self.same_bytes(self.read_file(out), self.disk, "over TLS")
                self.assertEqual(self.ok(run(OUR_QEMU_NBD, "-L", "-k", self.socket, *creds, "--tls-creds", "t")).out.split("\n")[0],
                                 "exports available: 1")
                self.assertEqual(server.stop(), 0, server.said())


if __name__ == "__main__":
    unittest.main()
