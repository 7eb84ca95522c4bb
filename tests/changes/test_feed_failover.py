"""A reader of the feed continues with its cursor: after a crash of the server, after a failover, and at a replica."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from receiver.database.migrations import migrate
from receiver.database.pool import Connection, connect
from receiver.summary.feed import list_entries
from tests.acceptance.postgres import Postgres
from tests.factories import make_batch, phone_number
from tests.feeding import Keys, change, give_all, read_on, start
from tests.replication import catch_up, readers, resume_replay, standby_of, stop_replay

pytestmark = pytest.mark.long


@pytest.fixture
def server(server_dir: Path) -> Iterator[Postgres]:
    (folder := server_dir / "primary").mkdir(mode=0o711)
    with Postgres(folder) as server:
        migrate(server.url)
        yield server


def make_calls(conn: Connection) -> Keys:
    batch_id = make_batch(conn, [phone_number(index) for index in range(9)])
    return [(batch_id, row) for row in range(1, 10)]


def feed(conn: Connection, keys: Keys) -> None:
    for key in keys:
        change(conn, key)
        conn.commit()
        give_all(conn)


def test_cursor_is_valid_after_a_crash_of_the_server(server: Postgres) -> None:
    with closing(connect(server.url, name="test")) as conn:
        keys = make_calls(conn)
        feed(conn, keys[:3])
        seen, place = read_on(conn, start(conn))
        change(conn, keys[3])
        conn.commit()  # its position is not given yet
    server.stop("immediate")
    server.start()
    with closing(connect(server.url, name="test")) as conn:
        feed(conn, keys[4:])
        assert seen + read_on(conn, place)[0] == keys


def test_cursor_is_valid_after_a_failover(server: Postgres, server_dir: Path) -> None:
    with standby_of(server, server_dir) as standby:
        with closing(connect(server.url, name="test")) as conn:
            keys = make_calls(conn)
            feed(conn, keys[:3])
            seen, place = read_on(conn, start(conn))
            change(conn, keys[3])
            conn.commit()
        catch_up(server, standby)
        server.stop("immediate")
        standby.promote()
        with closing(connect(standby.url, name="test")) as conn:
            feed(conn, keys[4:])
            assert seen + read_on(conn, place)[0] == keys


def test_replica_that_is_behind_never_makes_a_cursor_expire(server: Postgres, server_dir: Path) -> None:
    with standby_of(server, server_dir) as standby, readers(server, standby) as (_, reader):
        with closing(connect(server.url, name="test")) as conn:
            keys = make_calls(conn)
            feed(conn, keys[:3])
            place = start(conn)
            catch_up(server, standby)
            sources = [reader.source]
            assert len(reader.read(list_entries, place, 10).entries) == 3
            sources.append(reader.source)
            stop_replay(standby)
            feed(conn, keys[3:6])
            _, newer = read_on(conn, place)
            feed(conn, keys[6:])
            assert len(reader.read(list_entries, newer, 10).entries) == 3
            assert [*sources, reader.source] == [None, "replica", "not_found"]
            resume_replay(standby)
