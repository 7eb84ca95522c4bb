"""A year of the service in a minute: `python -m tests.acceptance.simulated_year FOLDER SEED`.

The clock of this process and of its Postgres is shifted (shifted_clock.c) from hour to hour. The steps are those of the
web process and the worker, on a real database. The provider does what its documentation allows: it loses answers,
refuses, sends results twice, late, in any order and in several formats, corrects one, or never sends it. Processes die
at any step, the database is away or restarts, clocks are set, and in the second month release 1.0.0 is upgraded.

After each step the balance must hold. In the end each call has the result in the provider's ledger: in the database,
in the feed, and at the endpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from io import BytesIO
from itertools import count
from pathlib import Path
from random import Random
from uuid import uuid4

from receiver.changes.feed import give_positions
from receiver.changes.slots import rotate
from receiver.database.migrations import MIGRATIONS, migrate
from receiver.database.pool import Connection, connect, open_pool
from receiver.errors import ReceiverError
from receiver.intake.draining import drain_some
from receiver.intake.journal import Callback, Group, write_group
from receiver.intake.spool import Spool
from receiver.model import OUTCOMES, SubmissionKey
from receiver.queueing.acceptance import Limits, accept
from receiver.queueing.follow_ups import FollowUp, NothingToFollowUp, follow_up_parameters
from receiver.queueing.parameters import BatchParameters
from receiver.queueing.suppressions import suppress
from receiver.relay.bodies import make_bodies
from receiver.relay.queue import Outcome, get_target, list_due, record_outcomes
from receiver.relay.sending import Attempt
from receiver.release.claim import Outgoing, claim_submission
from receiver.release.control import cancel_batch, pause_batch, resume_batch
from receiver.release.presence import register_worker
from receiver.release.recording import record_answer
from receiver.release.resolution import NotInDoubt, resolve_submission
from receiver.release.sender import abandon_submissions, accept_proven_lately
from receiver.results.overdue import mark_overdue
from receiver.results.replay import replay_all
from receiver.results.retention import purge
from receiver.results.settler import Settler
from receiver.summary.feed import Place, get_start, list_entries
from receiver.summary.verify import verify
from tests.acceptance.postgres import Postgres
from tests.changes.owed import make_endpoint
from tests.factories import ACCEPTED, NOON, REFUSED, UNKNOWN, call_fields, phone_number, result_body
from tests.queueing.queueing import NOT_SENT
from tests.release.test_upgrade import OLD_ANSWER, OLD_CLAIM, OLD_SETTLEMENT, insert_batch
from tests.results.reading.samples import renderings

SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
YEAR, UPGRADED_AFTER, PURGED_AFTER = 365 * DAY, 40 * DAY, 200 * DAY
NUMBERS = 60
LAST_OF_1_0_0 = 6
"""The number of its last migration."""

Call = tuple[int, int]
"""(batch_id, row)"""


class Clock:
    def __init__(self) -> None:
        self._file = Path(os.environ["CLOCK_OFFSET"]).open("r+b", buffering=0)
        self._offset = 0.0

    def move(self, by: timedelta) -> None:
        self._offset += by.total_seconds()
        self._file.seek(0)
        self._file.write(struct.pack("=q", int(self._offset)))


class Provider:
    """`ledger`: the final status of each call for which a result was or will be posted."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._order = count()
        self._due: list[tuple[datetime, int, Callback]] = []
        self.has: set[SubmissionKey] = set()
        self.ledger: dict[Call, str] = {}

    def take(self, key: SubmissionKey, calls: dict[int, int]) -> None:
        """Take a submission: row to number. Nobody may be called twice."""
        assert key not in self.has, f"{key} was sent twice"
        self.has.add(key)
        for row, number in calls.items():
            self._call(key, row, number)

    def due(self, now: datetime) -> Iterator[Callback]:
        while self._due and self._due[0][0] <= now:
            yield heappop(self._due)[2]

    def _call(self, key: SubmissionKey, row: int, number: int) -> None:
        random = self._random
        ended = datetime.now(UTC) + random.random() * 20 * HOUR
        statuses = ["dialing"] * (random.random() < 0.1) + [random.choice(("completed", "failed", "canceled"))]
        if random.random() < 0.05:
            statuses.append("completed" if statuses[-1] == "failed" else "failed")  # it was dialed again
        if random.random() < 0.03:
            return  # it is never told
        for place, status in enumerate(statuses):
            at = ended + place * HOUR
            fields = call_fields(number, status, last_event=int((at - NOON).total_seconds()))
            body = random.choice(list(renderings(fields).values()))
            for _ in range(random.choice((1, 1, 1, 2))):
                told = at + random.random() * random.choice((SECOND, HOUR, 4 * DAY))
                heappush(self._due, (told, next(self._order), Callback(key, told, "application/json", "", body)))
        self.ledger[key.batch_id, row] = statuses[-1]


