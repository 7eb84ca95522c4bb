"""The endpoints to which events are delivered. Functions take a connection, and commit only if they say so."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from urllib.parse import urlsplit

from psycopg.rows import class_row
from psycopg.sql import SQL, Identifier

from receiver.changes.audit import SYSTEM, record_change
from receiver.changes.events import Events
from receiver.config import Network
from receiver.database.pool import Connection
from receiver.errors import NotFound
from receiver.model import EVENT_TYPES
from receiver.relay.addresses import check_url

URL_CHARACTERS = 2000
DESCRIPTION_CHARACTERS = 500

ENDPOINT_EVENTS = tuple(event for event in EVENT_TYPES if event != "endpoint.disabled")
"""The events that an endpoint can get."""

BOTH_SIGN = timedelta(hours=24)
"""How long the previous secret signs too, after a rotation."""

AT_ONCE = 20_000
"""How many events one transaction makes due, or owes again."""

DisabledReason = Literal["user", "gone", "failing"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint without its secrets. `delivered`, `waiting` and `given_up` count its events; their sum was owed."""

    id: int
    url: str
    description: str | None
    events: list[str]
    application_id: int | None
    deployment_id: int | None
    label_name: str | None
    label_value: str | None
    created_at: datetime
    disabled_at: datetime | None
    disabled_reason: DisabledReason | None
    failing_since: datetime | None
    delivered: int
    waiting: int
    given_up: int
    unseen_given_up: int
    """Of those that were given up, how many nobody has marked as seen."""

    @property
    def label(self) -> str | None:
        return None if self.label_name is None else f"{self.label_name}:{self.label_value}"

    @property
    def enabled(self) -> bool:
        return self.disabled_at is None

    @property
    def state(self) -> Literal["disabled", "failing", "enabled"]:
        if self.disabled_at is not None:
            return "disabled"
        return "enabled" if self.failing_since is None else "failing"

    @property
    def events_owed(self) -> dict[str, int]:
        return {"delivered": self.delivered, "waiting": self.waiting, "given_up": self.given_up}


_SELECT = """
select e.endpoint_id as id, e.url, e.description, e.events, e.application_id, e.deployment_id, e.label_name,
    e.label_value, e.created_at, e.disabled_at, e.disabled_reason, e.failing_since, c.*,
    greatest(c.given_up - e.seen_given_up, 0) as unseen_given_up
from endpoint e cross join lateral (
    select coalesce(sum(delivered), 0)::bigint as delivered, coalesce(sum(given_up), 0)::bigint as given_up,
        coalesce(sum(owed - delivered - given_up), 0)::bigint as waiting
    from endpoint_count where endpoint_id = e.endpoint_id
) c where e.url is not null
"""


def list_endpoints(conn: Connection, limit: int | None = None, before: int | None = None) -> list[Endpoint]:
    """Endpoints, newest first, those with an id below `before`."""
    with conn.cursor(row_factory=class_row(Endpoint)) as cursor:
        return cursor.execute(
            f"{_SELECT} and e.endpoint_id < %s order by e.endpoint_id desc limit %s", (before or 2**62, limit)
        ).fetchall()


def list_unseen(conn: Connection) -> list[Endpoint]:
    """The endpoints for which events were given up that nobody has seen."""
    return [each for each in list_endpoints(conn) if each.unseen_given_up]


def list_debts(conn: Connection) -> dict[int, tuple[dict[str, int], float]]:
    """By endpoint: its events by state, and the age of the oldest that waits, in seconds; 0: none."""
    ages: dict[int, float] = dict(
        conn.execute(
            "select e.endpoint_id, extract(epoch from now() - o.owed_at)::float from endpoint e cross join lateral"
            " (select owed_at from owed_event where endpoint_id = e.endpoint_id order by event_id limit 1) o"
        ).fetchall()
    )
    return {each.id: (each.events_owed, ages.get(each.id, 0.0)) for each in list_endpoints(conn)}


