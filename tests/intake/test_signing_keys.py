"""Results that are still expected need the keys that signed their tokens. No key is needed for ever."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta

import pytest

from receiver.config import Config
from receiver.database.pool import Connection
from receiver.errors import ConfigurationError
from receiver.intake.signing_keys import (
    check_keys_at_start,
    check_signing_keys,
    fingerprint,
    has_earlier_release,
    list_unverifiable,
)
from receiver.release.claim import claim_submission
from receiver.release.presence import register_worker
from receiver.release.recording import record_answer
from tests.factories import ACCEPTED, REFUSED, UNKNOWN, deliver, make_batch, phone_number, result_body
from tests.web.conftest import config

__all__ = ["config"]

OLD, NEW, STRANGE = "the key of last year", "the key of this year", "nobody's key at all"


def send(conn: Connection, batch_id: int, key: str | None, answer: object = ACCEPTED) -> int:
    """Send what is pending as a worker that signs with `key`; None: as release 1.0.0."""
    signing_key = None if key is None else fingerprint(key)
    worker_id = register_worker(conn, "test", 1, signing_key)
    outgoing = claim_submission(conn, worker_id, signing_key=signing_key)
    assert outgoing is not None and outgoing.batch_id == batch_id
    conn.commit()
    if answer is not None:
        record_answer(conn, outgoing, answer)  # type: ignore[arg-type]
    conn.commit()
    return batch_id


def sent(conn: Connection, key: str | None, answer: object = ACCEPTED) -> int:
    return send(conn, make_batch(conn, send=False), key, answer)


def lacking(conn: Connection, *keys: str) -> list[tuple[str | None, list[int]]]:
    return [(each.fingerprint, each.batch_ids) for each in list_unverifiable(conn, keys)]


@pytest.mark.parametrize("answer", [ACCEPTED, UNKNOWN, None], ids=["accepted", "unknown", "sending"])
def test_submission_that_may_have_results_needs_the_key_that_signed_its_token(conn: Connection, answer: object) -> None:
    batch_id = sent(conn, OLD, answer)
    assert lacking(conn, OLD) == lacking(conn, NEW, OLD) == []
    assert lacking(conn, NEW) == [(fingerprint(OLD), [batch_id])]


def test_each_missing_key_is_reported(conn: Connection) -> None:
    first, second = sent(conn, OLD), sent(conn, NEW)
    assert lacking(conn, NEW) == [(fingerprint(OLD), [first])]
    assert sorted(lacking(conn, STRANGE)) == sorted([(fingerprint(OLD), [first]), (fingerprint(NEW), [second])])


def test_refused_submission_and_one_that_was_not_sent_need_no_key(conn: Connection) -> None:
    sent(conn, OLD, REFUSED)
    make_batch(conn, send=False)
    assert lacking(conn, NEW) == []


def test_key_is_needed_until_the_last_result_is_received(conn: Connection) -> None:
    batch_id = send(conn, make_batch(conn, [phone_number(0), phone_number(1)], send=False), OLD)
    deliver(conn, batch_id, result_body(phone_number(0)))
    assert lacking(conn, NEW) == [(fingerprint(OLD), [batch_id])]
    deliver(conn, batch_id, result_body(phone_number(1)))
    assert lacking(conn, NEW) == []


@pytest.mark.parametrize(("days", "needed"), [(0, True), (29, True), (31, False)])
def test_overdue_result_is_expected_for_thirty_more_days(conn: Connection, days: int, needed: bool) -> None:
    batch_id = sent(conn, OLD)
    conn.execute(
        "update batch set due_at = now() - %s where batch_id = %s", (timedelta(days=days, seconds=1), batch_id)
    )
    assert bool(lacking(conn, NEW)) == needed


def test_submission_that_is_sent_again_needs_the_key_of_its_last_try(conn: Connection) -> None:
    batch_id = sent(conn, OLD, None)
    conn.execute("update submission set state = 'pending'")
    send(conn, batch_id, NEW)
    assert lacking(conn, NEW) == [] and lacking(conn, OLD) == [(fingerprint(NEW), [batch_id])]


def test_submissions_of_release_1_accept_any_key_that_was_ever_used_here(conn: Connection) -> None:
    batch_id = sent(conn, None)
    assert has_earlier_release(conn)
    assert lacking(conn, STRANGE) == [], "the key is unknown"
    register_worker(conn, "test", 1, fingerprint(OLD))
    register_worker(conn, "test", 1, fingerprint(OLD))
    assert not has_earlier_release(conn)
    assert lacking(conn, OLD) == lacking(conn, NEW, OLD) == []
    assert lacking(conn, STRANGE) == [(None, [batch_id])]


def test_new_database_has_no_earlier_release(conn: Connection) -> None:
    assert not has_earlier_release(conn)


def test_refused_start_says_what_to_do_and_shows_no_key(conn: Connection, config: Config) -> None:
    batch_id = sent(conn, OLD)
    check_signing_keys(conn, replace(config, secret_keys=(NEW, OLD)))
    with pytest.raises(ConfigurationError) as refused:
        check_signing_keys(conn, replace(config, secret_keys=(NEW,)))
    (fault,) = refused.value.faults
    assert fault.where == "SECRET_KEY"
    for words in (f"batch {batch_id}", fingerprint(OLD), "SECRET_KEY=new,old", "SECRET_KEY_LOSS=accept"):
        assert words in fault.message
    assert OLD not in fault.message and NEW not in fault.message


def test_accepted_loss_is_logged_and_starts(conn: Connection, config: Config, caplog: pytest.LogCaptureFixture) -> None:
    sent(conn, OLD)
    with caplog.at_level(logging.WARNING):
        check_signing_keys(conn, replace(config, secret_keys=(NEW,), accepts_key_loss=True))
    assert "SECRET_KEY lacks the key" in caplog.text


def test_unavailable_or_empty_database_refuses_no_start(config: Config, empty_database_url: str) -> None:
    check_keys_at_start(config, "postgresql://nobody@127.0.0.1:9/none")
    check_keys_at_start(config, empty_database_url)


def test_fingerprint_is_short_and_always_the_same() -> None:
    assert fingerprint("a secret that is long enough") == "8162a62d"
    assert len({fingerprint(f"{number} {NEW}") for number in range(20)}) == 20