class World:
    def __init__(self, folder: Path, seed: int) -> None:
        self.random = Random(seed)
        self.folder = folder
        self.clock, self.provider = Clock(), Provider(self.random)
        environment = {name: os.environ[name] for name in ("LD_PRELOAD", "CLOCK_OFFSET")}
        self.postgres = Postgres(folder, {"deadlock_timeout": "20ms"}, environment)
        self.spool = Spool(folder / "spool.sqlite3", 1 << 26)
        self.endpoint = 0
        self.worker_id = 0
        self.told: dict[Call, str | None] = {}
        """What the endpoint was told last of each call."""
        self.fed: dict[Call, str | None] = {}
        self.place: Place | None = None
        self.seen: Counter[str] = Counter()

    # The first weeks, with release 1.0.0 ----------------------------------------------------------

    def run_old_release(self, conn: Connection) -> None:
        """It queues, sends and settles. Most results come after the upgrade."""
        for number in range(12):
            self.clock.move(UPGRADED_AFTER / 12)
            batch_id = insert_batch(conn, "queued", ["accepted", "accepted"])
            if number % 3 == 0:
                conn.execute(OLD_SETTLEMENT, (batch_id,))
                body = result_body(16175550001, "failed")
                conn.execute("update callback set body = %s where batch_id = %s", (body, batch_id))
                self.provider.ledger[batch_id, 1] = "failed"
            for submission_no in (1, 2):
                rows = [row for row in (2 * submission_no - 1, 2 * submission_no) if (batch_id, row) not in
                        self.provider.ledger]  # fmt: skip
                key = SubmissionKey(batch_id, submission_no)
                self.provider.take(key, {row: 16175550000 + row for row in rows})
            conn.commit()
        waiting = insert_batch(conn, "queueing", ["accepted", "pending"])
        conn.execute(OLD_CLAIM, (waiting, 2))
        conn.execute(OLD_ANSWER, (waiting, 2))
        conn.execute("update batch set state = 'queued', queued_at = now() where batch_id = %s", (waiting,))
        for submission_no in (1, 2):
            first = 2 * submission_no - 1
            self.provider.take(
                SubmissionKey(waiting, submission_no), {row: 16175550000 + row for row in (first, first + 1)}
            )
        conn.commit()

    # A step of the service -----------------------------------------------------------------------

    def step(self, conn: Connection) -> None:
        chance = self.random.random
        if chance() < 0.08:
            self._do("queue", lambda: self._queue(conn), conn)
        if chance() < 0.05:
            self._do("follow up", lambda: self._follow_up(conn), conn)
        if chance() < 0.1:
            self._do("people", lambda: self._people(conn), conn)
        for _ in range(4):
            if not self._release(conn):
                break
        self._receive(conn)
        settler = Settler(self._pool)
        while settler.settle_group():
            self.seen["groups settled"] += 1
        mark_overdue(conn)
        conn.commit()
        if chance() < 0.3:
            abandon_submissions(conn, self.worker_id)
            conn.commit()
            accept_proven_lately(conn)
            conn.commit()
            rotate(conn)
            conn.commit()
        if chance() < 0.02:
            for _ in replay_all(conn, by="Ana"):
                self.seen["replays"] += 1
        while give_positions(conn):
            conn.commit()
        conn.commit()
        self._deliver(conn)
        self._follow_feed(conn)

    def _do(self, name: str, action: object, conn: Connection) -> None:
        try:
            action()  # type: ignore[operator]
            if self.random.random() < 0.05:
                conn.rollback()  # the process is killed before its commit
                self.seen[f"{name}, killed"] += 1
            else:
                conn.commit()
                self.seen[name] += 1
        except (NotInDoubt, NothingToFollowUp, ReceiverError):
            conn.rollback()

    def _queue(self, conn: Connection) -> None:
        chance, now = self.random, datetime.now(UTC)
        numbers = chance.sample(range(NUMBERS), chance.randrange(1, 12))
        csv = "destination,name\n" + "".join(f"{phone_number(index)},Ana\n" for index in numbers)
        hours = chance.choice((None, None, (8 * 60, 20 * 60), (0, 1440)))
        given = BatchParameters(
            7,
            3,
            calls_per_minute=chance.choice((None, None, 1, 600)),
            calling_hours=hours,
            time_zone=chance.choice(("America/New_York", "Europe/Berlin", "Australia/Lord_Howe")) if hours else None,
            end_timestamp=chance.choice((None, now.replace(microsecond=0) + chance.random() * 5 * DAY)),
            max_attempts=chance.choice((None, 3)),
            reattempt_wait=300,
            on_recent=chance.choice(("allow", "skip")),
            on_invalid="skip",
        )
        accept(conn, BytesIO(csv.encode()), given, Limits(chance.choice((3, 10_000)), 3600, False))

    def _follow_up(self, conn: Connection) -> None:
        wanted = FollowUp(self._any_batch(conn), include=("overdue",) if self.random.random() < 0.2 else ())
        given = follow_up_parameters(conn, wanted.batch_id, {"end_timestamp": None, "external_id": None})
        accept(conn, wanted, given, Limits(3, 3600, False))

    def _any_batch(self, conn: Connection) -> int:
        ids = [id_ for (id_,) in conn.execute("select batch_id from batch where simulated = false order by 1")]
        return int(self.random.choice(ids[-12:] or [0]))

    def _people(self, conn: Connection) -> None:
        batch_id = self._any_batch(conn)
        match self.random.choice(("pause", "resume", "resume", "cancel", "suppress", "resolve", "resolve")):
            case "pause":
                pause_batch(conn, batch_id, by="Ana")
            case "resume":
                for (paused,) in conn.execute("select batch_id from batch where paused_at is not null").fetchall():
                    resume_batch(conn, paused, by="Ana")
            case "cancel":
                cancel_batch(conn, batch_id, by="Ana")
            case "suppress":
                suppress(conn, phone_number(self.random.randrange(NUMBERS)), by="Ana")
            case "resolve":
                for key in conn.execute("select batch_id, submission_no from submission where state = 'unknown'"):
                    queued = SubmissionKey(*key) in self.provider.has
                    with contextlib.suppress(NotInDoubt):
                        resolve_submission(conn, *key, queued=queued, note="asked the provider", by="Ana")

    def _release(self, conn: Connection) -> bool:
        outgoing = claim_submission(conn, self.worker_id)
        if self.random.random() < 0.02:
            conn.rollback()
            return False
        conn.commit()
        if outgoing is None:
            return False
        chance = self.random.random()
        if chance < 0.9:
            self.provider.take(SubmissionKey(outgoing.batch_id, outgoing.submission_no), _calls_of(conn, outgoing))
        if chance < 0.03 or 0.97 < chance:
            # The worker is killed; the next one has another id.
            self.seen["workers killed"] += 1
            self._register(conn)
            return False
        answer = ACCEPTED if chance < 0.85 else UNKNOWN if chance < 0.92 else REFUSED if chance < 0.94 else NOT_SENT
        record_answer(conn, outgoing, answer)
        conn.commit()
        self.seen[f"answered {answer.state}"] += 1
        return True

    def _register(self, conn: Connection) -> None:
        conn.execute("select pg_advisory_unlock_all()")
        self.worker_id = register_worker(conn, "test", 1)
        conn.commit()

    def _receive(self, conn: Connection) -> None:
        now, is_away = datetime.now(UTC), self.random.random() < 0.1
        due = list(self.provider.due(now))
        self.random.shuffle(due)
        for callback in due:
            group = Group(uuid4(), 1, (callback,))
            if is_away or self.random.random() < 0.02:
                self.spool.append(group)  # perhaps also stored, because the answer to the commit was lost
                self.seen["spooled"] += 1
            if not is_away:
                write_group(conn, group)
                conn.commit()
            self.seen["received"] += 1
        if not is_away:
            while drain_some(conn, self.spool):
                conn.commit()

    def _deliver(self, conn: Connection) -> None:
        for _ in range(3):
            due = list_due(conn, self.endpoint, 64, ())
            if get_target(conn, self.endpoint) is None or not due:
                break
            bodies = make_bodies(conn, due)
            conn.commit()
            outcomes = []
            for owed in due:
                body = bodies.get(owed.id)
                error = "no" if self.random.random() < 0.1 else None
                if body is not None and error is None and owed.event == "call.result":
                    call = json.loads(body)["data"]
                    self.told[call["batch_id"], call["row"]] = call["provider_status"]
                outcomes.append(Outcome(owed, (body and Attempt(datetime.now(UTC), 200, 0, error)) or None))
            if self.random.random() < 0.05:
                continue  # killed after its requests; they are made again
            record_outcomes(conn, self.endpoint, outcomes)
            conn.commit()
            self.seen["delivered"] += len(outcomes)
        conn.commit()

    def _follow_feed(self, conn: Connection) -> None:
        place = self.place or get_start(conn, now=False)
        while True:
            page = list_entries(conn, place, 500)
            for entry in page.entries:
                call = json.loads(entry.call.json())
                self.fed[call["batch_id"], call["row"]] = call["provider_status"]
            place = page.end
            if not page.more:
                break
        self.place = place
        conn.commit()

    # What must be true ---------------------------------------------------------------------------

    def check(self, conn: Connection, *, everything: bool = False) -> None:
        broken = conn.execute(_UNBALANCED).fetchall()
        conn.commit()
        assert broken == [], broken
        if everything:
            found = list(verify(conn))
            conn.commit()
            assert found == [], found

    def check_results(self, conn: Connection, before: datetime) -> None:
        """The calls of batches queued before this time: the results are the provider's, everywhere."""
        stored: dict[Call, str | None] = {
            (batch_id, row): status
            for batch_id, row, status in conn.execute(
                "select c.batch_id, c.row, r.provider_status from call c join batch b using (batch_id)"
                " left join result r using (batch_id, row) where b.created_at < %s",
                (before,),
            )
        }
        conn.commit()
        for call, status in stored.items():
            expected = self.provider.ledger.get(call)
            assert status == expected, (call, status, expected)
            is_of_old_release = call not in self.told and call not in self.fed
            assert is_of_old_release or self.told.get(call) == self.fed.get(call) == expected, (call, expected)
        self.seen["calls compared"] += len(stored)

    # The year ------------------------------------------------------------------------------------

    def run(self) -> None:
        old = self.folder / "migrations-of-1.0.0"
        old.mkdir()
        for path in sorted(MIGRATIONS.glob("*.sql")):
            if int(path.name[:4]) <= LAST_OF_1_0_0:
                (old / path.name).write_bytes(path.read_bytes())
        with self.postgres:
            migrate(self.postgres.url, old)
            with self._connected(old=True) as conn:
                self.run_old_release(conn)
            migrate(self.postgres.url)
            with self._connected() as conn:
                conn.execute("update batch set simulated = false")
                self.endpoint = make_endpoint(conn)
                self.check(conn, everything=True)
            until = datetime.now(UTC) + YEAR - UPGRADED_AFTER
            while datetime.now(UTC) < until:
                self._run_until_restart(until)
            with self._connected() as conn:
                self._finish(conn)
        print(json.dumps(dict(sorted(self.seen.items()))))

    def _run_until_restart(self, until: datetime) -> None:
        with self._connected() as conn:
            while datetime.now(UTC) < until:
                self.clock.move(self.random.choice((1, 3, 6, 12)) * HOUR)
                if self.random.random() < 0.02:
                    self.clock.move(self.random.choice((-1, 1)) * self.random.choice((20 * SECOND, HOUR)))
                    self.seen["clock set"] += 1
                self.step(conn)
                self.check(conn, everything=self.random.random() < 0.02)
                if self.random.random() < 0.02:
                    self._purge(conn)
                if self.random.random() < 0.01:
                    break
        self.postgres.stop("immediate")
        self.postgres.start()
        self.seen["database restarted"] += 1

    def _purge(self, conn: Connection) -> None:
        self.check_results(conn, datetime.now(UTC) - PURGED_AFTER)
        for removed in purge(conn, PURGED_AFTER, by="Ana"):
            conn.commit()
            self.seen["batches purged"] += removed.ended
        conn.commit()

    def _finish(self, conn: Connection) -> None:
        """Nothing new; a fortnight until everything has come and was told."""
        for (batch_id,) in conn.execute("select batch_id from batch where state = 'queueing'").fetchall():
            cancel_batch(conn, batch_id, by="Ana")
        conn.commit()
        for _ in range(56):
            self.clock.move(6 * HOUR)
            self._receive(conn)
            settler = Settler(self._pool)
            while settler.settle_group():
                pass
            while give_positions(conn):
                conn.commit()
            conn.commit()
            self._deliver(conn)
            self._follow_feed(conn)
        accept_proven_lately(conn)
        conn.commit()
        self.check(conn, everything=True)
        self.check_results(conn, datetime.now(UTC))

    @contextlib.contextmanager
    def _connected(self, *, old: bool = False) -> Iterator[Connection]:
        with contextlib.closing(connect(self.postgres.url, name="year")) as conn:
            with contextlib.closing(open_pool(self.postgres.url, max_size=3, name="settler")) as self._pool:
                if not old:
                    self._register(conn)
                yield conn
                conn.commit()


