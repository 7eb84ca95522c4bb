"""`make release`: the software bill of materials (CycloneDX 1.6) of what an installation runs, from requirements.txt.

The licences are those that the installed packages declare. `python -m tests.sbom > FILE`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import metadata
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from receiver import __version__

ROOT = Path(__file__).resolve().parents[1]

SPDX = {"PSFL": "PSF-2.0", "MIT License": "MIT", "BSD License": "BSD-3-Clause"}
"""Names of licences that are not SPDX identifiers."""

BUNDLED = (("htmx", "2.0.11", "0BSD"),)
"""Name, version and licence of what is in this repository: receiver/web/static/vendor."""


@dataclass(frozen=True, slots=True)
class Package:
    name: str
    version: str
    licence: str
    digests: list[str]
    needed_by: list[str]

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{self.name}@{self.version}"


def list_packages(pins: str = "requirements.txt") -> Iterator[Package]:
    """The pinned packages, with the SHA-256 digests of the files that may be installed."""
    for block in re.split(r"\n(?=[a-z0-9])", (ROOT / pins).read_text()):
        if pinned := re.match(r"([a-z0-9._-]+)==([^ ;\\\n]+)", block):
            _, _, via = block.partition("# via")
            needed_by = re.findall(r"^ *(?:#  +)?([a-z0-9._-]+)(?: \(|$)", via, re.MULTILINE)
            yield Package(pinned[1], pinned[2], licence_of(pinned[1]), re.findall("sha256:(\\w+)", block), needed_by)


def licence_of(package: str) -> str:
    """The SPDX expression of its licence."""
    declared = metadata(package)
    named = [each.rpartition(" :: ")[2] for each in declared.get_all("Classifier") or () if each.startswith("License")]
    found = declared.get_all("License-Expression") or declared.get_all("License") or [" OR ".join(named)]
    return SPDX.get(str(found[0]), str(found[0]))


def describe() -> dict[str, Any]:
    """The bill of materials."""
    packages = list(list_packages())
    purls = {package.name: package.purl for package in packages}
    own = f"pkg:generic/result-url-receiver@{__version__}"
    components = [
        {
            "type": "library",
            "bom-ref": package.purl,
            "name": package.name,
            "version": package.version,
            "purl": package.purl,
            "licenses": [{"expression": package.licence}],
            "externalReferences": [
                {
                    "type": "distribution",
                    "url": f"https://pypi.org/project/{package.name}/{package.version}/",
                    "hashes": [{"alg": "SHA-256", "content": digest} for digest in package.digests],
                }
            ],
        }
        for package in packages
    ] + [
        {"type": "library", "bom-ref": f"pkg:npm/{name}@{version}", "name": name, "version": version,
         "purl": f"pkg:npm/{name}@{version}", "licenses": [{"expression": licence}]}
        for name, version, licence in BUNDLED
    ]  # fmt: skip
    needs: dict[str, list[str]] = {own: [f"pkg:npm/{name}@{version}" for name, version, _ in BUNDLED]}
    for package in packages:
        for other in package.needed_by:
            needs.setdefault(purls.get(other, own), []).append(package.purl)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid5(NAMESPACE_URL, own).urn,
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "component": {
                "type": "application",
                "bom-ref": own,
                "name": "result-url-receiver",
                "version": __version__,
                "licenses": [{"license": {"id": "MIT"}}],
            },
        },
        "components": components,
        "dependencies": [{"ref": ref, "dependsOn": sorted(parts)} for ref, parts in sorted(needs.items())],
    }


if __name__ == "__main__":
    print(json.dumps(describe(), indent=1))
