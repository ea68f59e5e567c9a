"""Processes that a seccomp filter ends for the calls that the witness needs: they are left as they are."""

import unittest

from witnessing import LIBRARY, TARGET, WitnessCase, alone


class Filters(WitnessCase):
    def start_filtered(self, action):
        process = self.start(TARGET, "filter", action, 2000)
        self.assertEqual(process.stdout.readline(), "ready\n")
        return process

    def test_filters_that_end_the_process(self):
        for action in ("kill", "trap"):
            with self.subTest(action):
                process = self.start_filtered(action)
                report = self.watch_process(process.pid)
                self.assertNotIn("exit-code", report)
                self.assertTrue(any("seccomp filter" in note for note in report["notes"]), report)
                self.assertIn("not known", report["verdict"])
                self.unharmed(process, "right\n")

    def test_a_filter_that_refuses(self):
        process = self.start_filtered("errno")
        report = self.watch_process(process.pid)
        self.assertTrue(any("map executable memory" in note or "seccomp filter" in note for note in report["notes"]), report)
        self.unharmed(process, "right\n")

    def test_sampling_needs_no_call(self):
        process = self.start_filtered("kill")
        report = self.watch_process(process.pid, options=["--sample"])
        self.assertEqual(report["sampled"]["routines"][0]["name"], "chain")
        self.unharmed(process, "right\n")

    def test_a_filter_that_comes_while_it_is_watched(self):
        """The hook in the dynamic linker is taken out before the filter can meet it."""
        report, output = self.watch(TARGET, "filter-load", LIBRARY)
        self.assertEqual((report["exit-code"], output), (0, alone("load", LIBRARY)))
        self.assertTrue(any("libraries that are loaded later" in note for note in report["notes"]), report)


if __name__ == "__main__":
    unittest.main()
