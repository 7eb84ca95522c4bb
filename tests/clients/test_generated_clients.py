"""Generated clients compile, and list, page, upload, download and get typed problems from a running service.

`make test-long` installs the generators. Without one of them, or without Node or Java, its test is skipped.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.service import ROOT, Service

pytestmark = pytest.mark.long

TOOLS = Path(os.environ.get("CLIENT_TOOLS", ROOT / ".venv" / "clients"))
PROGRAMS = Path(__file__).parent

EXPECTED_WARNINGS = {
    "openapi-python-client": r"Unsupported content.type (application/x-ndjson|\*/\*)",
    # Of its own state, of a parameter whose name Python reserves, and of names that are internal.
    "openapi-generator-cli": r"3\.1 support is still in beta|schema name: null|From \(reserved word\)",
}
"""Media types that a generator does not know, and what it says about itself."""


@pytest.fixture(scope="module")
def service(session_folder: Path) -> Iterator[Service]:
    folder = Path(tempfile.mkdtemp(prefix="s", dir=session_folder))
    folder.chmod(0o711)
    with Service(folder, WEB_CONCURRENCY="1") as service:
        (folder / "contacts.csv").write_text("destination\n6175550100\n")
        assert service.queue(folder / "contacts.csv").status in (201, 202)
        yield service


@pytest.fixture
def folder(service: Service, tmp_path: Path) -> Path:
    (tmp_path / "openapi.json").write_bytes(service.ask("/openapi.json").body)
    if (modules := TOOLS / "node_modules").exists():
        (tmp_path / "node_modules").symlink_to(modules)
    return tmp_path


def tool(name: str) -> str:
    """The path of an installed program. Skips the test without it."""
    for path in (TOOLS / "bin" / name, TOOLS / "node_modules" / ".bin" / name):
        if path.exists():
            return str(path)
    pytest.skip(f"{name} is not installed (make test-long)")


def run(folder: Path, *command: str, service: Service | None = None) -> str:
    """Run a command to its end, and return all that it prints."""
    variables = os.environ | ({} if service is None else {"RECEIVER": service.url, "KEY": service.key})
    ran = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, f"{command}\n{ran.stdout}{ran.stderr}"
    return ran.stdout + ran.stderr


def use(folder: Path, name: str, service: Service) -> None:
    """Check the types of a program in Python that uses a generated client, and run it."""
    (folder / "use.py").write_text((PROGRAMS / f"{name}.txt").read_text())
    run(folder, tool("mypy"), "--strict", "--follow-imports=silent", "use.py")
    run(folder, tool("python"), "use.py", service=service)


def test_openapi_python_client(service: Service, folder: Path) -> None:
    generator = tool("openapi-python-client")
    printed = run(folder, generator, "generate", "--path", "openapi.json", "--meta", "none", "--output-path", "out")
    faults = re.findall(r"^(?:Cannot|Unable|Unsupported|Could not|Skipping [^I]).*", printed, re.MULTILINE)
    assert [each for each in faults if not re.search(EXPECTED_WARNINGS["openapi-python-client"], each)] == []
    (folder / "out").rename(folder / "result_url_receiver_client")
    run(folder, tool("mypy"), "--strict", "result_url_receiver_client")
    use(folder, "openapi_python_client", service)


def generate(folder: Path, language: str, output: str) -> None:
    """Run openapi-generator."""
    generator = tool("openapi-generator-cli")
    if shutil.which("java") is None:
        pytest.skip("openapi-generator needs java")
    printed = run(folder, generator, "generate", "-i", "openapi.json", "-g", language, "-o", output)
    warnings = re.findall(r"^.*\] (?:WARN|ERROR) .*", printed, re.MULTILINE)
    assert [each for each in warnings if not re.search(EXPECTED_WARNINGS["openapi-generator-cli"], each)] == []


def test_openapi_generator_python(service: Service, folder: Path) -> None:
    generate(folder, "python", "out")
    run(folder / "out", tool("mypy"), "openapi_client")  # with its own settings: it does not support --strict
    (folder / "openapi_client").symlink_to(folder / "out" / "openapi_client")
    use(folder, "openapi_generator_python", service)


def test_datamodel_codegen(service: Service, folder: Path) -> None:
    generator = tool("datamodel-codegen")
    options = ["--input-file-type", "openapi", "--output-model-type", "pydantic_v2.BaseModel", "--use-annotated"]
    run(folder, generator, "--formatters", "builtin", "--input", "openapi.json", "--output", "models.py", *options)
    run(folder, tool("mypy"), "--strict", "models.py")
    use(folder, "datamodel_codegen", service)


COMPILER = ("--strict", "--target", "es2022", "--lib", "es2022,dom,dom.iterable", "--skipLibCheck", "--outDir", "built")


def test_openapi_typescript(service: Service, folder: Path) -> None:
    printed = run(folder, tool("openapi-typescript"), "openapi.json", "--output", "api.d.ts")
    assert "warn" not in printed.lower()
    (folder / "package.json").write_text('{"type": "module"}')
    shutil.copy(PROGRAMS / "openapi_typescript.ts", folder / "use.ts")
    run(folder, tool("tsc"), *COMPILER, "--module", "nodenext", "use.ts")
    run(folder, "node", "built/use.js", service=service)


def test_openapi_generator_typescript(service: Service, folder: Path) -> None:
    compiler = tool("tsc")
    generate(folder, "typescript-fetch", "client")
    shutil.copy(PROGRAMS / "openapi_generator_typescript.ts", folder / "use.ts")
    run(folder, compiler, *COMPILER, "--module", "commonjs", "use.ts")
    run(folder, "node", "built/use.js", service=service)


@pytest.mark.parametrize("linter", ["redocly", "spectral"])
def test_recommended_rules_report_nothing(folder: Path, linter: str) -> None:
    if linter == "redocly":
        printed = run(folder, tool("redocly"), "lint", "--extends", "recommended", "openapi.json")
        assert "warning" not in printed.replace("Deprecation warning", ""), printed
    else:
        (folder / ".spectral.yaml").write_text('extends: ["spectral:oas"]\n')
        run(folder, tool("spectral"), "lint", "--fail-severity", "hint", "openapi.json")
