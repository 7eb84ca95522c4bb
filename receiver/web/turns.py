"""Each request takes one of its key's turns, and gives it back when it ends (receiver.server.in_progress)."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import cast

from flask import Flask, Response, g, request

from receiver.server.in_progress import MOST_IN_PROGRESS, WAIT_SECONDS, Ticket
from receiver.web.problems import Problem
from receiver.web.services import services
from receiver.web.waiting import WAIT, Wait

_KEY_ID = "in_progress"
"""In `g`: the key whose turn the current request has."""

_TICKET, _TURN = "receiver.ticket", "receiver.turn"
"""In the WSGI environment of a resumed request: the turn that it waited for, and the turn that it has."""


def register(app: Flask) -> None:
    """Give back the turns that this app's requests take (`take_turn`)."""
    app.after_request(_give_back_when_sent)
    app.teardown_request(_give_back)


def _give_back_when_sent(response: Response) -> Response:
    key_id: int | None = g.pop(_KEY_ID, None)
    if key_id is None:
        return response
    wait: Wait | None = request.environ.get(WAIT)
    if wait is None:
        turns = services().turns
        response.call_on_close(lambda: turns.give_back(key_id))
    else:  # a request that waits is still in progress
        request.environ[WAIT] = replace(wait, resumed={**wait.resumed, _TURN: key_id})
    return response


def _give_back(_: BaseException | None) -> None:
    """Give the turn back if there is no answer."""
    key_id: int | None = g.pop(_KEY_ID, None)
    if key_id is not None:
        services().turns.give_back(key_id)


def take_turn(key_id: int) -> None:
    """Take a turn for the current request. Raises Problem (429), which is sent only if no turn becomes free in time."""
    if _TURN in request.environ:
        setattr(g, _KEY_ID, key_id)
        return
    turns, waited = services().turns, cast("Ticket | None", request.environ.get(_TICKET))
    ticket = waited or turns.ticket(key_id)
    if ticket.leave() if waited else ticket.take():
        setattr(g, _KEY_ID, key_id)
        return
    if not waited:
        request.environ[WAIT] = Wait(ticket.take, time.monotonic() + turns.wait_seconds, {_TICKET: ticket})
    raise Problem(
        "rate_limited",
        f"This key has {MOST_IN_PROGRESS} requests in progress, and all were still running after"
        f" {WAIT_SECONDS:g} seconds. Wait for their answers.",
        headers={"Retry-After": "1"},
    )
