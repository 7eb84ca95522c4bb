"""Two providers: one that only accepts batches, and the simulator in its own process."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.acceptance.service import ROOT, clean_environment


class AcceptingProvider:
    """Answers every bulk_queue with 200 and keeps the `result_url` of each."""

    def __init__(self) -> None:
        self.result_urls: list[str] = []
        result_urls = self.result_urls

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                found = re.search(r'name="result_url"\r\n\r\n(\S+)\r\n', body)
                assert found is not None
                result_urls.append(found[1])
                calls = body.count("\r\n617")
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps({"calls_queued": calls}).encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> AcceptingProvider:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def simulator(port: int, *arguments: str) -> Iterator[str]:
    """Run the simulator until the context ends. Yields its address when it listens."""
    command = [sys.executable, "-m", "receiver", "simulate", "--port", str(port), *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url.startswith("http://"), "it does not listen"
            yield url
        finally:
            process.terminate()
            assert process.wait(60) == 0
