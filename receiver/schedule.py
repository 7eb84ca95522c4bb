"""When a submission may be released: calling hours, window and pace. Pure code: no I/O, and no clock of its own.

Calling hours are in the callee's local time. A number can have several time zones; then the hours must be open in all
of them at once. Local dates are never joined: hours from 00:00 to 24:00 end at each midnight of each zone, because the
`end_timestamp` of a request lies inside one day's hours. Clock changes are right because every edge is found in UTC and
looked up in the zone: on a night that repeats an hour, hours can open twice; on one that skips it, they open later.

The pace is exact over any `WINDOW`, which is a little longer than a minute because requests take different times on
their way. Slices are small and evenly spaced, so that little depends on the window: after a clock step, nothing is
known about the last minute, and the spacing alone keeps the pace to within one slice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache, reduce
from itertools import pairwise, takewhile
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

EVERY_DAY = 0b1111111
DAY_MINUTES = 24 * 60

LEAST_HOURS = timedelta(minutes=30)
"""Shortest calling hours, and shortest time that the hours of a number's zones must have in common."""

LEAST_LEFT = timedelta(minutes=10)
"""A slice for which less of the day's hours is left waits for the next day."""

FULL_DAY = timedelta(hours=24)
"""How long the provider dials at most if no end is given."""

GIVE_UP = timedelta(hours=1)
"""Without an end, a submission that could have been sent for this long is refused: these calls would be too late."""

WINDOW = timedelta(seconds=61)
"""No more calls than the pace are released within any of these."""

SLICES_PER_MINUTE = 20

CREDIT = timedelta(seconds=1)
"""How far a late release lets the next one come early, so that delays do not add up."""

_MOST_DAYS = 400
"""How far ahead an opening is looked for: every combination of weekdays and clock changes comes within a year."""

_WEEK = timedelta(days=8)
"""With a day for zones that are ahead of others."""

_NEVER = datetime.max.replace(tzinfo=UTC)

RefusalCode = Literal["window_over", "not_sent_in_time"]


@dataclass(frozen=True, slots=True)
class Hours:
    """`opens_minute`, `closes_minute`: minutes after local midnight, the latter at most 1440. `days`: a bit mask,
    Monday is 1 and Sunday 64."""

    opens_minute: int
    closes_minute: int
    days: int = EVERY_DAY


class Span(NamedTuple):
    """From `opens` up to, not including, `closes`; in UTC."""

    opens: datetime
    closes: datetime


