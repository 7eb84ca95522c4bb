"""Our packed arrays equal those of psycopg, byte by byte and as Postgres reads them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import LiteralString

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.adapt import PyFormat, Transformer

from receiver.database.arrays import Array, bigints, booleans, integers, smallints
from receiver.database.pool import Connection

Maker = Callable[[Iterable[int | None]], Array]


@pytest.mark.parametrize(
    ("make", "query", "bits"),
    [
        (bigints, "select v, pg_typeof(v)::text from unnest(%b::bigint[]) as v", 63),
        (integers, "select v, pg_typeof(v)::text from unnest(%b::integer[]) as v", 31),
        (smallints, "select v, pg_typeof(v)::text from unnest(%b::smallint[]) as v", 15),
    ],
)
def test_numbers_are_stored_unchanged(conn: Connection, make: Maker, query: LiteralString, bits: int) -> None:
    name = make.__name__.removesuffix("s")
    values = [0, None, -1, 2**bits - 1, -(2**bits), 7]
    columns: list[list[int | None]] = [values, [None], [5], []]
    for column in columns:
        assert conn.execute(query, (make(column),)).fetchall() == [(value, name) for value in column]
    with pytest.raises(struct.error):
        make([2**bits])


def test_booleans_are_stored_unchanged(conn: Connection) -> None:
    found = conn.execute("select * from unnest(%b::boolean[])", (booleans([True, None, False]),))
    assert found.fetchall() == [(True,), (None,), (False,)]


@given(st.lists(st.integers(2**31, 2**63 - 1), min_size=1))
def test_bytes_equal_those_of_psycopg(values: list[int]) -> None:
    transformer = Transformer()
    (made,) = transformer.dump_sequence([values], [PyFormat.BINARY])
    assert made is not None
    # The second number is the flag for nulls, which we always set.
    content = bigints(values).content
    assert content[:4] + content[8:] == bytes(made)[:4] + bytes(made)[8:]
    assert transformer.types == (bigints(values).oid,)
