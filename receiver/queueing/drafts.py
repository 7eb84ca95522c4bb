"""Drafts: a CSV that was uploaded and previewed, and is not queued yet.

A draft is deleted after a day, and each key has at most `MOST_DRAFTS` of them, so drafts need limited space. The batch
of a queued draft is stored with it: it becomes one batch, however often the button is pressed.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import IO, Any, cast
from uuid import UUID

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from receiver.database.pool import Connection
from receiver.errors import Fault, InvalidInput, NotFound
from receiver.model import rfc3339
from receiver.queueing.acceptance import IdempotentRequest, Limits, accept, request_digest
from receiver.queueing.batches import Preview, list_zones
from receiver.queueing.header import PhoneColumn
from receiver.queueing.parameters import BatchParameters
from receiver.schedule import estimate_due_at

DRAFT_BYTES = 512 << 20
"""Largest file: about two million rows with a name and a date, or a million rows with twenty-five variables."""

MOST_DRAFTS = 5
"""Maximum number of drafts of one key. A new one replaces the oldest."""

DRAFT_HOURS = 24
CHUNK_BYTES = 1 << 20

_UNSTORABLE = re.compile("[\\x00\\ud800-\\udfff]")


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft without its file. `form`: the fields as the user wrote them."""

    draft_id: UUID
    key_id: int
    file_name: str
    csv_bytes: int
    form: dict[str, str]
    preview: dict[str, Any] | None
    batch_id: int | None
    created_at: datetime

    @property
    def version(self) -> str:
        """Identifies the content of the form. To queue a draft, a user must name the version that was shown."""
        return hashlib.sha256(json.dumps(self.form, sort_keys=True).encode()).hexdigest()[:16]


_COLUMNS = "draft_id, key_id, file_name, csv_bytes, form, preview, batch_id, created_at"


def insert_draft(conn: Connection, key_id: int, csv: IO[bytes], file_name: str, form: Mapping[str, str]) -> UUID:
    """Store a file and its form. Raises InvalidInput for a file larger than DRAFT_BYTES."""
    conn.execute(
        "delete from draft where draft_id in (select draft_id from draft where key_id = %s and batch_id is null"
        " order by created_at desc, draft_id offset %s)",
        (key_id, MOST_DRAFTS - 1),
    )
    draft_id: UUID = conn.execute(
        "insert into draft (key_id, file_name, csv_bytes, form) values (%s, %s, 0, %s) returning draft_id",
        (key_id, _storable(file_name)[-255:], _texts(form)),
    ).fetchall()[0][0]
    csv.seek(0)
    size = 0
    with conn.cursor().copy("copy draft_chunk (draft_id, chunk_no, content) from stdin (format binary)") as copy:
        copy.set_types(("uuid", "int4", "bytea"))
        for chunk_no, content in enumerate(iter(lambda: csv.read(CHUNK_BYTES), b"")):
            size += len(content)
            if size > DRAFT_BYTES:
                raise InvalidInput(
                    "The file is too large.",
                    [Fault("csv", "too_large", f"It is larger than {DRAFT_BYTES >> 20} MB. Split it, or use the API.")],
                )
            copy.write_row((draft_id, chunk_no, content))
    conn.execute("update draft set csv_bytes = %s where draft_id = %s", (size, draft_id))
    return draft_id


def get_draft(conn: Connection, key_id: int, draft_id: UUID, *, lock: bool = False) -> Draft:
    """A draft of this key. `lock`: nobody else can change it until the transaction ends. Raises NotFound."""
    with conn.cursor(row_factory=class_row(Draft)) as cursor:
        draft = cursor.execute(
            f"select {_COLUMNS} from draft where draft_id = %s and key_id = %s"
            " and (batch_id is not null or created_at > now() - make_interval(hours => %s))"
            + (" for update" if lock else ""),
            (draft_id, key_id, DRAFT_HOURS),
        ).fetchone()
    if draft is None:
        raise NotFound("This upload has expired: uploads are kept for a day. Upload the file again.")
    return draft


def list_drafts(conn: Connection, key_id: int) -> list[Draft]:
    """The drafts of this key that are not queued yet, newest first."""
    with conn.cursor(row_factory=class_row(Draft)) as cursor:
        return cursor.execute(
            f"select {_COLUMNS} from draft where key_id = %s and batch_id is null"
            " and created_at > now() - make_interval(hours => %s) order by created_at desc, draft_id",
            (key_id, DRAFT_HOURS),
        ).fetchall()


def change_draft(conn: Connection, draft: Draft, form: Mapping[str, str]) -> None:
    """Store a new form for the file."""
    conn.execute("update draft set form = %s where draft_id = %s and batch_id is null", (_texts(form), draft.draft_id))


