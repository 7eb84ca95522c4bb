"""Every regular expression in receiver/ takes at most linear time for any text.

The tests find every call of `re` in the source, so they include new calls. The texts consist of the expression's own
characters: a beginning, one or two characters repeated two thousand times, and an end that cannot match. Quadratic time
would exceed the limit about a hundredfold; exponential time would never end.
"""

from __future__ import annotations

import ast
import importlib
import re
import string
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from types import BuiltinMethodType, ModuleType

import pytest

RECEIVER = Path(__file__).parents[2] / "receiver"
METHODS = ("fullmatch", "match", "search", "sub", "split", "findall", "finditer")
REPEATED = 2048
SECONDS = 0.01

# Modules that build expressions at run time, and why these are harmless.
BUILT = {
    "receiver.phone_numbers.numbering_plan": "phonenumbers' metadata, for at most 32 digits; the target `destination`",
    "receiver.phone_numbers.time_zones": "phonenumbers' metadata, for the digits of a valid number",
    "receiver.phone_numbers.masking": "tested below for one number",
    "receiver.release.answer": "the account's own credentials, escaped",
    "receiver.database.migrations": "our own migrations",
}


class Use:
    """One expression and one method that is called on it."""

    def __init__(self, where: str, pattern: re.Pattern[str] | re.Pattern[bytes], method: str) -> None:
        self.where, self.pattern, self.method = where, pattern, method

    def __str__(self) -> str:
        return f"{self.where} {self.method}"

    def seconds(self, text: str) -> float:
        given = text.encode("utf-8", "replace") if isinstance(self.pattern.pattern, bytes) else text
        call: Callable[..., object] = getattr(self.pattern, self.method)
        arguments = ("" if isinstance(given, str) else b"", given) if self.method == "sub" else (given,)
        began = time.process_time()
        found = call(*arguments)
        if self.method == "finditer":
            assert sum(1 for _ in found) >= 0  # type: ignore[attr-defined, misc]
        return time.process_time() - began


def modules() -> Iterator[tuple[ModuleType, str]]:
    for path in sorted(RECEIVER.rglob("*.py")):
        source = path.read_text()
        if "import re\n" in source and path.name != "gunicorn_conf.py":
            name = ".".join(path.relative_to(RECEIVER.parent).with_suffix("").parts).removesuffix(".__init__")
            yield importlib.import_module(name), source


def uses_in(module: ModuleType, source: str) -> Iterator[Use]:
    """The module's compiled expressions, and the expressions in its calls of `re`."""
    tree = ast.parse(source)
    for name in sorted(assigned(tree)):
        value = getattr(module, name, None)
        if isinstance(value, re.Pattern):
            # If the expression is passed elsewhere, its method is unknown; `search` takes longest.
            methods = set(re.findall(rf"\b{re.escape(name)}\.({'|'.join(METHODS)})\b", source)) or {"search"}
            yield from (Use(f"{module.__name__}.{name}", value, method) for method in sorted(methods))
        elif isinstance(value, BuiltinMethodType) and isinstance(value.__self__, re.Pattern):
            yield Use(f"{module.__name__}.{name}", value.__self__, value.__name__)
    for call, method in re_calls(tree):
        if method in METHODS and isinstance(call.args[0], ast.Constant):
            flags = re.IGNORECASE if "IGNORECASE" in ast.dump(call) else re.NOFLAG
            yield Use(f"{module.__name__}:{call.lineno}", re.compile(str(call.args[0].value), flags), method)


def assigned(tree: ast.Module) -> set[str]:
    """The names that are assigned at module level."""
    statements = (statement for statement in tree.body if isinstance(statement, (ast.Assign, ast.AnnAssign)))
    targets = (node for statement in statements for node in ast.walk(statement) if isinstance(node, ast.Name))
    return {node.id for node in targets if isinstance(node.ctx, ast.Store)}


def re_calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Each call of a function of `re`, and the function's name."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="re"), attr=method)) if method in ("compile", *METHODS):
                yield node, method


def attacks(expression: str) -> Iterator[str]:
    """Texts that are likely to cause backtracking."""
    words = sorted({word for word in re.findall(r"[A-Za-z]{3,}:?=?|://", expression) if len(word) < 14})[:4]
    own = {character for character in expression if not character.isalnum()} | set(" \t\n1a\u0301\u0660")
    own -= set(string.ascii_letters) - {"a"}
    single = sorted(own)
    pumps = [*single, *("".join(pair) for pair in product(single, repeat=2) if pair[0] != pair[1])][:100] + words
    for beginning, pump, end in product(["", *words], pumps, ["", "\0"]):
        yield beginning + pump * (REPEATED // len(pump)) + end


USES = [use for module, source in modules() for use in uses_in(module, source)]


@pytest.mark.parametrize("use", USES, ids=str)
def test_expression_takes_linear_time(use: Use) -> None:
    expression = str(use.pattern.pattern)
    for text in attacks(expression):
        assert min_seconds(use, text) < SECONDS, (text[:20], text[-20:])


def min_seconds(use: Use, text: str) -> float:
    """The shortest time of up to three tries; further tries only if the first was too slow."""
    spent = use.seconds(text)
    for _ in range(2):
        if spent >= SECONDS:
            spent = min(spent, use.seconds(text))
    return spent


def test_expression_for_one_number_takes_linear_time() -> None:
    mentions = importlib.import_module("receiver.phone_numbers.masking").Mentions(16175551234)
    for expression in (mentions._spelt, mentions._abroad):
        use = Use("mentions", expression, "search")
        for text in (
            unit * 400 for unit in ("1 (617) 555-123", "+1 ", "61 ", "0", "6175551230", "+001", "1-", "011 - ")
        ):
            assert min_seconds(use, text) < SECONDS, text[:20]


def test_every_expression_is_known() -> None:
    """An expression that is not a constant is compiled at module level, or its module is in `BUILT`."""
    for module, source in modules():
        tree = ast.parse(source)
        at_module_level = {
            id(call)
            for statement in tree.body
            if isinstance(statement, (ast.Assign, ast.AnnAssign))
            for call, _ in re_calls(statement)
        }
        for call, _ in re_calls(tree):
            known = id(call) in at_module_level or isinstance(call.args[0], ast.Constant) or module.__name__ in BUILT
            assert known, f"{module.__name__}:{call.lineno}"


def test_a_quadratic_expression_is_found() -> None:
    use = Use(
        "an earlier expression of the simulator",
        re.compile(r"(tel:)?\s*\+?[\d\s().-]+(;[A-Za-z]+=[^;]*)*"),
        "fullmatch",
    )
    assert any(min_seconds(use, text) >= SECONDS for text in attacks(str(use.pattern.pattern)))
