"""Callback bodies as the provider posts them, seeded: 400 to 700 bytes, one call each."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

AREA = 617_200_0000
"""The numbers of call 1, 2, 3 ...: `AREA + row`, valid ones of Boston."""


def contact_rows(rows: int) -> Iterator[str]:
    """Lines of a CSV of contacts, header first."""
    yield "destination,first_name,last_name,city,appointment,amount\r\n"
    for row in range(1, rows + 1):
        yield f"{AREA + row},Name{row},Last{row * 7 % 9973},Boston,2026-12-01 09:30,{row % 1000}.50\r\n"


def body(row: int, seed: int = 1) -> bytes:
    """The result of one call: the same row and seed, the same bytes."""
    draw = random.Random(f"{seed} {row}")  # noqa: S311 repeatable, not secret
    attempts = draw.choices((1, 2, 3, 4, 5, 6), (55, 20, 10, 7, 5, 3))[0]
    at = 1_700_000_000 + row
    events = [{"event": "queued", "timestamp": at}]
    for _ in range(attempts):
        at += draw.randint(3, 400)
        events.append({"event": "dialing", "timestamp": at})
    details: dict[str, object] = {
        "max_attempts": "6",
        "attempts": str(attempts),
        "events": events,
        "phone_number": f"'{AREA + row}'",
        "status": draw.choices(("completed", "failed", "canceled", "rejected"), (70, 25, 3, 2))[0],
        "queued_timestamp": str(1_700_000_000 + row),
        "reattempt_wait": "300",
        # Nobody documented these; they bring the bodies to the length that was seen.
        "application": "appointment reminders",
        "deployment": "production-2026",
        "carrier": f"carrier-{row % 37}",
    }
    if details["status"] == "completed":
        start, duration = at + draw.randint(5, 25), draw.randint(5, 120)
        events += [{"event": "connected", "timestamp": start}, {"event": "disconnected", "timestamp": start + duration}]
        details |= {"start_timestamp": str(start), "end_timestamp": str(start + duration), "duration": duration}
    else:
        details |= {"start_timestamp": "", "end_timestamp": "", "last_attempt_timestamp": str(at)}
    return json.dumps(details, separators=(",", ":")).encode()


def write_wrk_script(path: Path, urls: Sequence[str], rows: int, count: int) -> None:
    """A wrk script that POSTs `count` bodies again and again, for calls spread over `rows`, to the url of each row.

    `urls` are paths, one for each submission of equal size, in order of their rows.
    """
    step = max(rows // count, 1)
    per_url = -(-rows // len(urls))
    with path.open("w") as file:
        file.write('wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nlocal posts = {}\n')
        for number in range(count):
            row = number * step % rows + 1
            file.write(f"posts[{number + 1}] = {{'{urls[(row - 1) // per_url]}', [==[{body(row).decode()}]==]}}\n")
        file.write(
            "local requests, at = {}, 0\n"
            "init = function(args)\n"
            "  math.randomseed(tonumber(args[1] or '1'))\n"
            "  for i, post in ipairs(posts) do requests[i] = wrk.format(nil, post[1], nil, post[2]) end\n"
            "  at = math.random(#requests)\nend\n"
            "request = function() at = at % #requests + 1; return requests[at] end\n"
        )
