"""All texts in the database that may contain a phone number. The tables and columns come from the database's catalog,
so that new ones are searched, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from receiver.database.pool import Connection

ROWS_AT_ONCE = 50_000
"""The rows that one statement searches."""

NOT_SEARCHED = {
    "schema_migration": "names and checksums of our own files",
    "callback": "bodies are packed, so each is read by itself",
    "draft": "deleted as a whole",
    "draft_chunk": "parts of a file, which may end in the middle of a number",
}
"""Tables whose texts are handled elsewhere, and why."""

CLEARS_STATISTICS = 180000
"""The first version of Postgres that can delete a column's samples."""

_JSON = ("json", "jsonb")
_TYPES = ("text", "varchar", "text[]", *_JSON)

Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table with texts. `key`: the columns of its primary key. `columns`: the columns with texts, and their types."""

    name: str
    key: tuple[str, ...]
    columns: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """A row's key, and its texts by column: a text, a list of texts, a JSON value, or None."""

    key: Key
    texts: dict[str, Any]


def list_tables(conn: Connection) -> list[Table]:
    """All tables with columns of text, except those in NOT_SEARCHED."""
    found = conn.execute(
        "select c.relname,"
        " array(select a.attname from pg_index i cross join unnest(i.indkey) with ordinality k (no, at)"
        "  join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.no"
        "  where i.indrelid = c.oid and i.indisprimary order by k.at)::text[],"
        " (select json_object_agg(a.attname, format_type(a.atttypid, null) order by a.attnum) from pg_attribute a"
        "  where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''"
        "  and a.atttypid = any(%s::text[]::regtype[]))"
        " from pg_class c where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p')"
        " and not c.relispartition order by c.relname",
        (list(_TYPES),),
    ).fetchall()
    return [
        Table(name, tuple(key), columns) for name, key, columns in found if key and columns and name not in NOT_SEARCHED
    ]


def find_rows(conn: Connection, table: Table, sieve: str) -> Iterator[tuple[int, list[Row]]]:
    """Search a table in pieces: yields (rows searched, the rows with a text that matches the regular expression).

    The last piece counts as 0 rows.
    """
    key, columns = _names(table.key), _names(table.columns)
    texts = ", ".join(f'"{column}"::text' for column in table.columns)
    past: str = "true"
    after: Key = ()
    while True:
        end = conn.execute(
            f'select {key} from "{table.name}" where {past} order by {key} offset %s limit 1',
            (*after, ROWS_AT_ONCE - 1),
        ).fetchone()
        to = "true" if end is None else f"({key}) <= ({_places(end)})"
        found = conn.execute(
            f"select {key}, {columns} from \"{table.name}\" where {past} and {to} and concat_ws(' ', {texts}) ~ %s"
            f" order by {key}",
            (*after, *(end or ()), sieve),
        ).fetchall()
        yield 0 if end is None else ROWS_AT_ONCE, [_row(table, row) for row in found]
        if end is None:
            return
        past, after = f"({key}) > ({_places(end)})", end


def read_locked(conn: Connection, table: Table, keys: Iterable[Key]) -> list[Row]:
    """The current values of these rows, locked until the transaction ends. Deleted rows are left out."""
    names = f"{_names(table.key)}, {_names(table.columns)}"
    found = (
        conn.execute(f'select {names} from "{table.name}" where {_equal(table)} for update', key).fetchone()
        for key in keys
    )
    return [_row(table, row) for row in found if row is not None]


def write_texts(conn: Connection, table: Table, key: Key, changed: Mapping[str, Any]) -> None:
    """Write some texts of a row that the caller has locked."""
    values = [Jsonb(value) if table.columns[column] in _JSON else value for column, value in changed.items()]
    columns = ", ".join(f'"{column}" = %s' for column in changed)
    conn.execute(f'update "{table.name}" set {columns} where {_equal(table)}', (*values, *key))


def renew_statistics(conn: Connection) -> bool:
    """Delete old values from the planner's statistics: they contain samples of rows until the next `analyze`.

    Returns False if this role does not own the tables, and so may not do it.
    """
    tables = [*(table.name for table in list_tables(conn)), *NOT_SEARCHED]
    owned = conn.execute(
        "select bool_and(pg_has_role(relowner, 'usage')) from pg_class"
        " where relnamespace = current_schema()::regnamespace and relname = any(%s)",
        (tables,),
    ).fetchone()
    if owned != (True,):
        return False
    if conn.info.server_version >= CLEARS_STATISTICS:
        # `analyze` alone keeps the samples of a table that is empty now.
        conn.execute(
            "select pg_clear_attribute_stats(current_schema(), c.relname, a.attname, false)"
            " from pg_class c join pg_attribute a on a.attrelid = c.oid"
            " where c.relnamespace = current_schema()::regnamespace and c.relname = any(%s)"
            " and a.attnum > 0 and not a.attisdropped",
            (tables,),
        )
    for table in tables:
        conn.execute(f'analyze "{table}"')
    return True


def rewritten(value: Any, rewrite: Callable[[str], str]) -> Any:
    """A text, list or JSON value, with `rewrite` applied to each text in it."""
    if isinstance(value, str):
        return rewrite(value)
    if isinstance(value, list):
        return [rewritten(item, rewrite) for item in value]
    if isinstance(value, dict):
        return {rewrite(name): rewritten(item, rewrite) for name, item in value.items()}
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        text = rewrite(str(value))
        return value if text == str(value) else text
    return value


def _names(columns: Iterable[str]) -> str:
    return ", ".join(f'"{column}"' for column in columns)


def _places(values: Sequence[Any]) -> str:
    return ", ".join("%s" for _ in values)


def _equal(table: Table) -> str:
    return " and ".join(f'"{column}" = %s' for column in table.key)


def _row(table: Table, row: tuple[Any, ...]) -> Row:
    width = len(table.key)
    return Row(row[:width], dict(zip(table.columns, row[width:], strict=True)))
