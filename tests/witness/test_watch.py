"""Commands that are watched from their start: known programs, whose instructions and results are known."""

import signal
import subprocess
import unittest

from witnessing import (CHAIN_SITES, COFRE, LIBRARY, TARGET, TARGET_SITES, WitnessCase, alone, forms_hit,
                        functions_hit)

ENCODINGS = {"legacy": ("legacy SSE", 128), "vex128": ("VEX", 128), "vex256": ("VEX", 256),
             "evex128": ("EVEX", 128), "evex256": ("EVEX", 256), "evex512": ("EVEX", 512)}


class Forms(WitnessCase):
    def test_exactly_the_forms_that_ran_are_reported(self):
        report, output = self.watch(TARGET, "forms")
        names = output.split()
        self.assertGreater(len(names), 0)
        expected = set()
        for name in names:
            prefix, instruction = name.split("_")
            expected.add((instruction, *ENCODINGS[prefix]))
        module = self.module(report, "witness_target")
        self.assertEqual(forms_hit(module), expected)
        self.assertEqual(set(functions_hit(module)), set(names))
        self.assertEqual((module["sites"], module["sites-watched"], module["sites-hit"]),
                         (TARGET_SITES, TARGET_SITES, len(names)))

    def test_nothing_ran(self):
        report, _ = self.watch(TARGET, "exit", 0)
        module = self.module(report, "witness_target")
        self.assertEqual((module["sites"], module["sites-hit"], module["functions"]), (TARGET_SITES, 0, []))
        self.assertIn("no AES instruction was executed", report["verdict"])

    def test_the_text_says_the_same(self):
        result = subprocess.run([COFRE, "witness", "--", TARGET, "chain", "1", "1"], capture_output=True, text=True,
                                timeout=120)
        self.assertEqual(result.returncode, 0, result)
        self.assertIn(f"{CHAIN_SITES} of {TARGET_SITES} AES instructions hit", result.stdout)
        self.assertRegex(result.stdout, r"aesenc +128 bits, legacy SSE +2 of 2 hit")
        self.assertIn("ended with exit code 0", result.stdout)


class Programs(WitnessCase):
    def assert_chain_ran(self, report, module="witness_target"):
        functions = functions_hit(self.module(report, module))
        self.assertEqual(set(functions), {"chain"})
        self.assertEqual(sum(functions["chain"].values()), CHAIN_SITES)

    def test_threads_that_meet_at_one_site(self):
        for _ in range(5):
            report, output = self.watch(TARGET, "chain", 8, 60)
            self.assert_chain_ran(report)
            self.assertEqual(report["exit-code"], 0)
            self.assertEqual(report["threads"], 9)
            self.assertEqual(output, alone("chain", 1, 1))

    def test_a_library_that_is_loaded_late_and_twice(self):
        report, output = self.watch(TARGET, "load", LIBRARY)
        self.assert_chain_ran(report, "libwitness_library")
        self.assertEqual(self.module(report, "witness_target")["sites-hit"], 0)
        self.assertEqual((report["exit-code"], output), (0, alone("load", LIBRARY)))

    def test_children(self):
        for how in ("fork", "vfork"):
            with self.subTest(how=how):
                report, output = self.watch(TARGET, how)
                self.assert_chain_ran(report)
                self.assertEqual((report["exit-code"], report["processes"]), (0, 2))
                self.assertEqual(output, alone(how))

    def test_a_shell_and_what_it_executes(self):
        report, output = self.watch("sh", "-c", f"{TARGET} chain 2 1; exec {TARGET} chain 1 1")
        self.assert_chain_ran(report)
        self.assertEqual((report["exit-code"], report["processes"]), (0, 2))
        self.assertEqual(output, 2 * alone("chain", 1, 1))

    def test_data_among_code_stays_whole(self):
        report, output = self.watch(TARGET, "data")
        self.assertEqual(output, alone("data"))
        self.assertEqual(functions_hit(self.module(report, "witness_target")),
                         {"data_inside": {"aesenc": 1, "aesenclast": 1}, "odd_data_inside": {"aesdec": 1}})
        self.assertEqual(self.module(report, "witness_target")["unproven"], 3)

    def test_generated_code_is_left_alone_and_told_of(self):
        report, _ = self.watch(TARGET, "generated")
        self.assertEqual(report["exit-code"], 0)
        self.assertTrue(report["generated-code"])
        self.assertFalse(self.watch(TARGET, "chain", 1, 300)[0]["generated-code"])

    def test_how_the_command_ended_is_in_the_report(self):
        self.assertEqual(self.watch(TARGET, "exit", 7)[0]["exit-code"], 7)
        report, _ = self.watch(TARGET, "signal", 10)
        self.assertEqual(report["signal"], 10)
        self.assertNotIn("exit-code", report)

    def test_a_command_is_asked_to_end_when_its_time_is_over(self):
        report, _ = self.watch("sleep", 100, options=["--seconds", 1])
        self.assertEqual(report["signal"], 15)

    def test_a_command_gets_the_signals_of_the_witness(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with self.subTest(number):
                witness = subprocess.Popen([COFRE, "witness", "--", "sh", "-c", "echo ready; exec sleep 60"],
                                           stdout=subprocess.PIPE, text=True, start_new_session=True)
                self.assertEqual(witness.stdout.readline(), "ready\n")
                witness.send_signal(number)
                text = witness.communicate(timeout=30)[0]
                self.assertEqual(witness.returncode, 0)
                self.assertIn(f"was ended by signal {int(number)} ", text)

    def test_what_a_command_leaves_running_is_let_go_of(self):
        out = self.path("out")
        report, _ = self.watch("sh", "-c", f"{TARGET} chain 2 6000 > {out} & sleep 3")
        self.assertEqual(report["exit-code"], 0)
        self.assert_chain_ran(report)
        self.assertEqual(self.text_that_comes(out), alone("chain", 1, 1))


if __name__ == "__main__":
    unittest.main()