def kept_preview(draft: Draft, parameters: BatchParameters, limits: Limits) -> Preview | None:
    """The stored preview, if it was made for equivalent parameters."""
    if draft.preview is None or draft.preview["of"] != _matters(parameters, limits):
        return None
    kept = {name: value for name, value in draft.preview.items() if name not in ("of", "calls_of")}
    recent = [
        batch | {"created_at": datetime.fromisoformat(batch["created_at"])} for batch in kept["recent"]["batches"]
    ]
    # When something opens and is due depends on the moment of asking.
    now = datetime.now(UTC).replace(microsecond=0)
    calls_of = {tuple(zones): calls for zones, calls in draft.preview["calls_of"]}
    given: dict[str, Any] = {
        "recent": kept["recent"] | {"batches": recent},
        "zones": list_zones(parameters, calls_of, now),
        "due_at": estimate_due_at(parameters.gates, calls_of, parameters.retries, now, limits.grace),
        "sample": tuple(json.loads(kept["sample"])),
        "warnings": tuple(Fault(**fault) for fault in kept["warnings"]),
        "errors": tuple(Fault(**fault) for fault in kept["errors"]),
        "columns": tuple(PhoneColumn(**column) for column in kept["columns"]),
        "places": tuple(map(tuple, kept["places"])),
    }
    return Preview(**kept | given)


def keep_preview(conn: Connection, draft: Draft, parameters: BatchParameters, limits: Limits, seen: Preview) -> None:
    """Store the result of `preview`, which had to read the complete file."""
    kept = asdict(seen)
    del kept["due_at"], kept["zones"]
    for batch in kept["recent"]["batches"]:
        batch["created_at"] = rfc3339(batch["created_at"])
    calls = [(zone.time_zone.split(","), zone.rows) for zone in seen.zones]
    kept["sample"] = json.dumps(seen.sample)  # jsonb would change the order of the columns
    kept["calls_of"] = calls or [((), seen.valid)]
    conn.execute(
        "update draft set preview = %s where draft_id = %s",
        (Jsonb({"of": _matters(parameters, limits), **kept}), draft.draft_id),
    )


def forget_preview(conn: Connection, draft: Draft) -> None:
    """Read the file again for the next preview: what it depends on has changed since."""
    conn.execute("update draft set preview = null where draft_id = %s", (draft.draft_id,))


def discard_draft(conn: Connection, draft: Draft) -> None:
    """Delete a draft with its file, unless it was queued."""
    conn.execute("delete from draft where draft_id = %s and batch_id is null", (draft.draft_id,))


def queue_draft(
    conn: Connection, draft: Draft, parameters: BatchParameters, limits: Limits, *, created_by: str | None = None
) -> int:
    """Queue a draft, which is locked, as a batch, and return its id. The caller commits.

    Raises InvalidInput. Then nothing is stored, and the caller rolls back.
    """
    if draft.batch_id is not None:
        return draft.batch_id
    # The lock already prevents a second batch. This also prevents one if the draft was restored from a backup.
    name = f"draft {draft.draft_id}"
    with open_csv(conn, draft.draft_id) as csv:
        request = IdempotentRequest(draft.key_id, name, request_digest(csv, {}))
        accepted = accept(conn, csv, parameters, limits, request, created_by=created_by)
    conn.execute("update draft set batch_id = %s where draft_id = %s", (accepted.batch_id, draft.draft_id))
    conn.execute("delete from draft_chunk where draft_id = %s", (draft.draft_id,))
    return accepted.batch_id


def open_csv(conn: Connection, draft_id: UUID) -> IO[bytes]:
    """The file of a draft, in memory up to 8 MiB, else in a temporary file. The caller closes it."""
    csv = tempfile.SpooledTemporaryFile(max_size=8 << 20)
    with conn.cursor() as cursor:
        # One chunk at a time, because a complete result set would be in memory.
        chunk_no = 0
        while row := cursor.execute(
            "select content from draft_chunk where draft_id = %s and chunk_no = %s", (draft_id, chunk_no), binary=True
        ).fetchone():
            csv.write(row[0])
            chunk_no += 1
    csv.seek(0)
    return cast(IO[bytes], csv)


def forget_drafts(conn: Connection, hours: int = DRAFT_HOURS) -> int:
    """Delete older drafts with their files, and return their number."""
    return conn.execute("delete from draft where created_at < now() - make_interval(hours => %s)", (hours,)).rowcount


def _texts(form: Mapping[str, str]) -> Jsonb:
    return Jsonb({name: _storable(text) for name, text in form.items()})


def _storable(text: str) -> str:
    """The text without characters that Postgres cannot store. The form reports them as a fault."""
    return _UNSTORABLE.sub("\ufffd", text)


def _matters(parameters: BatchParameters, limits: Limits) -> list[Any]:
    """What a preview depends on, besides the file. Increase the number when the rules for reading files change."""
    gates = parameters.gates
    window = [None if at is None else at.timestamp() for at in (gates.start_at, gates.end_at)] if gates.hours else []
    zones = [parameters.calling_hours, parameters.calling_days, parameters.time_zone, parameters.time_zone_column]
    matters: list[Any] = [8, parameters.on_recent == "allow", parameters.recent_hours, parameters.destination_column]
    matters += [parameters.default_region, parameters.on_duplicate == "keep", limits.submission_rows]
    matters += [parameters.calls_per_minute, zones, window, parameters.retries.total_seconds()]
    return cast(list[Any], json.loads(json.dumps(matters)))
