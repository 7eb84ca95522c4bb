"""`python -m receiver simulate`: a simulated provider, or one request to a `result_url`."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from receiver.errors import ReceiverError
from receiver.simulator.bodies import SHAPES
from receiver.simulator.calls import FINAL_STATUSES
from receiver.simulator.delivery import Client
from receiver.simulator.faults import Rates
from receiver.simulator.settings import DOCUMENTED_SHAPE, USUAL_OUTCOMES, Settings

DESCRIPTION = """\
Simulates the provider: queue a CSV at the printed address, and each call's result is POSTed to its
result_url, in compressed time. With --send, it makes one request to a result_url instead and prints
the answer.

A deployment whose id is 401, 403, 404, 409 or 500 is answered with that status.
GET /simulator/ledger shows what was queued and delivered, /simulator/ledger/calls the same for each call."""


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("simulate", help="run a simulated provider, or send one test callback")
    parser.set_defaults(run=run)
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    server = parser.add_argument_group("the provider")
    server.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    server.add_argument("--port", type=_whole(0, 65535), default=8100, help="0: any (default: %(default)s)")
    server.add_argument("--user", default="simulator", help="the login that is accepted (default: %(default)s)")
    server.add_argument("--key", default="simulator", help="its key (default: %(default)s)")
    server.add_argument("--call-ids", choices=("list", "map"), help="return call ids in bulk_queue's answer")
    server.add_argument(
        "--state", type=Path, metavar="FILE", help="save the calls in progress and continue them after a restart"
    )

    calls = parser.add_argument_group("the calls")
    calls.add_argument("--seed", type=int, default=1, help="same seed, same calls (default: %(default)s)")
    calls.add_argument("--speed", type=_positive, default=60.0, metavar="N", help="simulated seconds per real second")
    calls.add_argument("--lines", type=_whole(1, 10**9), default=50, help="calls per submission dialed together")
    calls.add_argument(
        "--outcomes",
        type=_weights(FINAL_STATUSES),
        default=USUAL_OUTCOMES,
        metavar="MIX",
        help="default: completed=70,failed=20,canceled=5,rejected=5",
    )
    calls.add_argument(
        "--epoch", type=_whole(0, 9_999_999_999), metavar="UNIX", help="time at which everything was queued"
    )

    sending = parser.add_argument_group("callbacks")
    sending.add_argument("--senders", type=_whole(1, 256), default=16, help="parallel deliveries")
    sending.add_argument("--retry", type=_whole(0, 20), default=0, metavar="N", help="retry a failed delivery N times")
    sending.add_argument("--no-check", dest="check", action="store_false", help="do not GET result_url before dialing")
    sending.add_argument(
        "--shape", dest="shapes", type=_weights(SHAPES), metavar="MIX", help=f"of {', '.join(SHAPES)}; default: bare=1"
    )

    faults = parser.add_argument_group("faults, each a rate from 0 to 1")
    faults.add_argument(
        "--faults", type=_rate, default=0.0, metavar="RATE", help="set the rates of all faults, and --shape"
    )
    for each in fields(Rates):
        option = "--" + each.name.replace("_", "-")
        faults.add_argument(option, type=_rate, metavar="RATE", help=each.metadata["help"])

    sender = parser.add_argument_group("one request to a result_url")
    sender.add_argument("--send", metavar="URL", help="POST --body to it; exit status 0 if it answers 200, else 1")
    sender.add_argument("--get", action="store_true", help="GET the URL instead, like the check before dialing")
    sender.add_argument("--body", metavar="FILE", help="body to POST, unchanged; - for standard input")
    sender.add_argument("--content-type", default="application/json", help="default: %(default)s; empty for none")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit status."""
    if args.send is not None:
        return _send(args)
    if args.get or args.body is not None:
        print("simulate: --get and --body need --send URL", file=sys.stderr)
        return 2
    return _serve(settings_from(args))


def settings_from(args: argparse.Namespace) -> Settings:
    given = {each.name: getattr(args, each.name) for each in fields(Settings) if hasattr(args, each.name)}
    rates = {each.name: getattr(args, each.name) for each in fields(Rates)}
    given["rates"] = Rates(**{name: args.faults if rate is None else rate for name, rate in rates.items()})
    if args.shapes is None:
        others = {shape: args.faults / (len(SHAPES) - 1) for shape in SHAPES if shape != "bare"}
        given["shapes"] = {"bare": 1 - args.faults, **others} if args.faults else DOCUMENTED_SHAPE
    return Settings(**given)


def _serve(settings: Settings) -> int:
    # Imported here, because `--send` does not need Flask, which takes a quarter of a second.
    from receiver.simulator.server import Simulator

    logging.basicConfig(level=logging.INFO, format="simulator: %(message)s", stream=sys.stderr)
    stop = threading.Event()
    try:
        with Simulator(settings) as simulator:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: stop.set())
            print(simulator.url, flush=True)
            stop.wait()
    except ReceiverError as error:
        print(f"simulate: {error}", file=sys.stderr)
        return 1
    return 0


def _send(args: argparse.Namespace) -> int:
    if not args.send.startswith(("http://", "https://")):
        print("simulate: --send takes a URL that begins with http:// or https://", file=sys.stderr)
        return 2
    if args.get == (args.body is not None):
        print("simulate: --send needs either --body FILE or --get", file=sys.stderr)
        return 2
    try:
        body = b"" if args.get else sys.stdin.buffer.read() if args.body == "-" else Path(args.body).read_bytes()
    except OSError as error:
        print(f"simulate: cannot read {args.body}: {error.strerror}", file=sys.stderr)
        return 2
    answer = Client().get(args.send) if args.get else Client().post(args.send, body, args.content_type)
    if answer.status is None:
        print(f"simulate: no answer: {answer.error}", file=sys.stderr)
    else:
        print(answer.status, answer.body.decode("utf-8", "replace").rstrip())
    return 0 if answer.status == 200 else 1


def _whole(lowest: int, highest: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not lowest <= int(text) <= highest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {lowest} to {highest}")
        return int(text)

    return whole


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _rate(text: str) -> float:
    if not 0 <= (rate := _number(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate from 0 to 1")
    return rate


def _positive(text: str) -> float:
    if not 0 < (number := _number(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number greater than 0")
    return number


def _weights(names: tuple[str, ...]) -> Callable[[str], dict[str, float]]:
    """Reads `completed=70,failed=30` as weights of these names."""

    def weights(text: str) -> dict[str, float]:
        mix: dict[str, float] = {}
        for item in text.split(","):
            name, _, weight = item.partition("=")
            if name.strip() not in names:
                raise argparse.ArgumentTypeError(f"{name.strip()!r} is not one of {', '.join(names)}")
            mix[name.strip()] = _number(weight or "1")
        if any(not 0 <= weight < float("inf") for weight in mix.values()) or not any(mix.values()):
            raise argparse.ArgumentTypeError(f"{text!r} has no weight greater than 0")
        return mix

    return weights
