"""Commands for API keys."""

from __future__ import annotations

import argparse

from receiver.cli.database import opened_database
from receiver.cli.running import Commands
from receiver.database.api_keys import SCOPES, create_key, list_keys, revoke_key


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("keys", help="make, list and revoke API keys")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    create = actions.add_parser("create", help="make a key; it is the last line printed, shown this once")
    create.add_argument("name", metavar="NAME")
    create.add_argument("--scope", required=True, choices=SCOPES, help="each includes those before it")
    create.set_defaults(run=_create)
    actions.add_parser("list", help="list the keys in use").set_defaults(run=_list)
    revoke = actions.add_parser("revoke", help="end a key at once")
    revoke.add_argument("name", metavar="NAME")
    revoke.set_defaults(run=_revoke)


def _create(parsed: argparse.Namespace) -> int:
    with opened_database("keys") as conn:
        key = create_key(conn, parsed.name, parsed.scope)
    print(f"Key {parsed.name!r} of scope {parsed.scope}. Keep it: it is not shown again.")
    print(key)
    return 0


def _list(_: argparse.Namespace) -> int:
    with opened_database("keys") as conn:
        keys = list_keys(conn)
    print(f"{'NAME':<24} {'SCOPE':<6} {'PREFIX':<12} {'CREATED':<20} {'LAST USED':<20}")
    for key in keys:
        used = "never" if key.last_used_at is None else f"{key.last_used_at:%Y-%m-%dT%H:%M:%SZ}"
        print(f"{key.name:<24} {key.scope:<6} rr_{key.prefix:<9} {key.created_at:%Y-%m-%dT%H:%M:%SZ} {used:<20}")
    return 0


def _revoke(parsed: argparse.Namespace) -> int:
    with opened_database("keys") as conn:
        revoke_key(conn, parsed.name)
    print(f"Key {parsed.name!r} is revoked.")
    return 0
