"""What is refused, and what the refusal says to do."""

import os
import subprocess
import unittest

from witnessing import COFRE, WitnessCase, wait_until_traced


class Errors(WitnessCase):
    def refused(self, *args):
        result = subprocess.run([COFRE, "witness", *map(str, args)], capture_output=True, text=True, timeout=120)
        self.assertEqual(result.returncode, 1, result)
        self.assertEqual(result.stdout, "")
        return result.stderr

    def test_no_such_process(self):
        process = subprocess.Popen(["true"])
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # until it has ended
        self.assertIn("it is a zombie", self.refused("--pid", process.pid))
        process.wait()
        self.assertIn("there is no process", self.refused("--pid", process.pid))

    def test_wrong_numbers(self):
        for text in ("0", "-1", "one", "99999999999"):
            self.assertIn("--pid", self.refused("--pid", text))
        self.assertIn("--seconds", self.refused("--seconds", "0", "--", "true"))

    def test_nothing_or_two_things_to_watch(self):
        self.assertIn("--pid", self.refused())
        self.assertIn("--pid", self.refused("--pid", 1, "--", "true"))

    def test_commands_that_cannot_be_executed(self):
        self.assertIn("no such command", self.refused("--", "no-such-command-anywhere"))
        text = self.path("text")
        with open(text, "w", encoding="utf-8") as file:
            file.write("text\n")
        self.assertIn("Permission denied", self.refused("--", text))
        self.assertIn("cannot be executed", self.refused("--", self.dir))

    def test_a_kernel_thread(self):
        with open("/proc/2/comm", encoding="utf-8") as file:
            if file.read() != "kthreadd\n":
                self.skipTest("no thread of the kernel is visible here")
        self.assertIn("thread of the kernel", self.refused("--pid", 2))

    def test_a_process_that_is_traced_already(self):
        process = self.start_chain(1)
        first = subprocess.Popen([COFRE, "witness", "--pid", str(process.pid), "--seconds", "2"],
                                 stdout=subprocess.DEVNULL)
        self.assertTrue(wait_until_traced(process.pid))
        self.assertIn(f"traced already, by process {first.pid}", self.refused("--pid", process.pid))
        self.assertEqual(first.wait(timeout=60), 0)

    def test_a_thread_is_no_process(self):
        process = self.start_chain(2)
        thread = next(t for t in os.listdir(f"/proc/{process.pid}/task") if int(t) != process.pid)
        self.assertIn(f"of process {process.pid}", self.refused("--pid", thread))

    def test_another_users_process(self):
        if os.geteuid() != 0:
            self.skipTest("only root can play another user")
        process = self.start_chain(1)
        shown = subprocess.run([COFRE, "witness", "--pid", str(process.pid)], capture_output=True, text=True, timeout=60,
                               user=65534, group=65534, extra_groups=[])
        self.assertEqual(shown.returncode, 1, shown)
        self.assertIn("be root", shown.stderr)

    def test_a_report_that_cannot_be_written(self):
        self.assertIn("cannot be written", self.refused("--report", self.path("no/such/folder"), "--", "true"))


if __name__ == "__main__":
    unittest.main()
