"""`cofre bench`: the figures are there, hang together, and wrong requests are refused. Never how fast anything is."""

import json
import re
import unittest

from program import ProgramCase


class BenchCrypto(ProgramCase):
    def test_json_has_every_case(self):
        report = json.loads(self.ok("bench", "crypto", "--kernel", "portable", "--turns", "1", "--output", "json").stdout)
        self.assertEqual(report["limits"], [], "the portable kernel uses no AES instructions")
        cases = {(run["cipher"], run["direction"], run["sector-bytes"], run["run-bytes"]) for run in report["runs"]}
        self.assertEqual(len(cases), len(report["runs"]))
        for cipher in ("aes-128-xts-plain64", "aes-256-xts-plain64", "aes-128-cbc-plain64", "aes-256-cbc-plain64"):
            for direction in ("encrypt", "decrypt"):
                for sector, run in ((512, 512), (512, 65536), (4096, 4096), (4096, 1 << 20)):
                    self.assertIn((cipher, direction, sector, run), cases)
        for run in report["runs"]:
            names = [speed["by"].split()[0] for speed in run["speeds"]]
            self.assertEqual(names, ["portable"] if "essiv" in run["cipher"] else ["portable", "OpenSSL", "libgcrypt"])
            for speed in run["speeds"]:
                self.assertGreater(speed["bytes-per-second"], 0)
                self.assertLessEqual(speed["median-bytes-per-second"], speed["bytes-per-second"])

    def test_the_text_names_the_ciphers_and_the_peers(self):
        text = self.ok("bench", "crypto", "--kernel=portable", "--turns=1").stdout
        for word in ("aes-256-xts-plain64", "aes-256-cbc-essiv:sha256", "portable", "OpenSSL", "libgcrypt", "1 MiB"):
            self.assertIn(word, text)
        self.assertTrue(all(len(line) <= 110 for line in text.splitlines()), text)
        self.assertEqual(len(re.findall(r"^  (?:en|de)crypt ", text, re.M)), 5 * 2 * 7)

    def test_wrong_ones_are_refused(self):
        self.assertIn("crypto", self.refused("bench"))
        self.assertIn("'paint'", self.refused("bench", "paint"))
        self.assertIn("'sse9'", self.refused("bench", "crypto", "--kernel", "sse9"))
        self.assertIn("--turns", self.refused("bench", "crypto", "--turns", "0"))
        self.assertIn("--output", self.refused("bench", "crypto", "--output", "xml"))


if __name__ == "__main__":
    unittest.main()
