"""A request that comes with a key takes a turn of that key's, and gives it back at its end."""

from __future__ import annotations

import time
from dataclasses import replace

from flask import Flask, Response, g, request

from receiver.server.in_progress import MOST_IN_PROGRESS, WAIT_SECONDS, Ticket, Turns
from receiver.web.problems import Problem
from receiver.web.waiting import WAIT, Wait

_KEY_ID = "in_progress"
"""In `g`: the key that the current request is counted for."""

_TICKET, _TURN = "receiver.ticket", "receiver.turn"
"""In the WSGI environment of a request that is sent once more: the turn that it waited for, the turn that it has."""


def register(app: Flask, turns: Turns) -> None:
    """Give back the turns that this app's requests take (`take_turn`)."""

    def at_end(response: Response) -> Response:
        key_id: int | None = g.pop(_KEY_ID, None)
        if key_id is None:
            return response
        wait: Wait | None = request.environ.get(WAIT)
        if wait is None:
            response.call_on_close(lambda: turns.give_back(key_id))
        else:  # a request that waits is in progress
            request.environ[WAIT] = replace(wait, resumed={**wait.resumed, _TURN: key_id})
        return response

    def without_answer(_: BaseException | None) -> None:
        key_id: int | None = g.pop(_KEY_ID, None)
        if key_id is not None:
            turns.give_back(key_id)

    app.after_request(at_end)
    app.teardown_request(without_answer)


def take_turn(turns: Turns, key_id: int) -> None:
    """Count the current request as one in progress. Raises Problem (429), which is not sent if a turn comes in time."""
    if _TURN in request.environ:
        setattr(g, _KEY_ID, key_id)
        return
    waited: Ticket | None = request.environ.get(_TICKET)
    ticket = turns.ticket(key_id) if waited is None else waited
    if ticket.leave() if waited is not None else ticket.take():
        setattr(g, _KEY_ID, key_id)
        return
    if waited is None:
        request.environ[WAIT] = Wait(ticket.take, time.monotonic() + turns.wait_seconds, {_TICKET: ticket})
    raise Problem(
        "rate_limited",
        f"This key has {MOST_IN_PROGRESS} requests in progress, and all were still running after"
        f" {WAIT_SECONDS:g} seconds. Wait for their answers.",
        headers={"Retry-After": "1"},
    )
