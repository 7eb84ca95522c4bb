"""The commands: `python -m receiver COMMAND`.

Exit status: 0 done, 1 it did not hold or was refused, 2 unusable arguments or configuration.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

from receiver import __version__
from receiver.cli import batches, doctor, journal, keys, running, upkeep
from receiver.errors import ConfigurationError, InvalidInput, ReceiverError

_UNUSABLE = ("invalid_parameters", "database_url")
"""Codes of errors that lie in the arguments or the configuration."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m receiver",
        description="Keeps every call result, and says what became of every call queued.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for room in (running, batches, journal, keys, upkeep, doctor):
        room.add_commands(commands)
    parsed = parser.parse_args(arguments)
    try:
        status: int = parsed.run(parsed)
        sys.stdout.flush()  # here, where a reader who has left is no surprise
    except ConfigurationError as error:
        for fault in error.faults:
            print(f"receiver: {fault.where} {fault.message}", file=sys.stderr)
        return 2
    except InvalidInput as error:
        print(f"receiver: {error}", file=sys.stderr)
        for fault in error.faults:
            where = f"row {fault.where}" if isinstance(fault.where, int) else fault.where
            print(f"  {where}: {fault.message} ({fault.code})", file=sys.stderr)
        if error.faults_total > len(error.faults):
            print(f"  and {error.faults_total - len(error.faults)} more", file=sys.stderr)
        return 2 if error.code in _UNUSABLE else 1
    except ReceiverError as error:
        print(f"receiver: {error}", file=sys.stderr)
        return 2 if error.code in _UNUSABLE else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python must not fail once more when it closes it.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status
