"""The documents name only existing files, headings, settings, commands and options, and leave none of these out."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from receiver.cli import make_parser
from receiver.environment import read_config
from tests.documents.blocks import ROOT, documents

_FENCED = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_OUTSIDE = ("http://", "https://", "mailto:")


def without_code(document: str) -> str:
    return _CODE.sub("`code`", _FENCED.sub("", (ROOT / document).read_text()))


def anchors_of(path: Path) -> set[str]:
    """The anchors of its headings, as GitHub builds them: lower case, no punctuation, a dash for each space."""
    found: list[str] = []
    for heading in re.findall(r"^#+ +(.+?) *#*$", _FENCED.sub("", path.read_text()), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.append(anchor if anchor not in found else f"{anchor}-{found.count(anchor)}")
    return set(found)


@pytest.mark.parametrize("document", documents())
def test_every_link_has_a_target(document: str) -> None:
    here = ROOT / document
    for target in _LINK.findall(without_code(document)):
        if target.startswith(_OUTSIDE):
            continue
        path, _, anchor = target.partition("#")
        there = here if not path else here.parent / path
        assert there.exists(), f"{document} links to {target}"
        assert not anchor or anchor in anchors_of(there), f"{document} links to {target}"


@pytest.mark.parametrize("document", documents())
def test_every_named_file_of_this_repository_exists(document: str) -> None:
    named = re.findall(
        r"`((?:app\.py|(?:benchmarks|deploy|docs|migrations|receiver|tests)/[\w./-]*\w)/?)`",
        (ROOT / document).read_text(),
    )
    folders = (ROOT, ROOT / "receiver")  # data-flow.md omits `receiver/`
    missing = [name for name in named if "NNNN" not in name and not any((folder / name).exists() for folder in folders)]
    assert missing == []


@pytest.mark.parametrize("document", documents())
def test_every_block_names_its_language(document: str) -> None:
    """A block without a language could contain commands that no test runs."""
    fences = re.findall(r"^ *```(.*)$", (ROOT / document).read_text(), re.MULTILINE)
    assert len(fences) % 2 == 0
    assert [language for language in fences[::2] if not language] == []


class _RecordingEnvironment(dict[str, str]):
    """An environment that records which variables are read."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def get(self, name: str, default: object = None) -> object:  # type: ignore[override]
        self.names.add(name)
        return default


def test_documented_settings_are_exactly_those_that_are_read() -> None:
    environment = _RecordingEnvironment()
    read_config(environment)
    sources = "".join(path.read_text() for path in (ROOT / "receiver").rglob("*.py"))
    elsewhere = set(re.findall(r"\bos\.environ(?:\.get\(|\[)\"([A-Z_]+)\"", sources))
    table = re.findall(r"^\| (`[^|]*) \|", (ROOT / "docs" / "configuration.md").read_text(), re.MULTILINE)
    documented = {name for cell in table for name in re.findall(r"`([A-Z_]+)`", cell)}
    text = (ROOT / "docs" / "configuration.md").read_text()
    assert environment.names - documented == set(), "read, but not in the table"
    assert documented - environment.names - elsewhere == set(), "in the table, but not read"
    assert {name for name in elsewhere - environment.names if f"`{name}`" not in text} - _PLATFORM == set()


_PLATFORM = {"GUNICORN_FD", "LISTEN_FDS", "PATH", "TEST_RELAY_SPEED"}
"""Variables that the service manager, the shell or a test sets, never a user."""


def commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    """(name, parser, help) of each command and its subcommands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                under = [(f"{name} {rest}", inner, text) for rest, inner, text in commands(command)]
                yield from under or [(name, command, helps.get(name, ""))]


def described(command: argparse.ArgumentParser) -> Iterator[str]:
    """A row for each argument and option: how it is written, and its help."""
    for action in command._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        values = action.metavar or "|".join(map(str, action.choices or ()))
        written = [*action.option_strings, *([str(values or action.dest)] if action.nargs != 0 else [])]
        if len(written) > 1 and values == "" and action.option_strings:
            written[-1] = action.dest.upper()
        text = (action.help or "") % {**vars(action), "prog": command.prog}
        if action.option_strings and action.required:
            text += "; required"
        cells = (f"`{' '.join(written)}`", text)
        yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def test_commands_in_the_table_are_exactly_those_that_exist() -> None:
    text = (ROOT / "docs" / "commands.md").read_text().split("<!-- options -->")[0]
    first_cells = re.findall(r"^\| (`.*?`(?:, `.*?`)*) \|", text.replace(r"\|", "/"), re.MULTILINE)
    documented = {
        " ".join(word for word in part.split() if re.fullmatch("[a-z][a-z-]*", word))
        for cell in first_cells
        for part in re.findall(r"`(.*?)`", cell)
    }
    assert documented == {name for name, _, _ in commands(make_parser())}


def test_options_are_described_as_in_the_commands_help() -> None:
    """`EXAMPLES_WRITE=1` updates the document."""
    path = ROOT / "docs" / "commands.md"
    head, rest = path.read_text().split("<!-- options -->\n")
    documented, tail = rest.split("<!-- /options -->\n")
    written = ""
    for name, command, _ in commands(make_parser()):
        if rows := list(described(command)):
            written += "\n".join([f"\n### `{name}`\n", "| | |", "| --- | --- |", *rows]) + "\n"
    written = f"{written.lstrip()}\n"
    if os.environ.get("EXAMPLES_WRITE"):
        path.write_text(f"{head}<!-- options -->\n{written}<!-- /options -->\n{tail}")
    else:
        assert documented == written
