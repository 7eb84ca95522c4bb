"""Commands for endpoints, to which events are delivered."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import datetime
from functools import partial

from marshmallow import ValidationError

from receiver.changes.audit import COMMAND_LINE
from receiver.cli.database import opened_database
from receiver.cli.maintenance import ask
from receiver.cli.running import Commands
from receiver.environment import read_config
from receiver.errors import NotFound
from receiver.queueing.form_fields import LARGEST_ID, Timestamp
from receiver.relay.deliveries import DeliveryFilter, list_deliveries, retry_deliveries
from receiver.relay.endpoints import (
    DESCRIPTION_CHARACTERS,
    ENDPOINT_EVENTS,
    URL_CHARACTERS,
    change_endpoint,
    create_endpoint,
    delete_endpoint,
    get_endpoint,
    get_secrets,
    list_endpoints,
    rotate_secret,
)
from receiver.relay.sending import send_test


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("endpoints", help="create, list, change, test and delete endpoints")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    create = actions.add_parser(
        "create", help="create an endpoint; the last line printed is its secret, which is not shown again"
    )
    create.add_argument("url", metavar="URL", type=_text(URL_CHARACTERS), help="where events are posted")
    create.add_argument(
        "--description", metavar="TEXT", type=_text(DESCRIPTION_CHARACTERS), help="a note for people; shown in lists"
    )
    create.add_argument(
        "--event", action="append", choices=ENDPOINT_EVENTS, dest="events", help="can be repeated; default: all events"
    )
    create.add_argument(
        "--application", metavar="N", type=_id, dest="application_id", help="only events of this application"
    )
    create.add_argument(
        "--deployment", metavar="N", type=_id, dest="deployment_id", help="only events of this deployment"
    )
    create.add_argument("--label", metavar="NAME:VALUE", type=_label, help="only events of batches with this label")
    create.set_defaults(run=_create)
    actions.add_parser("list", help="list the endpoints with their balances").set_defaults(run=_list)
    for name, run, words in (
        ("test", _test, "send a test event; exit status 1 if it is not delivered"),
        ("rotate", _rotate, "give an endpoint a new secret, which is the last line printed and is shown only once"),
        ("disable", partial(_change, enabled=False), "send nothing; events wait, for 30 days in total"),
        ("enable", partial(_change, enabled=True), "send what waits, and further events"),
        ("retry", _retry, "send events again; default: all that were given up"),
        ("delete", _delete, "delete an endpoint with its log and what was not delivered"),
    ):
        command = actions.add_parser(name, help=words)
        command.add_argument("endpoint", metavar="ENDPOINT", type=_id, help="id as in `endpoints list`")
        command.set_defaults(run=run)
        if run is _retry:
            chosen = command.add_mutually_exclusive_group()
            chosen.add_argument("--state", choices=("waiting", "given_up"), help="all events in this state")
            chosen.add_argument(
                "--since",
                metavar="TIME",
                type=timestamp,
                help="all that were owed then or later and not delivered",
            )
            chosen.add_argument(
                "--id", metavar="N", type=_id, action="append", dest="ids", help="this event; can be repeated"
            )
        if run is _delete:
            command.add_argument("--yes", action="store_true", help="do not ask")


def _create(parsed: argparse.Namespace) -> int:
    config = read_config()
    names = ("url", "description", "events", "application_id", "deployment_id", "label")
    values = {name: getattr(parsed, name) for name in names if getattr(parsed, name) is not None}
    with opened_database("endpoints", config) as conn:
        made, secret = create_endpoint(conn, values, config.relay_networks, by=COMMAND_LINE)
    print(f"Endpoint {made.id} gets {', '.join(made.events)}. Store its secret safely: it is not shown again.")
    print(secret)
    return 0


def _list(_: argparse.Namespace) -> int:
    with opened_database("endpoints") as conn:
        endpoints = list_endpoints(conn)
    print(f"{'ID':>6} {'STATE':<8} {'DELIVERED':>12} {'WAITING':>12} {'GIVEN UP':>12}  URL")
    for each in endpoints:
        description = f" ({each.description})" if each.description else ""
        counts = f"{each.delivered:>12} {each.waiting:>12} {each.given_up:>12}"
        print(f"{each.id:>6} {each.state:<8} {counts}  {each.url}{description}")
    return 0


def _test(parsed: argparse.Namespace) -> int:
    config = read_config()
    with opened_database("endpoints", config) as conn:
        url, secrets = get_endpoint(conn, parsed.endpoint).url, get_secrets(conn, parsed.endpoint)
    attempt = send_test(parsed.endpoint, url, secrets, config.relay_networks)
    print(f"{attempt.outcome.removesuffix('.')}.")
    return 0 if attempt.delivered else 1


def _rotate(parsed: argparse.Namespace) -> int:
    with opened_database("endpoints") as conn:
        secret = rotate_secret(conn, parsed.endpoint, by=COMMAND_LINE)
    print("For 24 hours, earlier secrets sign, too. Store the new one safely: it is not shown again.")
    print(secret)
    return 0


def _change(parsed: argparse.Namespace, *, enabled: bool) -> int:
    with opened_database("endpoints") as conn:
        changed = change_endpoint(conn, parsed.endpoint, {"enabled": enabled}, (), by=COMMAND_LINE)
    print(f"Endpoint {changed.id} is {'enabled' if enabled else 'disabled'}; {changed.waiting} events wait.")
    return 0


def _retry(parsed: argparse.Namespace) -> int:
    names = ("state", "since", "ids")
    chosen = {name: getattr(parsed, name) for name in names if getattr(parsed, name)} or {"state": "given_up"}
    with opened_database("endpoints") as conn:
        for event_id in parsed.ids or ():
            if not list_deliveries(conn, parsed.endpoint, 1, DeliveryFilter(), event_id + 1, event_id - 1):
                raise NotFound(f"Endpoint {parsed.endpoint} has no event {event_id} in its log. Nothing is sent again.")
        retried = retry_deliveries(conn, parsed.endpoint, by=COMMAND_LINE, **chosen)
        is_enabled = get_endpoint(conn, parsed.endpoint).enabled
    print(f"{retried} events will be sent again {'now' if is_enabled else 'once the endpoint is enabled'}.")
    return 0


def _delete(parsed: argparse.Namespace) -> int:
    with opened_database("endpoints") as conn:
        found = get_endpoint(conn, parsed.endpoint)
        conn.rollback()
        if not parsed.yes:
            lost = found.waiting + found.given_up
            ask(f"Endpoint {found.id}, {found.url}, is deleted permanently. {lost} undelivered events are never sent.")
        delete_endpoint(conn, found.id, by=COMMAND_LINE)
    print(f"Endpoint {found.id} is deleted.")
    return 0


def _id(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 16 and 1 <= int(text) <= LARGEST_ID:
        return int(text)
    raise argparse.ArgumentTypeError("it must be a whole number from 1")


def _text(most: int) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.isprintable() and 1 <= len(text) <= most:
            return text
        raise argparse.ArgumentTypeError(f"it must be one line of at most {most} characters")

    return read


def _label(text: str) -> tuple[str, str]:
    name, _, value = text.partition(":")
    if text.isprintable() and 1 <= len(name) <= 64 and 1 <= len(value) <= 255:
        return name, value
    raise argparse.ArgumentTypeError("write a name, a colon and a value")


def timestamp(text: str) -> datetime:
    """An argument that is a time. Raises ArgumentTypeError."""
    try:
        return Timestamp().deserialize(text)
    except ValidationError as error:
        raise argparse.ArgumentTypeError(str(error.messages[0])) from None
