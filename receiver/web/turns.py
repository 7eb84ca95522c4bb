"""A request that comes with a key takes a turn of that key's, and gives it back at its end."""

from __future__ import annotations

from flask import Flask, Response, g

from receiver.web.in_progress import MOST_IN_PROGRESS, WAIT_SECONDS, Turns
from receiver.web.problems import Problem

_KEY_ID = "in_progress"
"""In `g`: the key that the current request is counted for."""


def register(app: Flask, turns: Turns) -> None:
    """Give back the turns that this app's requests take (`take_turn`)."""

    def at_end(response: Response) -> Response:
        key_id: int | None = g.pop(_KEY_ID, None)
        if key_id is not None:
            response.call_on_close(lambda: turns.give_back(key_id))
        return response

    def without_answer(_: BaseException | None) -> None:
        key_id: int | None = g.pop(_KEY_ID, None)
        if key_id is not None:
            turns.give_back(key_id)

    app.after_request(at_end)
    app.teardown_request(without_answer)


def take_turn(turns: Turns, key_id: int) -> None:
    """Count the current request as one in progress, once there is room for it. Raises Problem (429)."""
    if not turns.take(key_id):
        raise Problem(
            "rate_limited",
            f"This key has {MOST_IN_PROGRESS} requests in progress, and none of them ended within"
            f" {WAIT_SECONDS:g} seconds. Wait for their answers.",
            headers={"Retry-After": "1"},
        )
    setattr(g, _KEY_ID, key_id)
