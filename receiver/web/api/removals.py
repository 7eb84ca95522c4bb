"""Erasures and purges over REST: the same work as the commands `erase` and `purge`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from flask import Response
from marshmallow import Schema, validate

from receiver.database.jobs import get_job
from receiver.database.pool import Connection, reading
from receiver.intake.spool import Spool
from receiver.phone_numbers.destination import read_number
from receiver.queueing.form_fields import LARGEST_ID, says
from receiver.results import retention
from receiver.results.erasure import Erased, erase
from receiver.results.stored_texts import renew_statistics
from receiver.web import schemas
from receiver.web.api import Blueprint
from receiver.web.auth import current_key
from receiver.web.jobs import answer_job, run_job
from receiver.web.json_fields import JsonFlag, JsonNumber, exactly_one
from receiver.web.services import services

blueprint = Blueprint("removals")

MOST_DAYS = 36_500


class ErasureRequest(Schema):
    phone_number = schemas.one_number()
    dry_run = JsonFlag(load_default=False, metadata=says("Only count what would be erased."))


class PurgeRequest(Schema):
    older_than_days = JsonNumber(
        validate=validate.Range(0, MOST_DAYS), metadata=says("Batches that were created, and due, longer ago.")
    )
    batch_id = JsonNumber(validate=validate.Range(1, LARGEST_ID), metadata=says("This batch."))
    simulated = JsonFlag(metadata=says("true: all simulated batches, even if they have not ended."))
    dry_run = JsonFlag(load_default=False, metadata=says("Only count what would be deleted."))
    force = JsonFlag(load_default=False, metadata=says("Delete the batch although its calls have not ended."))

    _check_one = exactly_one("older_than_days", "batch_id", "simulated")


class JobAnswer(schemas.Answer):
    id = schemas.whole("The id.")
    state = schemas.word(
        ["running", "done", "failed", "interrupted"],
        "`failed`: see `error`. `interrupted`: the process that did the work has ended; send the request again.",
    )
    dry_run = schemas.flag("Whether nothing is changed.")
    requested_by = schemas.text("An API key's name.")
    requested_at = schemas.moment("When it was requested.")
    ended_at = schemas.moment("When it ended; null while it is running.", allow_none=True)
    error = schemas.text("Why it failed; null if it did not.", allow_none=True)


class ErasureAnswer(JobAnswer):
    calls = schemas.whole("Calls to the number that were erased, so far.")
    contacts = schemas.whole("Rows of other calls that mentioned it.")
    skipped = schemas.whole("Skipped rows.")
    callbacks = schemas.whole("Callbacks.")
    texts = schemas.whole("Other texts, such as names, answers and notes.")
    drafts = schemas.whole("Drafts of batches, which are deleted.")
    suppressions = schemas.whole("Suppressions. The number is still not called.")
    awaited = schemas.whole("Erased calls that may still get a result: a later callback contains the number again.")
    searched = schemas.whole("Rows and bodies that were searched, rounded down.")
    statistics_renewed = schemas.flag(
        "Whether Postgres' statistics no longer contain the number. If not, the owner of the tables must run `analyze`."
    )


class PurgeAnswer(JobAnswer):
    batches = schemas.whole("Batches that were chosen.")
    calls = schemas.whole("Their calls.")
    callbacks = schemas.whole("Their callbacks.")
    late_callbacks = schemas.whole("Callbacks of batches that were purged before.")
    rows_removed = schemas.whole("Rows of the database that were deleted, so far.")
    batches_removed = schemas.whole("Batches of which nothing is left, so far.")


_erasure, _purge = ErasureAnswer(), PurgeAnswer()


@blueprint.operation("POST /erasures", "admin", ErasureAnswer, body=ErasureRequest)
@blueprint.alt_response(202, schema=ErasureAnswer, success=True, description="It continues; `Location` shows how far.")
def erase_number(said: dict[str, Any]) -> Response:
    """Erase one phone number everywhere

    All counts and outcomes stay. It can be repeated. The request waits for the end as long as `Prefer: wait=N`
    says; then the answer is 202, and the work continues. Not erased: the file of a simulator.
    """
    config, by, dry_run = services().config, current_key().name, said["dry_run"]
    number = read_number(said["phone_number"], config.default_region)

    def work(conn: Connection) -> Iterator[dict[str, Any]]:
        total = Erased()
        with closing(Spool(config.data_dir / "spool.sqlite3", config.spool_max_bytes)) as spool:
            for piece in erase(conn, number, spool.callbacks(), by=by):
                if dry_run:
                    conn.rollback()
                else:
                    conn.commit()
                total += piece
                yield asdict(total)
        renewed = dry_run or total == Erased() or renew_statistics(conn)
        yield {**asdict(total), "statistics_renewed": renewed}

    asked = {"dry_run": dry_run, "statistics_renewed": False, **asdict(Erased())}
    return run_job("erasure", asked, work, _erasure)


@blueprint.operation("POST /purges", "admin", PurgeAnswer, body=PurgeRequest)
@blueprint.alt_response(202, schema=PurgeAnswer, success=True, description="It continues; `Location` shows how far.")
def purge(said: dict[str, Any]) -> Response:
    """Delete batches with all their data

    This cannot be undone. The batches are in no list and no total at once. The request waits until their rows are
    deleted, as long as `Prefer: wait=N` says; then the answer is 202, and the work continues.
    """
    age, batch_id, by = timedelta(days=said.get("older_than_days", 0)), said.get("batch_id"), current_key().name

    def work(conn: Connection) -> Iterator[dict[str, Any]]:
        if batch_id is not None:
            old, removals = (
                retention.count_batch(conn, batch_id),
                retention.purge_batch(conn, batch_id, by=by, force=said["force"]),
            )
        elif said.get("simulated"):
            old, removals = retention.count_simulated(conn), retention.purge_simulated(conn, by=by)
        else:
            old, removals = retention.count_old(conn, age), retention.purge(conn, age, by=by)
        done = {**asdict(old), "rows_removed": 0, "batches_removed": 0}
        yield done
        for removed in removals:
            if said["dry_run"]:
                conn.rollback()
                break
            conn.commit()
            done["rows_removed"] += removed.rows
            done["batches_removed"] += removed.ended
            yield done

    asked = dict.fromkeys(("batches", "calls", "callbacks", "late_callbacks", "rows_removed", "batches_removed"), 0)
    return run_job("purge", {"dry_run": said["dry_run"], **asked}, work, _purge)


@blueprint.operation("GET /erasures/<int:job_id>", "admin", ErasureAnswer)
def get_erasure(job_id: int) -> Response:
    """How far an erasure is"""
    with reading(services().pool) as conn:
        return answer_job(get_job(conn, job_id, "erasure"), _erasure)


@blueprint.operation("GET /purges/<int:job_id>", "admin", PurgeAnswer)
def get_purge(job_id: int) -> Response:
    """How far a purge is"""
    with reading(services().pool) as conn:
        return answer_job(get_job(conn, job_id, "purge"), _purge)
