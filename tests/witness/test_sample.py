"""Sampling: where the time goes, of a program that spends it all in one function with AES."""

import os
import unittest

from witnessing import COFRE, TARGET, WitnessCase, alone


class Sample(WitnessCase):
    def assert_chain_leads(self, sampled):
        self.assertGreater(sampled["samples"], 10)
        first = sampled["routines"][0]
        self.assertEqual((first["name"], first["aes-instructions"]), ("chain", True))
        self.assertGreater(first["samples"], sampled["samples"] / 2)
        self.assertIn(sampled["method"], ("perf", "ptrace"))

    def test_a_command(self):
        report, output = self.watch(TARGET, "chain", 2, 1000, options=["--sample"])
        self.assert_chain_leads(report["sampled"])
        self.assertEqual((output, report["exit-code"]), (alone("chain", 1, 1), 0))

    def test_a_process(self):
        process = self.start_chain(2)
        report = self.watch_process(process.pid, options=["--sample"])
        self.assert_chain_leads(report["sampled"])
        self.finish_chain(process)

    def assert_software_leads(self, report, one_in):
        """At least one sample in so many: how much else a program does is not the witness' affair."""
        sampled = report["sampled"]
        self.assertEqual([r["name"] for r in sampled["routines"] if r["aes-instructions"]], [])
        self.assertGreater(sum(r["samples"] for r in sampled["routines"]), sampled["samples"] / one_in, report)
        self.assertIn("no AES instruction was met", report["verdict"])

    def test_bit_slices_of_cofre(self):
        image = self.path("plain.img")
        with open(image, "wb") as file:
            file.write(os.urandom(64 << 20))
        report, _ = self.watch(COFRE, "convert", "--object", "secret,id=s0,data=hunter2", "-O", "qcow2", "-o",
                               "encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10", image, self.path("to"),
                               options=["--sample"], env={**os.environ, "COFRE_AES": "portable"})
        self.assert_software_leads(report, one_in=20)  # a sanitizer makes everything else slow
        self.assertTrue(any("crypto" in r["name"] for r in report["sampled"]["routines"]), report)

    def test_tables_of_openssl(self):
        """In a stripped library, whose exported function calls the nameless one that does the work."""
        without = "~0x200020200000000"  # OPENSSL_ia32cap(3): neither AES-NI nor PCLMULQDQ nor SSSE3
        report, _ = self.watch("openssl", "speed", "-seconds", 1, "-bytes", 16384, "-evp", "aes-256-xts",
                               options=["--sample"], env={**os.environ, "OPENSSL_ia32cap": without})
        self.assert_software_leads(report, one_in=2)
        self.assertTrue(any("AES" in r["name"] for r in report["sampled"]["routines"]), report)

    def test_time_elsewhere(self):
        report, _ = self.watch("sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done", options=["--sample"])
        self.assertEqual(report["sampled"]["routines"], [])
        self.assertIn("no time was seen in routines of AES", report["verdict"])


if __name__ == "__main__":
    unittest.main()
