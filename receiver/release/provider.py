"""The client of Plum Fuse: it sends a `bulk_queue` request at most once.

Everything here answers the question "can calls have been queued?". The type of an exception does not show this: both a
broken TLS record while the contacts are sent, and a certificate that is refused before, are an SSLError. So
`connection.Passage` records the moment from which bytes can have left this machine. A failure before it is `not_sent`.
A failure after it, without a documented answer, is `unknown`.

For the same reason, nothing is retried, redirected or sent over a connection that was used before. The adapter is used
without a `requests.Session`, which would use `.netrc` (it could replace our credentials), cookies, and proxies of the
environment. TLS is always verified.
"""

from __future__ import annotations

import base64
import html
import http.client
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast
from urllib.parse import quote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPResponse
from urllib3.exceptions import HTTPError

from receiver import __version__
from receiver.errors import ConfigurationError, Fault, ReceiverError
from receiver.release.answer import ANSWER_BYTES, Answer, AnswerState, error_words, parse_answer, printable_line
from receiver.release.connection import Passage, PlainConnection, TlsConnection
from receiver.release.multipart import CsvError, described, multipart

_READ_BYTES = 64 << 10

_NO_ANSWER = (CsvError, requests.RequestException, HTTPError, http.client.HTTPException, OSError)


@dataclass(frozen=True, slots=True)
class Provider:
    """The address of Plum Fuse, and our credentials. A repr contains neither `user` nor `key`.

    `connect_timeout`: for each address of the host, and for the TLS handshake. `read_timeout`: the longest pause in an
    answer, and the longest time to send 256 KiB. A complete answer may take twice as long. `send_timeout`: for sending
    the complete request. All are in seconds. `ca_file`: certificates to trust instead of certifi's, if a gateway
    inspects TLS. `simulated`: it is a simulator, which gets only batches that were made for a simulator.

    Raises ConfigurationError for an address or a user that cannot be used in a request.
    """

    url: str
    user: str = field(repr=False)
    key: str = field(repr=False)
    connect_timeout: float = 5.0
    read_timeout: float = 120.0
    send_timeout: float = 600.0
    ca_file: str | None = None
    simulated: bool = False

    def __post_init__(self) -> None:
        faults = []
        try:
            address = urlsplit(self.url)
            requests.Request("POST", self.url).prepare()
            if address.scheme not in ("http", "https") or address.query or address.fragment:
                raise ValueError
            if address.username is not None or address.password is not None:
                # requests would let them replace `user` and `key`, and write them into its errors.
                faults.append(Fault("PLUM_URL", "invalid", "must not contain a user or a key"))
        except ValueError:  # requests' InvalidURL is one too
            faults.append(Fault("PLUM_URL", "invalid", "must be an http or https address without a query"))
        if not self.user or ":" in self.user:
            faults.append(Fault("PLUM_USER", "invalid", "is required, and must not contain a colon (RFC 7617)"))
        if not self.key:
            faults.append(Fault("PLUM_KEY", "invalid", "must be given"))
        if faults:
            raise ConfigurationError(faults)

    def _credentials(self) -> str:
        # UTF-8 as in RFC 7617; requests would encode text as Latin-1, and fail outside of it.
        return base64.b64encode(f"{self.user}:{self.key}".encode()).decode("ascii")

    def _secrets(self) -> tuple[str, ...]:
        """Every spelling of the credentials that an error page could contain."""
        plain = (self.user, self.key)
        spelt = [(s, html.escape(s), quote(s, safe=""), json.dumps(s)[1:-1]) for s in plain]
        return (self._credentials(), *dict.fromkeys(spelling for each in spelt for spelling in each))


