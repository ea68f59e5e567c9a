"""Sampling: where the time goes, of a program that spends it all in one function with AES."""

import unittest

from witnessing import TARGET, WitnessCase, alone


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

    def test_time_elsewhere(self):
        report, _ = self.watch("sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done", options=["--sample"])
        self.assertEqual(report["sampled"]["routines"], [])
        self.assertIn("no time was seen in routines of AES", report["verdict"])


if __name__ == "__main__":
    unittest.main()
