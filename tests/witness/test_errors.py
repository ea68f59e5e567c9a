"""What is refused, and what the refusal says to do."""

import os
import shutil
import subprocess
import unittest

from witnessing import COFRE, TARGET, WitnessCase, wait_until_traced

# A program of the 32-bit i386 that sleeps for two seconds and exits with 7.
SLEEPER = """
.globl _start
_start: mov $162, %eax
        mov $duration, %ebx
        xor %ecx, %ecx
        int $0x80
        mov $1, %eax
        mov $7, %ebx
        int $0x80
.align 4
duration: .long 2, 0
"""


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

    def make_sleeper(self):
        source, program = self.path("sleeper.s"), self.path("sleeper")
        with open(source, "w", encoding="utf-8") as file:
            file.write(SLEEPER)
        subprocess.run(["as", "--32", "-o", source + ".o", source], check=True)
        subprocess.run(["ld", "-m", "elf_i386", "-o", program, source + ".o"], check=True)
        if subprocess.run(["sh", "-c", f"{program}"], check=False).returncode != 7:
            self.skipTest("this kernel executes no 32-bit programs")
        return program

    def test_32_bit_programs(self):
        if shutil.which("as") is None:
            self.skipTest("no assembler (Debian package binutils)")
        program = self.make_sleeper()
        process = self.start(program)
        self.assertIn("executes 32-bit code", self.refused("--pid", process.pid))
        self.assertEqual(process.wait(timeout=60), 7)
        self.assertIn("executes 32-bit code", self.refused("--", program))
        report, _ = self.watch("sh", "-c", f"{program}; exit $?")
        self.assertEqual(report["exit-code"], 7)
        self.assertIn("sleeper", report["verdict"])

    def test_itself(self):
        result = subprocess.run(["sh", "-c", f"exec {COFRE} witness --pid $$"], capture_output=True, text=True,
                                timeout=60, check=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn("the witness itself", result.stderr)

    def test_a_process_of_another_namespace(self):
        """Its number there is no number here, and what it calls itself is none of ours to guess."""
        made = subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", "sleep 60; true"],
                                stderr=subprocess.PIPE, text=True)
        self.addCleanup(made.stderr.close)
        self.addCleanup(made.wait)
        self.addCleanup(made.kill)
        child = self.first_child(made)
        if child is None:
            self.skipTest("no namespace can be made here")
        report = self.watch_process(child)
        self.assertEqual(report["processes"], 1)
        inside = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", COFRE, "witness", "--pid", str(child)],
                                capture_output=True, text=True, timeout=60, check=False)
        if inside.stderr.startswith("unshare:"):
            self.skipTest(f"no /proc of a namespace can be mounted here (in a chroot its root is no mount point): {inside.stderr}")
        self.assertEqual(inside.returncode, 1, inside)
        self.assertIn(f"there is no process {child}", inside.stderr)

    def first_child(self, parent):
        while parent.poll() is None:
            with open(f"/proc/{parent.pid}/task/{parent.pid}/children", encoding="utf-8") as file:
                children = file.read().split()
            if children:
                return int(children[0])
        return None

    def test_processes_that_end_meanwhile(self):
        """Whatever the moment: a report, or an error that says so."""
        for _ in range(20):
            process = self.start(TARGET, "chain", 4, self.random.randrange(1, 250))
            result = subprocess.run([COFRE, "witness", "--pid", str(process.pid)], capture_output=True, text=True,
                                    timeout=60, check=False)
            self.assertEqual(process.wait(timeout=60), 0, f"COFRE_TEST_SEED={self.seed}")
            if result.returncode == 0:
                self.assertIn("exit code 0", result.stdout)
            else:
                self.assertRegex(result.stderr, "has ended|there is no process", f"COFRE_TEST_SEED={self.seed}")

    def test_a_script_without_its_interpreter(self):
        script = self.path("script")
        with open(script, "w", encoding="utf-8") as file:
            file.write("#!/no/such/interpreter\n")
        os.chmod(script, 0o755)
        self.assertIn("interpreter", self.refused("--", script))

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
