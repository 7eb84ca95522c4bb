"""`make audit`: run bandit on the code and pip-audit on the pinned requirements. Exit status 1 if one finds a fault.

bandit's findings have the numbers of ruff's rules (B608 is S608). The same `noqa` with its reason, or the same entry in
pyproject.toml, covers both, so each reason is written once.
pip-audit needs a network. If it cannot read the advisories, it reports this and fails.
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
    "B101": "assert is S101 of ruff, which `make lint` checks",
    "B310": "S310 recognizes an address that begins with http://; bandit does not",
    "B404": "importing subprocess is not a fault; S603 checks each call",
    "B406": "xml.sax.saxutils.escape does not parse; defusedxml does",
    "B608": "S608 is checked for each package (pyproject.toml); tests/web/test_injection.py tries every parameter",
}
"""Rules that something else checks."""


def excused(finding: dict[str, Any]) -> bool:
    """Whether one of its lines has ruff's `noqa` for the same rule."""
    lines = (ROOT / finding["filename"]).read_text().splitlines()
    text = "\n".join(lines[number - 1] for number in finding["line_range"])
    return re.search(rf"# noqa: [A-Z0-9, ]*\bS{finding['test_id'][1:]}\b", text) is not None


def audit_code(bandit: str) -> bool:
    """Whether each of bandit's findings has a reason."""
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
    """Whether no pinned requirement has a known fault. A requirement that cannot be checked counts as a fault."""
    passed = True
    for pins in PINS:
        command = [pip_audit, "--strict", "--disable-pip", "--require-hashes", "--progress-spinner", "off", "-r", pins]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        lines = (done.stdout + done.stderr).strip().splitlines() or [""]
        print(f"pip-audit {pins}: {lines[-1] if done.returncode else 'no known fault'}")
        if done.returncode and "Found" in done.stderr:
            print(done.stdout)
        passed = passed and done.returncode == 0
    return passed


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    results = [audit_code(str(folder / "bandit")), audit_pins(str(folder / "pip-audit"))]
    sys.exit(0 if all(results) else 1)
