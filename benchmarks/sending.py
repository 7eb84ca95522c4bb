"""The multipart body to the provider: how fast it leaves the worker, and what memory that takes."""

from __future__ import annotations

import io
import json
import socket
import threading
import time

from benchmarks.bodies import contact_rows
from benchmarks.figures import Figure
from benchmarks.world import Peak, World
from receiver.database.pool import connect
from receiver.queueing.acceptance import Limits, accept
from receiver.queueing.parameters import BatchParameters


class _Sink:
    """A provider that takes one request, counts its bytes, and queues every call."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.bytes = 0
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def _take(self) -> None:
        conn, _ = self._listener.accept()
        with conn, self._listener:
            piece = conn.recv(1 << 16)
            began = time.monotonic()
            header, _, piece = piece.partition(b"\r\n\r\n")
            announced = [line for line in header.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            wanted = int(announced[0].split(b":")[1])
            buffer = bytearray(1 << 20)
            self.bytes = len(piece)
            while self.bytes < wanted and (read := conn.recv_into(buffer)):
                self.bytes += read
            self.seconds = time.monotonic() - began
            answer = json.dumps({"calls_queued": 1}).encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(answer)}\r\n\r\n"
            conn.sendall(head.encode() + answer)

    def wait(self) -> None:
        self._thread.join()


def measure(world: World, *, rows: int) -> list[Figure]:
    """One submission of `rows` rows, sent by the worker to a sink on loopback; and one of 10,000 before it."""
    grown = []
    for number, size in enumerate((10_000, rows)):
        url = world.receiver_database(f"bench_sending_{number}")
        with connect(url, name="benchmark") as conn:
            csv = io.BytesIO("".join(contact_rows(size)).encode())
            accept(conn, csv, BatchParameters(1, 1), Limits(size, 3600))
        sink = _Sink()
        with world.worker(url, PLUM_URL=sink.url) as pid, Peak([pid]) as peak:
            sink.wait()
        grown.append(peak.mib)
    return [
        Figure(f"sending {rows:,} rows in one request", sink.bytes / sink.seconds / 1e6, "MB/s", at_least=50,
               note=f"{sink.bytes / 1e6:.0f} MB"),
        Figure("the worker's memory, beyond that of sending 10,000 rows", grown[1] - grown[0], "MiB", at_most=32),
    ]  # fmt: skip
