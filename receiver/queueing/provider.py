"""The thin client: one `bulk_queue` request to Plum Fuse, sent at most once.

The question that every line here serves is "can calls have been queued?". It is not answered from
the kind of exception (a broken TLS record while the contacts are being sent and a certificate that was
refused before them are both an SSLError) but from what happened: `connection.Passage` notes the moment
from which bytes can leave. A failure before it is `not_sent`; after it, without a documented answer,
`unknown`.

For the same reason nothing is retried, redirected or sent over a connection that was used before; and
the adapter is used without a `requests.Session`, which would bring `.netrc` (its entry would replace our
credentials), cookies, and proxies out of the environment. TLS is always verified.
"""

from __future__ import annotations

import base64
import html
import http.client
import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast
from urllib.parse import quote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPResponse
from urllib3.exceptions import HTTPError

from receiver import __version__
from receiver.errors import ConfigurationError, Fault, ReceiverError
from receiver.queueing.answer import ANSWER_BYTES, Answer, AnswerState, parse_answer, printable_line
from receiver.queueing.connection import Passage, PlainConnection, TlsConnection

__all__ = ["Answer", "AnswerState", "CsvError", "Provider", "QueueRequest", "bulk_queue", "parse_answer"]

_BLOCK_BYTES = 256 << 10
_READ_BYTES = 64 << 10


class CsvError(ReceiverError):
    """The CSV could not be read, or is not as long as was said."""

    code = "csv_unreadable"


@dataclass(frozen=True, slots=True)
class Provider:
    """Where Plum Fuse is and who we are there. Neither `user` nor `key` shows in a repr.

    `connect_timeout`: for each address of the host, and for the TLS handshake. `read_timeout`: the
    longest silence, and the longest that 256 KiB may take to be sent; a whole answer may take twice
    as long. `send_timeout`: for sending the whole request. All in seconds.
    `ca_file`: certificates to trust in place of certifi's, where a gateway inspects TLS.

    Raises ConfigurationError for an address or a user that no request could be made with.
    """

    url: str
    user: str = field(repr=False)
    key: str = field(repr=False)
    connect_timeout: float = 5.0
    read_timeout: float = 120.0
    send_timeout: float = 600.0
    ca_file: str | None = None

    def __post_init__(self) -> None:
        faults = []
        try:
            address = urlsplit(self.url)
            requests.Request("POST", self.url).prepare()
            if address.scheme not in ("http", "https") or address.query or address.fragment:
                raise ValueError
            if address.username is not None or address.password is not None:
                # requests would let them replace `user` and `key`, and write them into its errors.
                faults.append(Fault("PLUM_URL", "invalid", "must hold no user and no key"))
        except ValueError:  # requests' InvalidURL is one too
            faults.append(Fault("PLUM_URL", "invalid", "must be an http or https address without a query"))
        if not self.user or ":" in self.user:
            faults.append(Fault("PLUM_USER", "invalid", "must be given, and cannot hold a colon (RFC 7617)"))
        if not self.key:
            faults.append(Fault("PLUM_KEY", "invalid", "must be given"))
        if faults:
            raise ConfigurationError(faults)

    def _credentials(self) -> str:
        # UTF-8 as in RFC 7617; requests would encode text as Latin-1, and fail outside of it.
        return base64.b64encode(f"{self.user}:{self.key}".encode()).decode("ascii")

    def _secrets(self) -> tuple[str, ...]:
        """Every spelling under which an error page could show the credentials."""
        plain = (self.user, self.key)
        spelt = [(s, html.escape(s), quote(s, safe=""), json.dumps(s)[1:-1]) for s in plain]
        return (self._credentials(), *dict.fromkeys(spelling for each in spelt for spelling in each))


@dataclass(frozen=True, slots=True)
class QueueRequest:
    """The parameters of one submission, in the provider's terms (provider page: Queue multiple calls).

    Timestamps in Unix seconds, `reattempt_wait` in seconds; a None is left out of the request.
    """

    application_id: int
    deployment_id: int
    result_url: str
    start_timestamp: int | None = None
    end_timestamp: int | None = None
    max_attempts: int | None = None
    reattempt_wait: int | None = None
    is_pci: bool = False

    def fields(self) -> dict[str, str]:
        """The form fields in the order sent, `csv` not among them."""
        given = {
            "start_timestamp": self.start_timestamp,
            "end_timestamp": self.end_timestamp,
            "max_attempts": self.max_attempts,
            "reattempt_wait": self.reattempt_wait,
            "result_url": self.result_url,
            "is_pci": int(self.is_pci),
        }
        return {name: str(value) for name, value in given.items() if value is not None}


