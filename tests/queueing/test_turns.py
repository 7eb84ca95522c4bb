"""Giving way under gevent, as in a web process: others read and write while a large file is hashed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

HASHING = """
from gevent import monkey; monkey.patch_all()
import io, socket, gevent
from receiver.queueing.acceptance import request_digest
ours, theirs = socket.socketpair()
round_trips = 0
def echo():
    while True:
        theirs.sendall(theirs.recv(1))
def ask():
    global round_trips
    while True:
        ours.sendall(b"x")
        ours.recv(1)
        round_trips += 1
gevent.spawn(echo)
gevent.spawn(ask)
request_digest(io.BytesIO(bytes(64 << 20)), {})
print(round_trips)
"""


def test_others_are_answered_while_a_large_file_is_hashed() -> None:
    round_trips = int(subprocess.check_output([sys.executable, "-c", HASHING], cwd=ROOT, timeout=120))
    assert round_trips >= 100
