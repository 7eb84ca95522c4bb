"""`keys create`, `keys list`, `keys revoke`."""

import pytest

from receiver.database.api_keys import SCOPES, find_key
from receiver.database.pool import Connection
from tests.cli.conftest import Run


@pytest.mark.parametrize("scope", SCOPES)
def test_created_key_is_the_last_line_and_works(run: Run, conn: Connection, scope: str) -> None:
    ran = run("keys", "create", "reports", "--scope", scope)
    assert (ran.status, ran.err) == (0, "")
    found = find_key(conn, ran.lines[-1])
    assert found is not None and (found.name, found.scope) == ("reports", scope)


def test_list_shows_names_and_scopes_and_no_key(run: Run, conn: Connection) -> None:
    key = run("keys", "create", "reports", "--scope", "read").lines[-1]
    run("keys", "create", "dialer", "--scope", "queue")
    ran = run("keys", "list")
    assert ran.status == 0
    assert [line.split()[:2] for line in ran.lines[1:]] == [["dialer", "queue"], ["reports", "read"]]
    assert key[:11] in ran.out and key[12:] not in ran.out
    assert ran.lines[1].rstrip().endswith("never")
    assert find_key(conn, key) is not None
    conn.commit()
    assert not run("keys", "list").lines[2].rstrip().endswith("never")


def test_revoked_key_is_removed_and_its_name_is_free(run: Run, conn: Connection) -> None:
    key = run("keys", "create", "reports", "--scope", "read").lines[-1]
    assert run("keys", "revoke", "reports").status == 0
    assert find_key(conn, key) is None
    assert len(run("keys", "list").lines) == 1
    assert run("keys", "create", "reports", "--scope", "admin").status == 0


def test_existing_name_and_unknown_name_are_status_1(run: Run) -> None:
    run("keys", "create", "reports", "--scope", "read")
    for arguments in (("create", "reports", "--scope", "read"), ("revoke", "nobody")):
        ran = run("keys", *arguments)
        assert (ran.status, ran.out) == (1, "")
        assert ran.err.startswith("receiver: ") and len(ran.err.splitlines()) == 1


def test_unprintable_name_is_status_2(run: Run) -> None:
    for name in ("", "a\nb", "\udcff", "x" * 101):
        ran = run("keys", "create", name, "--scope", "read")
        assert (ran.status, ran.out) == (2, "")
        assert "name" in ran.err
