"""Which statements a distributed Postgres (Citus) can run: the rules of docs/large-scale.md, for statements as text.

`find_faults` parses a statement with Postgres' own parser. Tables of deploy/citus.sql are distributed by `batch_id`,
others are local. A query level is **pinned** if its rows are those of one batch: then one server runs it as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pglast.parser import parse_sql_json

from tests.acceptance.service import ROOT

KEY = "batch_id"

VOLATILE = {"now", "clock_timestamp", "statement_timestamp", "random", "nextval", "gen_random_uuid"}
"""Functions whose value is not fixed. Each server would call them by itself."""

PINNED = "one batch"

Node = dict[str, Any]


@cache
def distributed_tables() -> frozenset[str]:
    """The tables that deploy/citus.sql distributes, and the views of them."""
    text = (ROOT / "deploy" / "citus.sql").read_text()
    found = re.findall(r"create_distributed_table\('(\w+)', 'batch_id'", text)
    return frozenset(found) | {"batch_total", "result_total"}


@cache
def local_tables() -> frozenset[str]:
    """The tables that deploy/citus.sql names as local."""
    text = (ROOT / "deploy" / "citus.sql").read_text()
    return frozenset(re.findall(r"^-- local: (\w+)", text, re.MULTILINE))


@dataclass
class _Level:
    """One query level: its tables by alias, and which of their keys are equal."""

    outer: _Level | None
    ctes: frozenset[str]
    tables: dict[str, str] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)
    """Aliases of functions, subqueries and CTEs."""
    equal: dict[str, str] = field(default_factory=dict)
    outer_joined: list[tuple[set[str], set[str]]] = field(default_factory=list)
    refers_to_outer: bool = False

    def top(self, name: str) -> str:
        while name in self.equal:
            name = self.equal[name]
        return name

    def unite(self, one: str, other: str) -> None:
        one, other = self.top(one), self.top(other)
        if one != other:
            # The pinned name stays on top.
            self.equal.update({other: one} if one == PINNED else {one: other})

    @property
    def distributed(self) -> list[str]:
        return [alias for alias, table in self.tables.items() if table in distributed_tables()]

    @property
    def is_pinned(self) -> bool:
        return all(self.top(alias) == PINNED for alias in self.distributed)


def find_faults(statement: str) -> list[str]:
    """What a distributed Postgres would refuse in a statement with psycopg's or Postgres' placeholders."""
    text = re.sub(r"%(?:\(\w+\))?[sbt]", "$1", statement).replace("%%", "%")
    parsed = json.loads(parse_sql_json(text))
    faults: list[str] = []
    for each in parsed.get("stmts", ()):
        _query(each["stmt"], None, frozenset(), faults)
    return list(dict.fromkeys(faults))


def _query(node: Node, outer: _Level | None, ctes: frozenset[str], faults: list[str]) -> _Level | None:
    (kind, body), *_ = node.items()
    if kind not in ("SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt"):
        return None
    for cte in body.get("withClause", {}).get("ctes", ()):
        common = cte["CommonTableExpr"]
        _query(common["ctequery"], outer, ctes, faults)
        ctes |= {common["ctename"]}
    if kind == "SelectStmt" and body.get("op", "SETOP_NONE") != "SETOP_NONE":
        for side in ("larg", "rarg"):
            _query({"SelectStmt": body[side]}, outer, ctes, faults)
        return None
    level = _Level(outer, ctes)
    if kind == "InsertStmt":
        if "selectStmt" in body:
            _query(body["selectStmt"], outer, ctes, faults)
        return None
    if relation := body.get("relation"):
        _table(relation, level)
    for each in (*body.get("fromClause", ()), *body.get("usingClause", ())):
        _source(each, level, faults)
    _conditions(body.get("whereClause"), level)
    _check_joins(level, faults)
    _check_lock(body, level, faults)
    if kind == "UpdateStmt" and body["relation"]["relname"] in distributed_tables():
        _check_update(body, faults)
    for name in ("whereClause", "targetList", "havingClause", "sortClause", "groupClause", "returningList",
                 "limitCount", "returningClause"):  # fmt: skip
        joined = list(_joined(body.get(name))) if name == "whereClause" else []
        for sublink in _sublinks(body.get(name)):
            _check_sublink(sublink, level, faults, is_condition=sublink in joined)
    for column in _column_names(body, into_sublinks=False):
        _note_outer(column, level)
    return level


def _table(relation: Node, level: _Level) -> str:
    name, alias = relation["relname"], relation.get("alias", {}).get("aliasname", relation["relname"])
    if name in level.ctes:
        level.others.add(alias)
    else:
        level.tables[alias] = name
    return str(alias)


def _source(node: Node, level: _Level, faults: list[str]) -> set[str]:
    """Read one member of `from`; returns its aliases."""
    (kind, body), *_ = node.items()
    if kind == "RangeVar":
        return {_table(body, level)}
    alias = body.get("alias", {}).get("aliasname", "")
    if kind == "RangeSubselect":
        level.others.add(alias)
        inner = _query(body["subquery"], level, level.ctes, faults)
        if body.get("lateral") and inner is not None and inner.distributed and not inner.is_pinned:
            limited = "limitCount" in body["subquery"]["SelectStmt"]
            if limited or set(inner.tables.values()) - distributed_tables():
                faults.append("a lateral subquery with a limit or a local table")
        return {alias}
    if kind == "JoinExpr":
        left, right = _source(body["larg"], level, faults), _source(body["rarg"], level, faults)
        if {"String": {"sval": KEY}} in body.get("usingClause", ()):
            for one in left:
                for other in right:
                    level.unite(one, other)
        _conditions(body.get("quals"), level)
        for sublink in _sublinks(body.get("quals")):
            _check_sublink(sublink, level, faults)
        if body["jointype"] == "JOIN_LEFT":
            level.outer_joined.append((left, right))
        return left | right
    level.others.add(alias)
    return {alias}


def _conditions(node: Node | None, level: _Level) -> None:
    """Note which keys are equal to each other, or to one value."""
    if not node:
        return
    (kind, body), *_ = node.items()
    if kind == "BoolExpr" and body["boolop"] == "AND_EXPR":
        for each in body["args"]:
            _conditions(each, level)
    if kind == "A_Expr" and body["kind"] == "AEXPR_OP" and body["name"] == [{"String": {"sval": "="}}]:
        pairs = list(zip(*[_members(body[side]) for side in ("lexpr", "rexpr")], strict=False))
        for left, right in pairs:
            one, other = _key_of(left, level), _key_of(right, level)
            for key, value in ((one, right), (other, left)):
                if key and _is_value(value):
                    for alias in key:
                        level.unite(alias, PINNED)
            for a in one:
                for b in other:
                    level.unite(a, b)


def _members(node: Node) -> list[Node]:
    return list(node["RowExpr"]["args"]) if "RowExpr" in node else [node]


def _is_value(node: Node) -> bool:
    while "TypeCast" in node:
        node = node["TypeCast"]["arg"]
    return "ParamRef" in node or "A_Const" in node


def _key_of(node: Node, level: _Level) -> list[str]:
    """The aliases whose key this column is. Of an outer level: PINNED, if that level is pinned."""
    names = _names(node.get("ColumnRef")) if "ColumnRef" in node else []
    if not names or names[-1] != KEY:
        # A column with another name of a function or a subquery can have the key's value.
        return [names[0]] if len(names) == 2 and names[0] in level.others else []
    if len(names) == 1:
        return level.distributed or list(level.tables)
    if names[0] in level.tables or names[0] in level.others:
        return [names[0]]
    outer = level.outer
    while outer is not None:
        if names[0] in outer.tables:
            return [PINNED] if outer.top(names[0]) == PINNED else [f"outer {names[0]}"]
        outer = outer.outer
    return []


def _names(column: Node | None) -> list[str]:
    return [each["String"]["sval"] for each in (column or {}).get("fields", ()) if "String" in each]


def _note_outer(names: list[str], level: _Level) -> None:
    if len(names) != 2 or names[0] in level.tables or names[0] in level.others:
        return
    inner: _Level | None = level
    while inner is not None and names[0] not in inner.tables and names[0] not in inner.others:
        inner.refers_to_outer = inner.outer is not None
        inner = inner.outer


def _check_joins(level: _Level, faults: list[str]) -> None:
    distributed = level.distributed
    if len({level.top(alias) for alias in distributed}) > 1:
        tables = ", ".join(sorted(level.tables[alias] for alias in distributed))
        faults.append(f"a join of {tables} not on {KEY}")
    for left, right in level.outer_joined:
        if not left & set(distributed) and right & set(distributed) and not level.is_pinned:
            faults.append("a left join of something that is not distributed with a distributed table")


def _check_lock(body: Node, level: _Level, faults: list[str]) -> None:
    for clause in body.get("lockingClause", ()):
        named = [each["RangeVar"]["relname"] for each in clause["LockingClause"].get("lockedRels", ())]
        for alias in named or level.tables:
            if alias in level.distributed and level.top(alias) != PINNED:
                faults.append(f"it locks rows of {level.tables[alias]} of several batches")
            if alias in level.tables and alias not in level.distributed and level.distributed:
                faults.append(f"it locks rows of the local table {level.tables[alias]} beside a distributed one")


def _check_update(body: Node, faults: list[str]) -> None:
    for target in body["targetList"]:
        for kind, node in _walk(target):
            if kind in ("CoalesceExpr", "CaseExpr") and _calls_volatile(node):
                faults.append("a volatile function within coalesce or case of an update")


def _calls_volatile(node: Node) -> bool:
    return any(
        kind == "SQLValueFunction" or (kind == "FuncCall" and inner["funcname"][-1]["String"]["sval"] in VOLATILE)
        for kind, inner in _walk(node)
    )


def _check_sublink(sublink: Node, level: _Level, faults: list[str], *, is_condition: bool = True) -> None:
    if "testexpr" in sublink:
        for inner_link in _sublinks(sublink["testexpr"]):
            _check_sublink(inner_link, level, faults)
    inner = _query(sublink["subselect"], level, level.ctes, faults)
    if inner is None or not inner.refers_to_outer:
        return
    tables = {*inner.tables.values(), *level.tables.values()}
    if not tables & distributed_tables():
        return
    has_local = bool(set(inner.tables.values()) - distributed_tables())
    if has_local or (inner.tables and bool(inner.distributed) != bool(level.distributed)):
        faults.append(f"a correlated subquery over {', '.join(sorted(tables))}, not all of which are distributed")
    elif not (is_condition and sublink["subLinkType"] in ("EXISTS_SUBLINK", "ANY_SUBLINK")) and not inner.is_pinned:
        faults.append(f"a correlated subquery over {', '.join(sorted(tables))}")


def _sublinks(node: Any) -> Iterator[Node]:
    """The subqueries of an expression, without those within them."""
    if isinstance(node, list):
        for each in node:
            yield from _sublinks(each)
    elif isinstance(node, dict):
        if "SubLink" in node:
            yield node["SubLink"]
            return
        for value in node.values():
            yield from _sublinks(value)


def _joined(node: Node | None) -> Iterator[Node]:
    """The subqueries that all rows must satisfy, or must not: they are planned as joins."""
    if not node:
        return
    if "SubLink" in node:
        yield node["SubLink"]
    if node.get("BoolExpr", {}).get("boolop") in ("AND_EXPR", "NOT_EXPR"):
        for each in node["BoolExpr"]["args"]:
            yield from _joined(each)


def _walk(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, list):
        for each in node:
            yield from _walk(each)
    elif isinstance(node, dict):
        for kind, value in node.items():
            yield kind, value
            yield from _walk(value)


def _column_names(node: Any, *, into_sublinks: bool) -> Iterator[list[str]]:
    if isinstance(node, list):
        for each in node:
            yield from _column_names(each, into_sublinks=into_sublinks)
    elif isinstance(node, dict):
        for kind, value in node.items():
            if kind == "ColumnRef":
                yield _names(value)
            elif kind not in ("withClause",) and (into_sublinks or kind not in ("SubLink", "RangeSubselect")):
                yield from _column_names(value, into_sublinks=into_sublinks)
