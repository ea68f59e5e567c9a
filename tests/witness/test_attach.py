"""Running processes: attached to, let go of, and unharmed, also when the witness is killed at any moment."""

import os
import signal
import subprocess
import time
import unittest

from witnessing import (CHAIN_SITES, COFRE, TARGET, WitnessCase, alone, functions_hit, wait_until_traced)

EXPECTED = alone("chain", 1, 1)


class Attach(WitnessCase):
    def start_witness(self, pid):
        return subprocess.Popen([COFRE, "witness", "--pid", str(pid)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True)

    def test_a_running_process_goes_on(self):
        process = self.start_chain(4)
        report = self.watch_process(process.pid)
        self.assertEqual(sum(functions_hit(self.module(report, "witness_target"))["chain"].values()), CHAIN_SITES)
        self.assertEqual(report["threads"], 5)
        self.assertNotIn("exit-code", report)
        self.finish_chain(process)

    def test_again_and_again(self):
        process = self.start_chain(2)
        for _ in range(3):
            self.assertEqual(self.module(self.watch_process(process.pid), "witness_target")["sites-hit"], CHAIN_SITES)
        self.finish_chain(process)

    def test_the_code_is_as_before(self):
        process = self.start_chain(1)
        before = self.text_of(process.pid)
        self.assertGreater(len(before), 2)
        self.watch_process(process.pid)
        self.assertTrue(self.text_of(process.pid) == before, "memory with code has changed")
        self.finish_chain(process)

    def text_of(self, pid):
        """All that the process has mapped executable from files."""
        found = []
        with open(f"/proc/{pid}/maps", encoding="utf-8") as maps, open(f"/proc/{pid}/mem", "rb") as memory:
            for line in maps:
                words = line.split()
                if "x" in words[1] and words[4] != "0":
                    start, end = (int(n, 16) for n in words[0].split("-"))
                    memory.seek(start)
                    found.append((words[-1], memory.read(end - start)))
        return found

    def test_the_end_of_the_process_is_reported(self):
        process = self.start(TARGET, "chain", 2, 3000)
        report = self.watch_process(process.pid, seconds=30)
        self.assertEqual(report["exit-code"], 0)
        self.unharmed(process, EXPECTED)

    def test_threads_that_come_and_go(self):
        process = self.start(TARGET, "churn", 4000)
        report = self.watch_process(process.pid)
        self.assertEqual(self.module(report, "witness_target")["sites-hit"], CHAIN_SITES)
        self.assertGreater(report["threads"], 9)
        self.watch_process(process.pid, options=["--sample"])
        self.unharmed(process, "right\n")

    def test_interrupting_lets_go(self):
        process = self.start_chain(2)
        witness = self.start_witness(process.pid)
        self.assertTrue(wait_until_traced(process.pid))
        time.sleep(0.3)
        witness.send_signal(signal.SIGINT)
        text = witness.communicate(timeout=60)[0]
        self.assertEqual(witness.returncode, 0)
        self.assertIn("the program goes on", text)
        self.finish_chain(process)

    def test_a_process_that_sleeps_in_a_system_call(self):
        process = self.start("sh", "-c", "sleep 3; echo slept")
        start = time.monotonic()
        report = self.watch_process(process.pid)
        self.assertNotIn("exit-code", report)
        self.unharmed(process, "slept\n")
        self.assertGreater(time.monotonic() - start, 2.5)  # the sleep was not cut short

    def test_a_stopped_process_stays_stopped(self):
        process = self.start_chain(2)
        process.send_signal(signal.SIGSTOP)
        self.watch_process(process.pid)
        self.assertTrue(self.becomes_stopped(process.pid))
        process.send_signal(signal.SIGCONT)
        self.finish_chain(process)

    def becomes_stopped(self, pid, seconds=10):
        """A thread that is let go of goes through the kernel once to stop again."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with open(f"/proc/{pid}/status", encoding="utf-8") as file:
                if "State:\tT (stopped)\n" in file.read():
                    return True
            time.sleep(0.01)
        return False

    def test_signals_reach_the_process(self):
        process = self.start("sh", "-c", "trap 'echo got it; exit 0' USR1; echo ready; while :; do sleep 0.05; done")
        self.assertEqual(process.stdout.readline(), "ready\n")
        witness = self.start_witness(process.pid)
        self.assertTrue(wait_until_traced(process.pid))
        time.sleep(0.2)
        process.send_signal(signal.SIGUSR1)
        self.assertIn("exit code 0", witness.communicate(timeout=60)[0])
        self.unharmed(process, "got it\n")


class Killed(WitnessCase):
    def kill_witness_after(self, pid, seconds):
        witness = subprocess.Popen([COFRE, "witness", "--pid", str(pid)], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        witness.send_signal(signal.SIGKILL)
        witness.wait()

    def test_a_witness_killed_with_its_jumps_in_place(self):
        process = self.start_chain(4)
        witness = subprocess.Popen([COFRE, "witness", "--pid", str(process.pid)], stdout=subprocess.DEVNULL)
        self.assertTrue(wait_until_traced(process.pid))
        time.sleep(0.3)
        witness.kill()
        witness.wait()
        # Its successor finds what was left, puts it right and watches.
        report = self.watch_process(process.pid)
        self.assertEqual(self.module(report, "witness_target")["sites-hit"], CHAIN_SITES)
        self.assertEqual(report["notes"], [])
        self.finish_chain(process)

    def test_a_witness_killed_at_any_moment(self):
        for _ in range(12):
            process = self.start_chain(4)
            self.kill_witness_after(process.pid, self.random.uniform(0, 0.3))
            self.finish_chain(process)

    def test_a_witness_killed_while_threads_come_and_go(self):
        for _ in range(4):
            process = self.start(TARGET, "churn", 1500)
            self.kill_witness_after(process.pid, self.random.uniform(0.05, 0.6))
            self.unharmed(process, "right\n")

    def test_a_command_survives_its_witness(self):
        out = self.path("out")
        witness = subprocess.Popen([COFRE, "witness", "--", "sh", "-c", f"echo $$; exec {TARGET} chain 4 1500 > {out}"],
                                   stdout=subprocess.PIPE, text=True)
        pid = int(witness.stdout.readline())
        time.sleep(self.random.uniform(0.1, 0.6))
        witness.kill()
        witness.communicate()
        self.assertTrue(os.path.exists(f"/proc/{pid}"))
        self.assertEqual(self.text_that_comes(out), EXPECTED)


if __name__ == "__main__":
    unittest.main()
