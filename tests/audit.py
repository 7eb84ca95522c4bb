"""`make audit`: what bandit finds in the code, and pip-audit in the pinned requirements. Exit status 1 if either does.

bandit's findings have the numbers that ruff's rules have (B608 is S608), and are excused by the same `noqa` with its
reason on the line, or by the same entry in pyproject.toml: so nothing is excused twice, and nothing without a reason.
Whoever runs it needs a network for the second part: where the advisories cannot be asked for, it says so and fails.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CODE = ("receiver", "app.py", "benchmarks")
PINS = ("requirements.txt", "requirements-dev.txt", "requirements-fuzz.txt", "requirements-audit.txt")

COVERED = {
    "B101": "assert is S101 of ruff, which `make lint` holds the code to",
    "B310": "S310 sees where an address begins with http://, and bandit does not",
    "B404": "to import subprocess is no fault; each call is looked at as S603",
    "B406": "xml.sax.saxutils.escape parses nothing; what parses is defusedxml",
    "B608": "S608 is looked at room by room (pyproject.toml); tests/web/test_injection.py tries every parameter",
}
"""Rules that are judged elsewhere, and where."""


def excused(finding: dict[str, Any]) -> bool:
    """Whether a line of it carries ruff's `noqa` for the same rule."""
    lines = (ROOT / finding["filename"]).read_text().splitlines()
    said = "\n".join(lines[number - 1] for number in finding["line_range"])
    return re.search(rf"# noqa: [A-Z0-9, ]*\bS{finding['test_id'][1:]}\b", said) is not None


def audit_code(bandit: str) -> bool:
    """Whether bandit found nothing that nobody has given a reason for."""
    command = [bandit, "--quiet", "--format", "json", "--recursive", *CODE]
    found = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout)
    left = [each for each in found["results"] if each["test_id"] not in COVERED and not excused(each)]
    for each in left:
        print(f"{each['filename']}:{each['line_number']}: {each['test_id']} {each['issue_text']}")
    for error in found["errors"]:
        print(f"{error['filename']}: {error['reason']}")
    lines = sum(each["loc"] for name, each in found["metrics"].items() if name != "_totals")
    print(f"bandit: {lines:,} lines, {len(found['results'])} findings, {len(left)} without a reason")
    return not left and not found["errors"]


def audit_pins(pip_audit: str) -> bool:
    """Whether no pinned requirement has a known fault. A requirement that cannot be asked about is no answer."""
    well = True
    for pins in PINS:
        command = [pip_audit, "--strict", "--disable-pip", "--require-hashes", "--progress-spinner", "off", "-r", pins]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        words = (done.stdout + done.stderr).strip().splitlines() or [""]
        print(f"pip-audit {pins}: {words[-1] if done.returncode else 'no known fault'}")
        if done.returncode and "Found" in done.stderr:
            print(done.stdout)
        well = well and done.returncode == 0
    return well


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    results = [audit_code(str(folder / "bandit")), audit_pins(str(folder / "pip-audit"))]
    sys.exit(0 if all(results) else 1)