def get_endpoint(conn: Connection, endpoint_id: int) -> Endpoint:
    """One endpoint. Raises NotFound."""
    with conn.cursor(row_factory=class_row(Endpoint)) as cursor:
        found = cursor.execute(f"{_SELECT} and e.endpoint_id = %s", (endpoint_id,)).fetchone()
    if found is None:
        raise NotFound(f"Endpoint {endpoint_id} does not exist.")
    return found


def create_endpoint(
    conn: Connection, values: Mapping[str, Any], networks: Sequence[Network], *, by: str
) -> tuple[Endpoint, str]:
    """Make an endpoint; returns it with its secret, which cannot be shown again. Raises InvalidInput.

    `values`: `url`, and of `description`, `events`, `application_id`, `deployment_id` and `label` (name, value) those
    that are given. Without `events`, it gets all of them. `networks`: RELAY_NETWORKS.
    """
    check_url(values["url"], networks)
    secret = _new_secret()
    columns = _columns({"events": list(ENDPOINT_EVENTS), **values}) | {"secret": secret}
    made = SQL("insert into endpoint ({}) values ({}) returning endpoint_id").format(
        SQL(", ").join(map(Identifier, columns)), SQL(", ").join([SQL("%s")] * len(columns))
    )
    endpoint_id: int = conn.execute(made, list(columns.values())).fetchall()[0][0]
    record_change(conn, by, "create_endpoint", details=_about(endpoint_id, columns))
    return get_endpoint(conn, endpoint_id), secret


def change_endpoint(
    conn: Connection, endpoint_id: int, changes: Mapping[str, Any], networks: Sequence[Network], *, by: str
) -> Endpoint:
    """Change an endpoint. `changes`: as for `create_endpoint`, and `enabled`. Raises NotFound, InvalidInput.

    Once it is enabled again, everything that waits is due. Then this commits after each AT_ONCE events.
    """
    if "url" in changes:
        check_url(changes["url"], networks)  # before the lock: looking up a name can take long
    before = lock_endpoint(conn, endpoint_id)
    columns = _columns(changes)
    enabled = columns.pop("enabled", before.enabled)
    if enabled and not before.enabled:
        columns |= {"disabled_at": None, "disabled_reason": None, "failing_since": None}
    if columns:
        assigned = SQL(", ").join(SQL("{} = %s").format(Identifier(name)) for name in columns)
        conn.execute(
            SQL("update endpoint set {} where endpoint_id = %s").format(assigned), [*columns.values(), endpoint_id]
        )
    if columns or enabled != before.enabled:
        record_change(conn, by, "change_endpoint", details=_about(endpoint_id, columns) | {"enabled": enabled})
    if before.enabled and not enabled:
        disable_endpoint(conn, endpoint_id, "user")
    if enabled and not before.enabled:
        conn.commit()  # a transaction of millions of events would stop settlements for too long
        lock_endpoint(conn, endpoint_id)
        change_in_parts(conn, endpoint_id, DUE, {"ids": None, "since": None})
    return get_endpoint(conn, endpoint_id)


def delete_endpoint(conn: Connection, endpoint_id: int, *, by: str) -> None:
    """Delete an endpoint, and what is owed to it. Raises NotFound.

    The rows of `owed_event` and `delivery` go with their slots: there can be millions, and without the endpoint they
    are never read.
    """
    lock_endpoint(conn, endpoint_id)
    conn.execute("delete from endpoint where endpoint_id = %s", (endpoint_id,))
    conn.execute("delete from endpoint_count where endpoint_id = %s", (endpoint_id,))
    record_change(conn, by, "delete_endpoint", details={"endpoint_id": endpoint_id})


SECRETS = "concat_ws(' ', secret, case when previous_until > now() then previous_secret end)"
"""SQL: the secrets that sign now, the newest first, with spaces between them."""


