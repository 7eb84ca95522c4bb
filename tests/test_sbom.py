"""The bill of materials of a release, and the list of licences in the documents."""

from __future__ import annotations

import re

from tests.sbom import BUNDLED, ROOT, describe, list_packages

ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "LGPL-3.0-only",  # psycopg, which is installed beside this service and not changed
    "MIT",
    "MPL-2.0",  # certifi: a list of certificates
    "PSF-2.0",
}


def test_bill_of_materials_has_every_pinned_package_with_digests_and_a_known_licence() -> None:
    pinned = dict(re.findall(r"^([a-z0-9._-]+)==([^ \\\n]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    bill = describe()
    listed = {each["name"]: each for each in bill["components"]}
    assert {name: listed[name]["version"] for name in pinned} == pinned and len(listed) == len(pinned) + len(BUNDLED)
    refs = {bill["metadata"]["component"]["bom-ref"], *(each["bom-ref"] for each in bill["components"])}
    for each in bill["dependencies"]:
        assert {each["ref"], *each["dependsOn"]} <= refs
    assert {part for each in bill["dependencies"] for part in each["dependsOn"]} == refs - {
        bill["metadata"]["component"]["bom-ref"]
    }
    for name, each in listed.items():
        (licence,) = each["licenses"]
        assert set(re.split(" OR | AND ", licence["expression"])) <= ALLOWED, (name, licence)
        if name in pinned:
            assert each["externalReferences"][0]["hashes"], name


def test_bundled_files_are_those_in_the_repository() -> None:
    vendor = ROOT / "receiver" / "web" / "static" / "vendor"
    assert {path.name.partition(".")[0] for path in vendor.iterdir()} == {name for name, *_ in BUNDLED}
    for name, version, _ in BUNDLED:
        assert f'version:"{version}"' in (vendor / f"{name}.min.js").read_text()


def test_documents_list_the_licence_of_every_dependency() -> None:
    text = (ROOT / "docs" / "licences.md").read_text()
    listed = dict(re.findall(r"^\| ([a-z0-9._-]+) \| ([A-Z0-9][^|]*) \|$", text, re.MULTILINE))
    expected = {package.name: package.licence for package in list_packages()}
    assert listed == expected | {name: licence for name, _, licence in BUNDLED}