@lru_cache(maxsize=1 << 16)
def day_spans(zone: str, day: date, hours: Hours) -> tuple[Span, ...]:
    """When the hours of one local date are open: usually one span, none on another weekday."""
    if not hours.days >> day.weekday() & 1:
        return ()
    local = ZoneInfo(zone)
    midnight = datetime.combine(day, time(), UTC)
    # Zones are between 12 hours behind and 14 hours ahead.
    edges = set(_transition(local, midnight - timedelta(hours=15), midnight + timedelta(hours=39)))
    for minute in (hours.opens_minute, hours.closes_minute):
        wall = datetime.combine(day, time(), local) + timedelta(minutes=minute)
        edges.update(wall.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    opens, closes = timedelta(minutes=hours.opens_minute), timedelta(minutes=hours.closes_minute)
    spans: list[Span] = []
    ordered = sorted(edges)
    for edge, following in pairwise(ordered):
        wall = edge.astimezone(local).replace(tzinfo=None)
        if opens <= wall - datetime.combine(day, time()) < closes:
            if spans and spans[-1].closes == edge:
                spans[-1] = Span(spans[-1].opens, following)
            else:
                spans.append(Span(edge, following))
    return tuple(spans)


def _transition(local: ZoneInfo, low: datetime, high: datetime) -> Iterator[datetime]:
    """The moment between two at which a zone's offset changes, if it does: never twice within two days."""
    before = low.astimezone(local).utcoffset()
    if high.astimezone(local).utcoffset() == before:
        return
    second = timedelta(seconds=1)
    while high - low > second:
        middle = low + (high - low) // 2
        middle = middle.replace(microsecond=0)
        if middle.astimezone(local).utcoffset() == before:
            low = middle
        else:
            high = middle
    yield high


def openings(hours: Hours, zones: Iterable[str], after: datetime) -> Iterator[Span]:
    """When the hours are open in all zones at once, in order, from the first span that closes after `after`."""
    return reduce(_intersection, (_openings(hours, zone, after) for zone in zones))


def _openings(hours: Hours, zone: str, after: datetime) -> Iterator[Span]:
    first = after.astimezone(ZoneInfo(zone)).date() - timedelta(days=1)
    for number in range(_MOST_DAYS):
        for span in day_spans(zone, first + timedelta(days=number), hours):
            if span.closes > after:
                yield span


def _intersection(some: Iterator[Span], others: Iterator[Span]) -> Iterator[Span]:
    one, other = next(some, None), next(others, None)
    while one is not None and other is not None:
        common = Span(max(one.opens, other.opens), min(one.closes, other.closes))
        if common.opens < common.closes:
            yield common
        if one.closes <= other.closes:
            one = next(some, None)
        else:
            other = next(others, None)


def next_opening(hours: Hours, zones: Iterable[str], at: datetime) -> Span | None:
    """The first time at or after `at` when something may be released, and the end of that day's hours.

    None: not within a year.
    """
    for span in openings(hours, zones, at):
        if span.closes - max(span.opens, at) >= LEAST_LEFT:
            return Span(max(span.opens, at), span.closes)
    return None


def has_common_hours(hours: Hours, zones: Iterable[str], at: datetime) -> bool:
    """Whether in the week from `at` on, the hours are once open in all zones at once for `LEAST_HOURS`."""
    week = takewhile(lambda span: span.opens < at + _WEEK, openings(hours, zones, at - timedelta(days=1)))
    return any(span.closes - span.opens >= LEAST_HOURS for span in week)


def was_open_for(hours: Hours | None, zones: Iterable[str], since: datetime, now: datetime, least: timedelta) -> bool:
    """Whether between two moments the hours were open for so long in all. Without hours, they always are."""
    if now - since < least:
        return False
    if hours is None:
        return True
    total = timedelta()
    for span in takewhile(lambda span: span.opens < now, openings(hours, zones, since)):
        # The end of the hours that is too short for a slice does not count.
        total += max(min(span.closes - LEAST_LEFT, now) - max(span.opens, since), timedelta())
        if total >= least:
            return True
    return False


# Pace ---------------------------------------------------------------------------------------------------------------


class Released(NamedTuple):
    at: datetime
    calls: int


def slice_rows(calls_per_minute: int | None, submission_rows: int) -> int:
    """Most rows of a submission: small slices keep the pace even, and the rests of many zones cheap."""
    if calls_per_minute is None:
        return submission_rows
    return min(submission_rows, max(1, calls_per_minute // SLICES_PER_MINUTE))


def room_at(recent: Iterable[Released], calls: int, calls_per_minute: int, now: datetime) -> datetime:
    """When this many calls, at most `calls_per_minute`, can be released: now, or once enough of the recent ones are
    older than `WINDOW`. A release with a time in the future was made before the clock was put back: it does not count.
    """
    counted = sorted(each for each in recent if now - WINDOW < each.at <= now)
    total = calls + sum(each.calls for each in counted)
    moment = now
    for each in counted:
        if total <= calls_per_minute:
            break
        total -= each.calls
        moment = each.at + WINDOW
    return moment


def gate_after(gate: datetime | None, calls: int, calls_per_minute: int, now: datetime) -> datetime:
    """When the release after this one may come; `gate`: when this one was allowed to."""
    return max(gate or now, now - CREDIT) + calls * WINDOW / calls_per_minute


# The decision -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gates:
    """What decides when a batch's submissions are released, besides pause and provider, which close all of it.

    `next_release_at`: the pace's gate. `last_release_at`: if it is later than now, the clock was put back, and the gate
    means nothing. `is_gated`: the release waits for a later start. Otherwise the request is sent at once, and names the
    start.
    """

    start_at: datetime | None = None
    end_at: datetime | None = None
    hours: Hours | None = None
    calls_per_minute: int | None = None
    next_release_at: datetime | None = None
    last_release_at: datetime | None = None

    @property
    def is_gated(self) -> bool:
        return self.hours is not None or self.calls_per_minute is not None

    def pace_opens_at(self, now: datetime) -> datetime:
        gate = self.next_release_at
        stepped = self.last_release_at is not None and self.last_release_at > now
        return now if self.calls_per_minute is None or gate is None or stepped else gate


@dataclass(frozen=True, slots=True)
class Terms:
    """What a batch's gates are made of, as its columns."""

    start_at: datetime | None
    end_at: datetime | None
    calls_per_minute: int | None
    opens_minute: int | None
    closes_minute: int | None
    calling_days: int | None
    next_release_at: datetime | None
    last_release_at: datetime | None

    @property
    def hours(self) -> Hours | None:
        if self.opens_minute is None or self.closes_minute is None:
            return None
        return Hours(self.opens_minute, self.closes_minute, self.calling_days or EVERY_DAY)

    @property
    def gates(self) -> Gates:
        pace = (self.calls_per_minute, self.next_release_at, self.last_release_at)
        return Gates(self.start_at, self.end_at, self.hours, *pace)


TERMS = ", ".join(f"b.{each.name}" for each in fields(Terms))
"""SQL: the columns of `Terms`, of batch `b`."""


class Release(NamedTuple):
    """Release it now. `start_at`, `end_at`: the window in the request. `next_release_at`: the batch's gate after it."""

    start_at: datetime | None
    end_at: datetime | None
    next_release_at: datetime | None


class Wait(NamedTuple):
    """Do not release it before `until`. `whole_batch`: nor anything else of the batch, because of the pace. Otherwise
    this holds for all submissions with the same zones.
    """

    until: datetime
    whole_batch: bool = False


class Refuse(NamedTuple):
    """Never release it. `next_release_at`: the batch's gate afterwards, so that each later submission has its own
    hour.
    """

    code: RefusalCode
    next_release_at: datetime | None = None


def earliest(gates: Gates, zones: Sequence[str], now: datetime) -> Span | None:
    """The first time when something of these zones can be released, pace aside, and when that ends. None: never.

    `zones`: those of the numbers, if the batch has hours.
    """
    at = max(now, gates.start_at) if gates.start_at is not None and gates.is_gated else now
    span: Span | None = Span(at, gates.end_at or _NEVER)
    if gates.hours is not None and (span := next_opening(gates.hours, zones, at)) is not None:
        span = Span(span.opens, min(span.closes, gates.end_at or _NEVER))
    return span if span is not None and span.opens < span.closes else None


def decide(
    gates: Gates,
    zones: Sequence[str],
    calls: int,
    *,
    waits_since: datetime,
    tried_at: datetime | None = None,
    recent: Iterable[Released],
    now: datetime,
) -> Release | Wait | Refuse:
    """What to do with a submission that is next.

    `waits_since`: since when nothing but hours and pace was in its way. `tried_at`: when it was first tried in vain.
    `recent`: the batch's releases in the last `WINDOW`, or more.
    """
    if gates.end_at is not None and gates.end_at <= now:
        return Refuse("window_over")
    span = earliest(gates, zones, now)
    if span is None or span.opens > now:
        return Wait(min(span.opens if span is not None else now + _WEEK, gates.end_at or _NEVER))
    pace, gate = gates.calls_per_minute, gates.pace_opens_at(now)
    if gates.end_at is None:
        # An untried submission could be sent only after the release before it, once the pace allowed it.
        paced_at = gate if pace is not None and gate < now else waits_since
        since = max(waits_since, tried_at or max(gates.last_release_at or waits_since, paced_at))
        if was_open_for(gates.hours, zones, since, now, GIVE_UP):
            return Refuse("not_sent_in_time", None if pace is None else since + calls * WINDOW / pace)
    following = None
    if pace is not None:
        opens_at = max(gate, room_at(recent, calls, pace, now))
        if opens_at > now:
            return Wait(opens_at, whole_batch=True)
        following = gate_after(gate, calls, pace, now)
    if gates.hours is None:
        return Release(gates.start_at, gates.end_at, following)
    return Release(now.replace(microsecond=0), span.closes, following)


def due_at(
    start_at: datetime | None, end_at: datetime | None, retries: timedelta, released_at: datetime, grace: timedelta
) -> datetime:
    """When a call without a result is overdue: past its last possible attempt, and a grace.

    `start_at`, `end_at`: the window in the request. `retries`: how long all waits between attempts take.
    """
    if end_at is not None:
        return end_at + grace
    return max(released_at, start_at or released_at) + FULL_DAY + retries + grace


def estimate_last_release(gates: Gates, calls_of: Mapping[tuple[str, ...], int], now: datetime) -> datetime:
    """About when the last of so many calls of each set of zones is released: what opens first goes first."""
    left, at = dict(calls_of), now
    for _ in range(_MOST_DAYS):
        found = [(span, zones) for zones in left if (span := earliest(gates, zones, at)) is not None]
        if not found:
            break
        span, zones = min(found)
        at = span.opens
        if gates.calls_per_minute is None:
            del left[zones]
            continue
        takes = left[zones] * WINDOW / gates.calls_per_minute
        usable = span.closes - (LEAST_LEFT if gates.hours is not None else timedelta()) - at
        if takes <= usable:
            del left[zones]
            at += takes
        else:
            left[zones] -= int(usable * gates.calls_per_minute / WINDOW)
            at += usable + timedelta(seconds=1)
    return at


def estimate_due_at(
    gates: Gates, calls_of: Mapping[tuple[str, ...], int], retries: timedelta, now: datetime, grace: timedelta
) -> datetime:
    """About when the last calls of a batch that is queued now are overdue; exact if nothing holds it back."""
    last = estimate_last_release(gates, calls_of, now) if gates.is_gated else now
    ends = [span.closes for zones in calls_of if gates.hours and (span := earliest(gates, zones, last)) is not None]
    moment = due_at(gates.start_at, max(ends, default=gates.end_at), retries, last, grace)
    return moment.replace(microsecond=0) + timedelta(seconds=moment.microsecond > 0)
