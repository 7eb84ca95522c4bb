"""Commands for API keys."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from receiver.changes.audit import COMMAND_LINE, record_change
from receiver.cli.database import opened_database
from receiver.cli.endpoints import timestamp
from receiver.cli.running import Commands
from receiver.database.api_keys import SCOPES, create_key, list_keys, revoke_key
from receiver.errors import Fault, InvalidInput


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("keys", help="create, list and revoke API keys")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    create = actions.add_parser("create", help="create a key; it is the last line printed and is shown only once")
    create.add_argument("name", metavar="NAME", help="name of the key in lists")
    create.add_argument("--scope", required=True, choices=SCOPES, help="each scope includes the scopes before it")
    create.add_argument(
        "--expires-at",
        metavar="TIME",
        type=timestamp,
        help="when the key expires: Unix seconds or RFC 3339; default: never",
    )
    create.set_defaults(run=_create)
    actions.add_parser("list", help="list the keys in use").set_defaults(run=_list)
    revoke = actions.add_parser("revoke", help="revoke a key at once")
    revoke.add_argument("name", metavar="NAME", help="name as in `keys list`")
    revoke.set_defaults(run=_revoke)


def _create(parsed: argparse.Namespace) -> int:
    expires_at: datetime | None = parsed.expires_at
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise InvalidInput("The key was not created.", [Fault("--expires-at", "in_the_past", "It is in the past.")])
    with opened_database("keys") as conn:
        key = create_key(conn, parsed.name, parsed.scope, expires_at)
        record_change(conn, COMMAND_LINE, "make_key", details={"name": parsed.name, "scope": parsed.scope})
    until = f", valid until {_time(expires_at)}" if expires_at is not None else ""
    print(f"Key {parsed.name!r} of scope {parsed.scope}{until}. Store it safely: it is not shown again.")
    print(key)
    return 0


def _list(_: argparse.Namespace) -> int:
    with opened_database("keys") as conn:
        keys = list_keys(conn)
    print(f"{'NAME':<24} {'SCOPE':<6} {'PREFIX':<12} {'CREATED':<20} {'EXPIRES':<20} {'LAST USED':<20}")
    for key in keys:
        times = " ".join(f"{_time(moment):<20}" for moment in (key.created_at, key.expires_at, key.last_used_at))
        print(f"{key.name:<24} {key.scope:<6} rr_{key.prefix:<9} {times}")
    return 0


def _revoke(parsed: argparse.Namespace) -> int:
    with opened_database("keys") as conn:
        revoke_key(conn, parsed.name)
        record_change(conn, COMMAND_LINE, "revoke_key", details={"name": parsed.name})
    print(f"Key {parsed.name!r} is revoked.")
    return 0


def _time(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
