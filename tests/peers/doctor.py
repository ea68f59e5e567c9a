"""cofre doctor as the peer tests see it: its JSON, and its findings by id."""

from cofre_peers import PeerCase, cofre

# Exit statuses.
FINE, FAILED, ATTENTION = 0, 1, 2


class DoctorCase(PeerCase):
    def doctor(self, *args, quick=True, **how):
        """The report. The exit status is the one that it implies."""
        result = cofre("doctor", "--output=json", *(["--quick"] if quick else []), *args, **how)
        report = result.json()
        self.assertEqual(report["schema"], 1)
        findings = [f for part in report.values() if isinstance(part, dict) for f in part["findings"]]
        for finding in findings:
            self.assertIn(finding["severity"], ("ok", "note", "attention"), f"{result}")
            self.assertTrue(finding["id"] and finding["sentence"], f"{result}")
        attention = sum(f["severity"] == "attention" for f in findings)
        self.assertEqual(report["attention"], attention, f"{result}")
        self.ok(result, ATTENTION if attention else FINE)
        return report

    @staticmethod
    def ids(part, subject=None):
        """{id: severity} of a part of the report, of one subject if it is given."""
        return {f["id"]: f["severity"] for f in part["findings"] if subject is None or f.get("subject") == subject}

    @staticmethod
    def finding(part, ident):
        return next(f for f in part["findings"] if f["id"] == ident)
