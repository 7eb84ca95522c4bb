"""A provider that only takes the batch, and a crowd that then posts results as fast as it is let."""

from __future__ import annotations

import http.client
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class TakingProvider:
    """Answers every bulk_queue with 200 and keeps the `result_url` of each."""

    def __init__(self) -> None:
        self.result_urls: list[str] = []
        result_urls = self.result_urls

        class Taking(BaseHTTPRequestHandler):
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

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> TakingProvider:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Posting:
    """Threads that post one result for each number, none of them twice, a few hundred a second.

    `acknowledged`: those that were answered 200. The others may or may not have been stored.
    """

    def __init__(self, result_url: str, numbers: list[str], threads: int = 4) -> None:
        self.acknowledged: list[str] = []
        self.failed: list[str] = []
        self._address = urlsplit(result_url)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._post_all, args=(numbers[first::threads],)) for first in range(threads)
        ]

    def _post_all(self, numbers: list[str]) -> None:
        connection = http.client.HTTPConnection(self._address.netloc, timeout=10)
        for number in numbers:
            body = json.dumps({"phone_number": f"'{number}'", "status": "completed", "attempts": "1"})
            try:
                connection.request("POST", self._address.path, body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                taken = answer.status == 200
            except (OSError, http.client.HTTPException):
                taken = False
                connection.close()
            (self.acknowledged if taken else self.failed).append(number)
            if self._stop.wait(0.01 if taken else 0.1):
                break
        connection.close()

    def __enter__(self) -> Posting:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
