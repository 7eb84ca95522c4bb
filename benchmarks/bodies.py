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
        # Behind 617-999-9999 come numbers that nobody has, up to 618-199-9999.
        number = AREA + row if row < 8_000_000 else AREA + row + 2_000_000
        yield f"{number},Name{row},Last{row * 7 % 9973},Boston,2026-12-01 09:30,{row % 1000}.50\r\n"


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


TEMPLATES = 20_000
"""Different bodies in a wrk script; each is sent for one call after the other."""


def write_wrk_script(path: Path, urls: Sequence[str], rows: int) -> None:
    """A wrk script that POSTs one body for each of `rows` calls, in order, to the url of its row; and again from 1.

    `urls` are paths, one for each submission of equal size, in order of their rows. The script takes the row to
    begin with, and the most requests a second (0: as fast as is answered).
    """
    per_url = -(-rows // len(urls))
    with path.open("w") as file:
        file.write(f"local rows, per_url, area = {rows}, {per_url}, {AREA}\nlocal urls, bodies = {{}}, {{}}\n")
        for number, url in enumerate(urls, 1):
            file.write(f"urls[{number}] = '{url}'\n")
        for number in range(1, min(TEMPLATES, rows) + 1):
            before, after = body(number).decode().split(str(AREA + number))
            file.write(f"bodies[{number}] = {{[==[{before}]==], [==[{after}]==]}}\n")
        file.write(_WRK_SCRIPT)


# Lua. The text of a request is put together from parts: wrk.format would take longer than wrk itself.
_WRK_SCRIPT = r"""
local ffi = require("ffi")
ffi.cdef[[ typedef struct { long s; long us; } moment; int gettimeofday(moment *at, void *zone); ]]
local moment = ffi.new("moment")
local function milliseconds()
  ffi.C.gettimeofday(moment, nil)
  return tonumber(moment.s) * 1000 + tonumber(moment.us) / 1000
end

local row, interval, due, parts = 1, 0, 0, {}

-- Open loop: who fell behind catches up, so that a slow answer does not slow the load.
local function wait()
  due = due + interval
  return math.max(0, math.floor(due - milliseconds()))
end

init = function(args)
  row = tonumber(args[1] or "1")
  local rate = tonumber(args[2] or "0")
  interval = 1000 / rate
  due = milliseconds()
  if rate > 0 then delay = wait end
  for i, body in ipairs(bodies) do
    local length = #body[1] + #string.format("%.0f", area) + #body[2]
    parts[i] = {
      " HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: " .. length
        .. "\r\n\r\n" .. body[1], body[2] }
  end
end

request = function()
  local part = parts[(row - 1) % #parts + 1]
  local url = urls[math.floor((row - 1) / per_url) + 1]
  local text = "POST " .. url .. part[1] .. string.format("%.0f", area + row) .. part[2]
  row = row % rows + 1
  return text
end
"""