@dataclass(frozen=True, slots=True)
class QueueRequest:
    """The parameters of one submission, in the provider's terms (provider page: Queue multiple calls).

    Timestamps are in Unix seconds, `reattempt_wait` in seconds. The request does not contain a None.
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


def bulk_queue(provider: Provider, request: QueueRequest, csv: Iterable[bytes], csv_bytes: int) -> Answer:
    """Send the contacts of one submission, once, and return the result.

    `csv`: the file in pieces of any size. They are read while they are sent, which saves memory.
    `csv_bytes`: its exact length. Without it the body would have to be chunked. The provider does not document this,
    and some servers in front of PHP refuse it (411) or pass it on as an empty form.

    Never raises for errors of the provider or the network. While nothing has been sent, an exception of `csv` is raised
    unchanged, and a wrong `csv_bytes` as CsvError. Later the answer is `unknown`, and the connection is closed before
    the announced end, so that a part cannot be mistaken for the complete file.
    """
    body = multipart(request.fields(), csv, csv_bytes)
    path = f"/api/apps/{request.application_id}/{request.deployment_id}/bulk_queue"
    prepared = _prepared(provider, "POST", path, {"Content-Type": f"multipart/form-data; boundary={body.boundary}"})
    prepared.headers["Content-Length"] = str(body.length)
    prepared.body = body.blocks  # type: ignore[assignment]  # an iterable; declared too narrowly

    passage = Passage(provider.read_timeout, provider.send_timeout, provider.connect_timeout)
    try:
        got = _exchange(provider, prepared, passage)
    except _NO_ANSWER as error:
        return _without_answer(error, passage, provider)
    parsed = parse_answer(got.status, got.content_type, got.body, provider._secrets())
    if got.broke_off and parsed.state == "unknown" and parsed.provider_status == 200:
        return replace(parsed, error=_without_answer(got.broke_off, passage, provider).error)
    return parsed


def cancel_deployment(provider: Provider, application_id: int, deployment_id: int) -> Answer:
    """Ask the provider, once, to cancel every pending call of a deployment. Never raises for what the network does.

    Only 202 is documented as success (provider page: Queue one call, status, cancel). Without an answer it is unknown.
    """
    passage = Passage(provider.read_timeout, provider.send_timeout, provider.connect_timeout)
    path = f"/api/apps/{application_id}/{deployment_id}/cancel"
    try:
        got = _exchange(provider, _prepared(provider, "DELETE", path), passage)
    except _NO_ANSWER as error:
        return _without_answer(error, passage, provider, "canceled")
    if got.status == 202:
        return Answer("accepted", got.status)
    refused = parse_answer(got.status, got.content_type, got.body).state == "refused"
    return Answer("refused" if refused else "unknown", got.status, error=read_error(provider, got))


@dataclass(frozen=True, slots=True)
class Got:
    """An HTTP answer. `body`: decompressed, a little more than 1 MiB at most. `broke_off`: the error that cut it off.

    `retry_after`: the unchanged header, or "".
    """

    status: int
    content_type: str
    body: bytes = field(repr=False)
    broke_off: Exception | None = None
    retry_after: str = ""


class NoAnswer(ReceiverError):
    """The provider could not be reached, or did not answer in time. The message contains no credentials."""

    code = "no_answer"


def get(provider: Provider, path: str) -> Got:
    """Send a GET request to the provider: once, without redirects, and with limits of time and size.

    `path` begins with a slash and is encoded. Raises NoAnswer.
    """
    passage = Passage(provider.read_timeout, provider.send_timeout, provider.connect_timeout)
    try:
        return _exchange(provider, _prepared(provider, "GET", path), passage)
    except _NO_ANSWER as error:
        raise NoAnswer(printable_line(described(error), provider._secrets())) from None


def read_error(provider: Provider, got: Got) -> str:
    """Why an answer is not a success, if possible in the provider's words, as `Answer.error`."""
    words = error_words(got.content_type, got.body, provider._secrets())
    return words or f"the provider answered {got.status}"


def _prepared(
    provider: Provider, method: str, path: str, headers: Mapping[str, str] | None = None
) -> requests.PreparedRequest:
    return requests.Request(
        method,
        provider.url.rstrip("/") + path,
        headers={
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Authorization": f"Basic {provider._credentials()}",
            "Connection": "close",
            "User-Agent": f"result-url-receiver/{__version__}",
            **(headers or {}),
        },
    ).prepare()


def _exchange(provider: Provider, prepared: requests.PreparedRequest, passage: Passage) -> Got:
    """Send a request and read the answer. Raises one of `_NO_ANSWER`."""
    adapter = _OneRequestAdapter(passage)
    try:
        response = adapter.send(
            prepared,
            stream=True,
            timeout=(provider.connect_timeout, provider.read_timeout),
            verify=provider.ca_file or True,
        )
        with response:
            body, broke_off = _read(response)
    finally:
        adapter.close()
    headers = response.headers
    return Got(response.status_code, headers.get("Content-Type", ""), body, broke_off, headers.get("Retry-After", ""))


class _OneRequestAdapter(HTTPAdapter):
    """The transport of requests with our connections, without retries."""

    def __init__(self, passage: Passage) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)
        self.passage = passage

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        pool = cast(HTTPConnectionPool, super().get_connection_with_tls_context(*args, **kwargs))
        pool.ConnectionCls = TlsConnection if pool.scheme == "https" else PlainConnection
        pool.conn_kw["passage"] = self.passage
        return pool


def _read(response: requests.Response) -> tuple[bytes, Exception | None]:
    """The decompressed body, at most 64 KiB more than 1 MiB, and the error that ended it early, if any."""
    raw: HTTPResponse = response.raw
    body = bytearray()
    try:
        while len(body) < ANSWER_BYTES:
            # read1 returns the available bytes, so that half of a body is kept if the rest never arrives. It
            # decompresses at most the requested number of bytes, so that a small body cannot become a large one.
            piece = raw.read1(_READ_BYTES, decode_content=True)
            if not piece:
                break
            body += piece
    except (HTTPError, OSError, http.client.HTTPException) as error:
        return bytes(body), error
    return bytes(body), None


def _without_answer(error: Exception, passage: Passage, provider: Provider, done: str = "queued") -> Answer:
    if not passage.begun:
        state: AnswerState = "not_sent"
        words = f"nothing was sent: no connection to the provider ({described(error)})"
    else:
        state = "unknown"
        words = (
            f"no readable answer after {passage.sent_bytes:,} bytes of the request were sent, so "
            f"calls may have been {done} ({described(error)})"
        )
    return Answer(state, error=printable_line(words, provider._secrets()))
