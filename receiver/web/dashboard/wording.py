"""Sentences of the dashboards. These are pure functions, so tests cover every singular and plural.

Numbers have commas between thousands, and nouns have the correct singular or plural.
"""

from __future__ import annotations

from collections.abc import Mapping

from receiver.model import OUTCOMES
from receiver.results.decision import OTHER_RESULT_WINS, SAME_RESULT, STEP_SUPERSEDED
from receiver.results.reading.unreadable import REASONS as UNREADABLE_REASONS
from receiver.results.settlement import NUMBER_NOT_IN_SUBMISSION, SETTLING_FAILED, UNKNOWN_BATCH


def number(count: int) -> str:
    """1234567 as `1,234,567`."""
    return f"{count:,}"


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 call`, `2 calls`; `many`: an irregular plural."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def percent(part: int, whole: int) -> str:
    """A share. It is only 0% or 100% if that is exact."""
    if whole <= 0:
        return "–"  # noqa: RUF001 a dash: without a whole there is no share
    if part <= 0:
        return "0%"
    if part >= whole:
        return "100%"
    share = 100 * part / whole
    if share < 1:
        return "under 1%"
    return "over 99%" if share > 99 else f"{share:.0f}%"


def duration(seconds: float) -> str:
    """The two largest units: `45 s`, `1 min 19 s`, `2 h 5 min`, `3 d 4 h`."""
    whole = max(round(seconds), 0)
    for size, unit, smaller, smaller_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size:,} {unit}" + (f" {rest} {smaller_unit}" if rest else "")
    return f"{whole} s"


def balance_sentence(counts: Mapping[str, int]) -> str:
    """A batch's counts as one sentence: `1,000 rows: 5 skipped, 995 calls, 932 ended, 63 pending.`

    Zeros are left out, except if no call has ended yet.
    """
    calls = counts["rows"] - counts["skipped"]
    parts = [*_named(counts, "skipped"), counted(calls, "call"), *_named(counts, "refused", "withdrawn")]
    if calls > counts["refused"] + counts["withdrawn"]:
        parts.append(f"{number(counts['final'])} ended" if counts["final"] else "none ended yet")
    parts += _named(counts, "pending", "overdue")
    return f"{counted(counts['rows'], 'row')}: {', '.join(parts)}."


def _named(counts: Mapping[str, int], *names: str) -> list[str]:
    """`12 pending` for each of these counts that is not zero."""
    return [f"{number(counts[name])} {name}" for name in names if counts[name]]


def title(name: str, batch_id: int, phase: str, state: str, counts: Mapping[str, int]) -> str:
    """A batch's state and name for the title of its page: `61% · December reminders`."""
    callable_rows = counts["rows"] - counts["skipped"] - counts["refused"] - counts["withdrawn"]
    said = percent(counts["final"], callable_rows) if phase in ("releasing", "calling") else phase.capitalize()
    if state in ("canceled", "refused", "unknown") and phase in ("calling", "overdue", "ended"):
        said = state.capitalize()
    return f"{said} · {name.strip() or f'Batch {batch_id}'}"


MEANINGS = {
    "completed": "The call was answered.",
    "failed": "The provider called, but reached nobody: for example, nobody answered, or the line was busy.",
    "canceled": "The call was canceled at the provider.",
    "rejected": "The provider queued the call, but the person or the phone network declined it.",
    "other": "The provider reported a final status that its documentation does not list.",
    "pending": "The call has no result yet. It waits for its release, or is at the provider.",
    "overdue": "No result was received in time. A late result is still recorded.",
    "refused": "The provider did not accept the submission with this call, or it could not be sent in time. Nobody was"
    " called.",
    "withdrawn": "The call was not sent and will not be sent: its batch was canceled, its number was suppressed, or its"
    " earlier call was answered in the meantime. Nobody was called.",
    "skipped": "The row was left out when the batch was queued: it is invalid or repeats a number, or its number is"
    " suppressed or was queued recently.",
}
"""What became of a row, in the order of the figures on a batch's page."""


def withdrawn_sentence(reason: str | None) -> str:
    """Why a call is withdrawn (contract: `withdrawn_reason`)."""
    return {
        "canceled": "The batch was canceled before this call was sent.",
        "suppressed": "The number was suppressed before this call was sent.",
        "answered": "The earlier call that this one follows up was completed before this call was sent.",
    }.get(reason or "", "This call was withdrawn before it was sent.")


def hours_sentence(hours: str, days: str | None) -> str:
    """`09:00-20:00, Mon, Tue, Wed`, of the API's texts."""
    named = [day.capitalize() for day in days.split(",")] if days else []
    return f"{hours}, {', '.join(named) if 0 < len(named) < 7 else 'every day'}"


def zone_sentence(time_zone: str | None, column: str | None = None) -> str:
    """Whose local time the calling hours are in."""
    zones = time_zone or "the time zones of each number"
    return f"in the zone of the column “{column}”, else in {zones}" if column else f"in {zones}"


def outcomes_sentence(counts: Mapping[str, int]) -> str:
    """`932 ended: 800 completed, 100 failed, 32 canceled.` Zeros are left out."""
    if not counts["final"]:
        return "No call has ended yet."
    return f"{number(counts['final'])} ended: {', '.join(_named(counts, *OUTCOMES))}."


def attempts_sentence(attempts: int, final: int) -> str:
    """`1,400 attempts for 932 ended calls, 1.5 per call on average.`"""
    if not final:
        return "No call has ended yet."
    tries, calls = counted(attempts, "attempt"), counted(final, "ended call")
    return (
        f"{tries} for {calls}." if final == 1 else f"{tries} for {calls}, {attempts / final:.1f} per call on average."
    )


def talk_sentence(duration_seconds: int, completed: int) -> str:
    """`12 h 4 min of talk time in 800 completed calls, 54 s each on average.`"""
    if not duration_seconds:
        return "No talk time was reported."
    talk = f"{duration(duration_seconds)} of talk time"
    if not completed:
        return f"{talk}."
    calls = counted(completed, "completed call")
    return (
        f"{talk} in {calls}."
        if completed == 1
        else f"{talk} in {calls}, {duration(duration_seconds / completed)} each on average."
    )


def loss_sentence(rate: float) -> str:
    """`3% of the results were never delivered by callback: …`"""
    share = percent(round(rate * 1_000_000), 1_000_000)
    return f"{share} of the results were never delivered by callback: they are overdue or were fetched."


def callbacks_sentence(callbacks: Mapping[str, int]) -> str:
    """`941 callbacks: 932 applied, 8 duplicates, 1 waiting.` Zeros are left out.

    Steps before the end are applied, too, so there may be fewer results.
    """
    if not callbacks["received"]:
        return "No callback has been received yet."
    parts = _named(callbacks, "applied")
    parts += [counted(callbacks[state], state) for state in ("duplicate", "conflict") if callbacks[state]]
    parts += _named(callbacks, "unmatched", "unreadable", "waiting")
    return f"{counted(callbacks['received'], 'callback')}: {', '.join(parts)}."


def applied_sentence(is_step: bool | None) -> str:
    """What an applied callback means for its call. None: its body is erased."""
    if is_step is None:
        return "It was applied to its call."
    return (
        "It is the latest status of its call. The call has no result yet."
        if is_step
        else "It is the result of its call."
    )


def refusal_advice(provider_status: int | None) -> str:
    """What to do about a refused submission (provider page: Queue multiple calls, the table of statuses)."""
    if provider_status in (401, 403):
        return (
            "This account may not queue calls there. Check PLUM_USER, PLUM_KEY and the account's permissions,"
            " then queue the rows again."
        )
    if provider_status in (404, 409):
        return "The provider has no such application or deployment. Check both numbers, then queue the rows again."
    if provider_status is None:
        return "It never reached the provider. Check PLUM_URL and the network, then queue the rows again."
    return "Correct the problem that the provider reports, then queue the rows again. Nobody was called."


def cancel_sentence(state: str, provider_status: int | None) -> str:
    """The result of a request to cancel a deployment (`receiver.release.deployment_cancel.CancelRequest`)."""
    status = f" (status {provider_status})" if provider_status is not None else ""
    return {
        "waiting": "The provider is asked as soon as no submission of this deployment is being sent.",
        "asking": "The provider is being asked.",
        "accepted": f"The provider accepted it{status}. Calls end as canceled when their results are received.",
        "refused": f"The provider refused it{status}. Calls at the provider continue."
        if status
        else "It did not reach the provider. Calls at the provider continue.",
        "unknown": "Unknown: the provider's answer was lost, so its calls may or may not be canceled. It is not asked"
        " again automatically. Check the provider's account.",
        "sending": "The provider was not asked: a submission was still being sent, or no worker was running. What was"
        " withdrawn stays withdrawn. Calls at the provider continue.",
    }.get(state, state)


UNKNOWN_ADVICE = (
    "It is not known whether the provider queued it. It is not sent again automatically, because that could call"
    " everybody twice. The first callback for one of its calls proves that it was queued. If none arrives, check the"
    " provider's account and resolve it."
)


def submissions_sentence(by_state: Mapping[str, int]) -> str:
    """`100 submissions: 98 accepted, 1 refused, 1 unknown.`"""
    states = [f"{number(count)} {state}" for state, count in by_state.items()]
    return f"{counted(sum(by_state.values()), 'submission')}: {', '.join(states)}." if states else "No submission."


REASONS = {
    **UNREADABLE_REASONS,
    UNKNOWN_BATCH: "Its batch does not exist: it was purged, or the callback belongs to another database.",
    NUMBER_NOT_IN_SUBMISSION: "Its phone number is not in the submission that it was sent to.",
    SETTLING_FAILED: "Settling it failed because of an error in this service; see the log. Replay it after a fix.",
    SAME_RESULT: "It repeats an earlier callback.",
    OTHER_RESULT_WINS: (
        "The call has another result, which wins: its last event is later, its status is documented, or it was received"
        " first."
    ),
    STEP_SUPERSEDED: "It reports a status that is not final, but the call already has a result or a later status.",
    "unreadable_now": "It was readable when it was received, but is not readable now.",
}
"""Why a callback was not applied, by the stable code that is stored with it."""


_UNREADABLE_ADVICE = (
    "The body is the same, and this release cannot read it either. Open a callback to see its body. If the provider has"
    " changed its format, update this service and replay then. A call that gets no other result becomes overdue, and"
    " can be followed up."
)
_REPLAY_ADVICE = {
    UNKNOWN_BATCH: "The batch still does not exist, so there is no call that it could be the result of.",
    NUMBER_NOT_IN_SUBMISSION: (
        "The submission still has no call to this number. Compare the number in the body with the batch's calls: if the"
        " provider spells one of them in another way, report the spelling; else no call of yours is concerned."
    ),
    SETTLING_FAILED: "It failed again. The log names the error; replay after it is corrected.",
    SAME_RESULT: "It is still the same result as that of its call, so nothing is missing.",
    OTHER_RESULT_WINS: (
        "The same rules choose the same winner again. The call's page shows both results. If the provider confirms that"
        " the other one is right, write it into the note when you mark the callback as seen."
    ),
    STEP_SUPERSEDED: "Its call still has a result or a later status, so nothing is missing.",
}


def replay_advice(code: str | None) -> str:
    """Why a replay does not change a callback that was set aside for this reason, and what else to do."""
    return _REPLAY_ADVICE.get(code or "", _UNREADABLE_ADVICE)


def reason_sentence(code: str | None) -> str:
    """The reason in words. An unknown code is shown unchanged."""
    return REASONS.get(code, code.replace("_", " ")) if code else ""
