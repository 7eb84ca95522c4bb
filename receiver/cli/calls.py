"""Commands for calls: `follow-up` calls some of a batch again, `calls` shows all calls to a number."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from receiver.changes.audit import COMMAND_LINE
from receiver.cli.batches import add_parameters, given_parameters, limits_of, show_preview
from receiver.cli.database import opened_database
from receiver.cli.running import Commands
from receiver.environment import read_config
from receiver.errors import Fault, InvalidInput
from receiver.model import rfc3339
from receiver.phone_numbers.destination import candidates
from receiver.queueing.acceptance import accept, preview_follow_up
from receiver.queueing.follow_ups import (
    DEFAULT_OUTCOMES,
    FOLLOWED_OUTCOMES,
    INCLUDABLE,
    FollowUp,
    follow_up_parameters,
    list_reasons,
)
from receiver.summary.batches import get_batch
from receiver.summary.calls import Call, list_calls_of_number

CALLS_AT_ONCE = 500


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    follow_up = commands.add_parser(
        "follow-up",
        help="call again those of a batch that were not reached",
        description="Queues a new batch of calls of an earlier batch. Each call is followed up at most once. What is"
        " not given is taken from the earlier batch, except its start and end, its external id and --on-recent.",
    )
    follow_up.add_argument("batch", metavar="BATCH", type=int, help="id of the earlier batch")
    follow_up.add_argument(
        "--outcome",
        action="append",
        choices=FOLLOWED_OUTCOMES,
        dest="outcomes",
        help="call those with this outcome; can be repeated; default: failed and rejected",
    )
    follow_up.add_argument(
        "--include",
        action="append",
        choices=INCLUDABLE,
        default=[],
        help="call those in this state, too; can be repeated",
    )
    add_parameters(follow_up, required=False, without=("destination-column", "on-duplicate"))
    follow_up.set_defaults(run=_follow_up)
    calls = commands.add_parser("calls", help="show all calls to a number, newest batch first")
    calls.add_argument("number", metavar="NUMBER", help="a number in any format; it is not shown again")
    calls.set_defaults(run=_calls)


def _follow_up(parsed: argparse.Namespace) -> int:
    wanted = FollowUp(parsed.batch, parsed.outcomes or DEFAULT_OUTCOMES, parsed.include)
    config = read_config()
    with opened_database("follow-up", config) as conn:
        parameters = follow_up_parameters(conn, parsed.batch, given_parameters(parsed))
        if parsed.dry_run:
            seen, calls = preview_follow_up(conn, wanted, parameters, limits_of(config))
            _show_choice(calls.chosen, calls.left_out)
            show_preview(seen)
            return 0
        accepted = accept(conn, wanted, parameters, limits_of(config), created_by=COMMAND_LINE)
        conn.commit()
        batch = get_batch(conn, accepted.batch_id)
    where = " to the simulator" if config.plum_simulated else ""
    print(f"Batch {batch.id} is stored; a worker sends it{where}.")
    _show_choice(batch.counts["rows"], batch.left_out or {})
    return 0


def _show_choice(chosen: int, left_out: Mapping[str, int]) -> None:
    print(f"{chosen} calls are called again. Left out: {list_reasons(left_out) or 'none'}.")


def _calls(parsed: argparse.Namespace) -> int:
    numbers = candidates(parsed.number, read_config().default_region)
    if not numbers:
        raise InvalidInput("Nothing was searched.", [Fault("NUMBER", "invalid", "This cannot be a phone number.")])
    after: tuple[int, int] | None = None
    with opened_database("calls") as conn:
        while True:
            page = list_calls_of_number(conn, numbers, CALLS_AT_ONCE, after)
            for call in page.calls:
                print(_line(call))
            if not page.more:
                break
            after = page.calls[-1].batch_id, page.calls[-1].row
    if after is None and not page.calls:
        print("There is no call to this number.")
    return 0


def _line(call: Call) -> str:
    result = f" {call.outcome} ({call.provider_status}), {call.attempts or 0} attempts" if call.outcome else ""
    reason = f" ({call.withdrawn_reason})" if call.withdrawn_reason else ""
    at = f", {rfc3339(call.result_received_at)}" if call.result_received_at else ""
    linked = (("follows", call.follows), ("followed by", call.followed_by))
    links = "".join(f", {word} batch {key['batch_id']} row {key['row']}" for word, key in linked if key)
    return f"batch {call.batch_id} row {call.row}: {call.state}{reason}{result}{at}{links}"