def rotate_secret(conn: Connection, endpoint_id: int, *, by: str) -> str:
    """Give an endpoint a new secret and return it. Those that sign now sign too, for BOTH_SIGN. Raises NotFound."""
    lock_endpoint(conn, endpoint_id)
    secret = _new_secret()
    conn.execute(
        f"update endpoint set previous_secret = {SECRETS}, previous_until = now() + %s, secret = %s"
        " where endpoint_id = %s",
        (BOTH_SIGN, secret, endpoint_id),
    )
    record_change(conn, by, "rotate_endpoint", details={"endpoint_id": endpoint_id})
    return secret


def get_secrets(conn: Connection, endpoint_id: int) -> list[str]:
    """The secrets that sign now, the newest first. Raises NotFound."""
    row = conn.execute(
        f"select {SECRETS} from endpoint where endpoint_id = %s and url is not null",
        (endpoint_id,),
        prepare=True,
    ).fetchone()
    if row is None:
        raise NotFound(f"Endpoint {endpoint_id} does not exist.")
    return str(row[0]).split()


def disable_endpoint(conn: Connection, endpoint_id: int, reason: DisabledReason) -> None:
    """Send it nothing more until a person enables it. People are notified if the service itself decides this."""
    done = conn.execute(
        "update endpoint set disabled_at = now(), disabled_reason = %s where endpoint_id = %s and disabled_at is null",
        (reason, endpoint_id),
    )
    if done.rowcount and reason != "user":
        record_change(conn, SYSTEM, "disable_endpoint", details={"endpoint_id": endpoint_id, "reason": reason})
        events = Events()
        events.add("endpoint.disabled", 0, endpoint_id)
        events.write(conn)


def lock_endpoint(conn: Connection, endpoint_id: int) -> Endpoint:
    """One endpoint, which nobody else changes until the end of the transaction. Raises NotFound."""
    conn.execute("select from endpoint where endpoint_id = %s for update", (endpoint_id,))
    return get_endpoint(conn, endpoint_id)


def change_in_parts(conn: Connection, endpoint_id: int, statement: str, values: Mapping[str, Any]) -> int:
    """Run a statement that changes up to `most` events of a locked endpoint, and commit, until no more are left.

    Returns how many were changed. The endpoint is locked again after each commit. Raises NotFound.
    """
    total, changed = 0, AT_ONCE
    while changed == AT_ONCE:
        values = {**values, "endpoint_id": endpoint_id, "most": AT_ONCE}
        changed = conn.execute(statement, values).fetchall()[0][0]
        conn.commit()
        lock_endpoint(conn, endpoint_id)
        total += changed
    return total


CHOSEN = """endpoint_id = %(endpoint_id)s
    and (%(ids)b::bigint[] is null or event_id = any(%(ids)b::bigint[]))
    and (%(since)s::timestamptz is null or owed_at >= %(since)s) limit %(most)s"""

DUE = f"""
with chosen as (
    select event_id, slot from owed_event where next_try_at > now() and {CHOSEN}
), due as (
    update owed_event o set next_try_at = now() from chosen c
    where o.endpoint_id = %(endpoint_id)s and o.event_id = c.event_id and o.slot = c.slot returning 1
)
select count(*) from due
"""


def _columns(values: Mapping[str, Any]) -> dict[str, Any]:
    columns = dict(values)
    if "label" in columns:
        columns["label_name"], columns["label_value"] = columns.pop("label") or (None, None)
    return columns


def _about(endpoint_id: int, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Details for the audit trail. Of the address only the host: the rest can contain a password."""
    names = ("description", "events", "application_id", "deployment_id", "label_name", "label_value")
    about = {"endpoint_id": endpoint_id} | {name: columns[name] for name in names if name in columns}
    return about | ({"host": urlsplit(columns["url"]).hostname} if "url" in columns else {})


def _new_secret() -> str:
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