def bulk_queue(provider: Provider, request: QueueRequest, csv: Iterable[bytes], csv_bytes: int | None = None) -> Answer:
    """Send one submission's contacts, once, and say what became of it.

    `csv`: the file in pieces of any size, taken as they are sent, so that memory does not grow with it.
    `csv_bytes`: its exact length. Give it: without one the body goes out chunked, which the provider does
    not document, and which some servers in front of PHP refuse (411) or pass on as an empty form.

    Never raises for what the provider or the network does. While nothing has been sent, an exception
    out of `csv` is raised as it is, and a wrong `csv_bytes` as CsvError; later the answer is `unknown`, and
    the connection is closed short of the announced end, so that no part is taken for the whole.
    """
    body = _Multipart(request.fields(), csv, csv_bytes)
    body.read_first_block()
    prepared = requests.Request(
        "POST",
        f"{provider.url.rstrip('/')}/api/apps/{request.application_id}/{request.deployment_id}/bulk_queue",
        headers={
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Authorization": f"Basic {provider._credentials()}",
            "Connection": "close",
            "Content-Type": f"multipart/form-data; boundary={body.boundary}",
            "User-Agent": f"result-url-receiver/{__version__}",
        },
    ).prepare()
    del prepared.headers["Content-Length"]  # the 0 of a request without body
    if body.length is not None:
        prepared.headers["Content-Length"] = str(body.length)
    prepared.body = body  # type: ignore[assignment]  # an iterable; declared too narrowly

    passage = Passage(provider.read_timeout, provider.send_timeout, provider.connect_timeout)
    adapter = _OneRequestAdapter(passage)
    try:
        response = adapter.send(
            prepared,
            stream=True,
            timeout=(provider.connect_timeout, provider.read_timeout),
            verify=provider.ca_file or True,
        )
        with response:
            answer, broke_off = _read(response)
    except (CsvError, requests.RequestException, HTTPError, http.client.HTTPException, OSError) as error:
        return _without_answer(error, passage, provider)
    finally:
        adapter.close()
    parsed = parse_answer(response.status_code, response.headers.get("Content-Type", ""), answer, provider._secrets())
    if broke_off and parsed.state == "unknown" and parsed.provider_status == 200:
        return replace(parsed, error=_without_answer(broke_off, passage, provider).error)
    return parsed


class _Multipart:
    """A `multipart/form-data` body (RFC 7578) in blocks of 256 KiB: parameters first, `csv` last.

    The file's name is always `contacts.csv`: the user's own may name a customer, and tells nothing.
    """

    def __init__(self, fields: dict[str, str], csv: Iterable[bytes], csv_bytes: int | None) -> None:
        self.boundary = secrets.token_hex(24)
        parts = [
            f'--{self.boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        ]
        parts.append(
            f'--{self.boundary}\r\nContent-Disposition: form-data; name="csv"; filename="contacts.csv"\r\n'
            "Content-Type: text/csv; charset=utf-8\r\n\r\n"
        )
        self._opening = "".join(parts).encode()
        self._closing = f"\r\n--{self.boundary}--\r\n".encode()
        self._csv = iter(csv)
        self._csv_bytes = csv_bytes
        self._csv_taken = 0
        self._pending = bytearray(self._opening)
        self.length = None if csv_bytes is None else len(self._opening) + csv_bytes + len(self._closing)

    def read_first_block(self) -> None:
        """Raise what the CSV raises at its start, while nothing has been sent yet."""
        more = self._fill()
        self._check_length(ended=not more)

    def __iter__(self) -> Iterator[bytes]:
        while self._fill_or_stop():
            while len(self._pending) >= _BLOCK_BYTES:
                yield bytes(memoryview(self._pending)[:_BLOCK_BYTES])
                del self._pending[:_BLOCK_BYTES]
        yield bytes(self._pending) + self._closing

    def _fill(self) -> bool:
        """Gather at least one block; False once the CSV has ended."""
        if len(self._pending) >= _BLOCK_BYTES:
            return True
        for piece in self._csv:
            self._pending += piece
            self._csv_taken += len(piece)
            if len(self._pending) >= _BLOCK_BYTES:
                return True
        return False

    def _fill_or_stop(self) -> bool:
        try:
            more = self._fill()
        except Exception as error:
            # An OSError must not pass as one: urllib3 takes some for the peer's, and goes on to wait
            # for an answer.
            raise CsvError(f"the contacts could not be read to their end ({_described(error)})") from error
        self._check_length(ended=not more)
        return more

    def _check_length(self, *, ended: bool) -> None:
        if self._csv_bytes is None:
            return
        if self._csv_taken > self._csv_bytes or (ended and self._csv_taken < self._csv_bytes):
            raise CsvError(f"the contacts are not {self._csv_bytes:,} bytes long, as announced")


class _OneRequestAdapter(HTTPAdapter):
    """requests' transport with our connections, without retries."""

    def __init__(self, passage: Passage) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)
        self.passage = passage

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        pool = cast(HTTPConnectionPool, super().get_connection_with_tls_context(*args, **kwargs))
        pool.ConnectionCls = TlsConnection if pool.scheme == "https" else PlainConnection
        pool.conn_kw["passage"] = self.passage
        return pool


def _read(response: requests.Response) -> tuple[bytes, Exception | None]:
    """The body, decompressed, to at most 64 KiB past 1 MiB, and what it broke off with, if it did."""
    raw: HTTPResponse = response.raw
    body = bytearray()
    try:
        while len(body) < ANSWER_BYTES:
            # read1 hands over what is there, so that a status with half a body keeps that half; and
            # it decompresses no further than asked, so that a small body cannot become a large one.
            piece = raw.read1(_READ_BYTES, decode_content=True)
            if not piece:
                break
            body += piece
    except (HTTPError, OSError, http.client.HTTPException) as error:
        return bytes(body), error
    return bytes(body), None


def _without_answer(error: Exception, passage: Passage, provider: Provider) -> Answer:
    if not passage.begun:
        state: AnswerState = "not_sent"
        words = f"nothing was sent: no connection to the provider ({_described(error)})"
    else:
        state = "unknown"
        words = (
            f"no answer that could be read, after {passage.sent_bytes:,} bytes of the request were sent, so "
            f"calls may have been queued ({_described(error)})"
        )
    return Answer(state, error=printable_line(words, provider._secrets()))


def _described(error: BaseException) -> str:
    """The first cause of `error` in a few words; what wraps it repeats addresses and object ids.

    Not by `__context__`, which leads on to whatever the caller was handling.
    """
    while not isinstance(error, ReceiverError):
        within = (error.__cause__, getattr(error, "reason", None), *error.args)
        cause = next((each for each in within if isinstance(each, BaseException)), None)
        if cause is None:
            break
        error = cause
    words = getattr(error, "verify_message", None) or getattr(error, "strerror", None) or str(error)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