def _calls_of(conn: Connection, outgoing: Outgoing) -> dict[int, int]:
    found = conn.execute(
        "select row, phone_number from call c where batch_id = %s and submission_no = %s and phone_number > 0"
        " and not exists (select from withdrawn w where w.batch_id = c.batch_id and w.row = c.row)",
        (outgoing.batch_id, outgoing.submission_no),
    ).fetchall()
    conn.commit()
    return dict(found)


_FINAL = " + ".join(OUTCOMES)
_OUTSIDE = f"rows - skipped - refused - withdrawn - overdue - ({_FINAL}) < 0"
_UNBALANCED = (
    f"select batch_id from batch_total where {_OUTSIDE} or"  # noqa: S608 names of ours
    " least(skipped, refused, withdrawn, overdue, applied, duplicate, conflict, unmatched, unreadable) < 0"
    " union all select batch_id from batch_total c where applied + duplicate + conflict + unmatched + unreadable"
    " + (select count(*) from waiting w where w.batch_id = c.batch_id)"
    " <> (select count(*) from callback k where k.batch_id = c.batch_id and not polled)"
    " and not exists (select from purge p where p.batch_id = c.batch_id)"
)

if __name__ == "__main__":
    World(Path(sys.argv[1]), int(sys.argv[2])).run()
