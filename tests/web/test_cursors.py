"""A cursor is valid only for its own list, and only unchanged."""

from dataclasses import replace
from pathlib import Path

from flask.testing import FlaskClient

from receiver.database.api_keys import create_key
from receiver.database.pool import Connection
from tests.factories import deliver, make_batch, phone_number
from tests.web.asking import SECRET, config_for, faults_of
from tests.web.conftest import patient_app

NUMBER = "phone_number=6175550000"


def lists_with_a_next_page(conn: Connection) -> list[str]:
    """Paths of lists that have a second page."""
    batches = [make_batch(conn, [phone_number(0), phone_number(1)]) for _ in range(2)]
    deliver(conn, batches[0], b"{", b"[")
    return [
        "/api/v1/batches?limit=1",
        f"/api/v1/batches/{batches[0]}/calls?limit=1",
        f"/api/v1/batches/{batches[1]}/calls?limit=1",
        f"/api/v1/calls?{NUMBER}&limit=1",
        "/api/v1/callbacks?limit=1",
    ]


def test_cursor_of_another_list_is_refused(reader: FlaskClient, conn: Connection) -> None:
    paths = lists_with_a_next_page(conn)
    cursors = {path: reader.get(path).get_json()["next_cursor"] for path in paths}
    assert all(cursors.values())
    for path in paths:
        for source, cursor in cursors.items():
            answer = reader.get(f"{path}&cursor={cursor}")
            if source == path:
                assert answer.status_code == 200
            else:
                assert faults_of(answer) == [("cursor", "invalid_cursor")], (path, source)


def test_changed_cursor_is_refused(reader: FlaskClient, conn: Connection) -> None:
    path = lists_with_a_next_page(conn)[0]
    cursor: str = reader.get(path).get_json()["next_cursor"]
    payload, _, signature = cursor.partition(".")
    for changed in (payload, f"WzFd.{signature}", cursor[:-2], f"{cursor}A", cursor.swapcase(), f".{signature}"):
        assert faults_of(reader.get(f"{path}&cursor={changed}")) == [("cursor", "invalid_cursor")]


def test_cursor_is_valid_after_the_secret_key_was_renewed(
    reader: FlaskClient, conn: Connection, tmp_path: Path, database_url: str
) -> None:
    path = lists_with_a_next_page(conn)[0]
    cursor = reader.get(path).get_json()["next_cursor"]
    key = create_key(conn, "another", "read")
    conn.commit()
    config = replace(config_for(tmp_path, database_url), secret_keys=("the secret that signs from now on", SECRET))
    with patient_app(config, database_url) as app:
        answer = app.test_client().get(f"{path}&cursor={cursor}", headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 200
