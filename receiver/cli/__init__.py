"""The commands: `python -m receiver COMMAND`.

Exit status: 0 success, 1 failed or refused, 2 invalid arguments or configuration.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Sequence

from receiver import __version__
from receiver.errors import ConfigurationError, InvalidInput, ReceiverError

_COMMANDS = {
    "cli.running": ("serve", "migrate", "work"),
    "simulator.command": ("simulate",),
    "cli.batches": ("queue", "status", "export", "verify"),
    "cli.calls": ("follow-up", "calls"),
    "cli.release": ("pause", "resume", "cancel"),
    "cli.keys": ("keys",),
    "cli.endpoints": ("endpoints",),
    "cli.maintenance": ("resolve", "replay", "purge", "erase"),
    "cli.suppressions": ("suppress", "unsuppress"),
    "cli.doctor": ("doctor", "notify"),
}
"""The commands of each module. Only the module of the given command is imported: all of them need half a second."""

_UNUSABLE = ("invalid_parameters", "database_url")
"""Codes of errors in the arguments or the configuration."""

_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM)
"""Errors of a disk that is full, broken or not accessible. A traceback would not help the user."""


def make_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of all commands, or of one. `run` in the parsed arguments is the command's function."""
    parser = argparse.ArgumentParser(
        prog="python -m receiver",
        description="Queues phone calls, stores every result, and shows the state of every call.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in [name for name, named in _COMMANDS.items() if command in named] or _COMMANDS:
        importlib.import_module(f"receiver.{module}").add_commands(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parsed = make_parser(*arguments[:1]).parse_args(arguments)
    try:
        status: int = parsed.run(parsed)
        sys.stdout.flush()  # here, so that a BrokenPipeError is handled below
    except ConfigurationError as error:
        for fault in error.faults:
            print(f"receiver: {fault.where} {fault.message}", file=sys.stderr)
        return 2
    except ReceiverError as error:
        print(f"receiver: {error}", file=sys.stderr)
        if isinstance(error, InvalidInput):
            for fault in error.faults:
                where = f"row {fault.where}" if isinstance(fault.where, int) else fault.where
                where += f", line {fault.line}" if fault.line is not None else ""
                print(f"  {where}: {fault.message} ({fault.code})", file=sys.stderr)
            if error.faults_total > len(error.faults):
                print(f"  and {error.faults_total - len(error.faults)} more", file=sys.stderr)
        return 2 if error.code in _UNUSABLE else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The program that read our output has ended. Python must not fail again when it closes standard output.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in _DISK_FAULTS:
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(
            f"receiver: {error.strerror}{where}. Check the file permissions and the free disk space.", file=sys.stderr
        )
        return 1
    return status
