"""Schedules on disk: those of one process, which outlive it."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from pushd.errors import Unavailable
from pushd.topics.broker import Draft
from pushd.topics.local_schedules import LocalSchedules, StoredSchedule
from pushd.topics.scheduled import Dropped, Schedule, ScheduleState
from pushd.topics.state.broker import StoredBroker
from pushd.topics.state.database import Database, Statement
from pushd.topics.state.writer import Changes

_STOPPED = "the daemon is shutting down"

_INSERT = (
    "INSERT OR REPLACE INTO schedule"
    " (id, topic, data, event, is_json, first, every, count, done)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_UPDATE = "UPDATE schedule SET done = ? WHERE id = ?"
_DELETE = "DELETE FROM schedule WHERE id = ?"
_SELECT = (
    "SELECT id, topic, data, event, is_json, first, every, count, done FROM schedule"
    " ORDER BY number"
)


class StoredSchedules:
    """A ``ScheduleStore`` in memory and on disk.

    That a publication is done is written with the publication itself, so that a restart neither
    repeats nor omits it.

    :param wall: the time of day, in seconds since 1970.
    :param grace: for how many seconds a publication may have been due that is still made.
    """

    durable = True

    def __init__(
        self,
        clock: IReactorTime,
        broker: StoredBroker,
        *,
        wall: Callable[[], float],
        grace: float,
    ) -> None:
        self._local = LocalSchedules(clock, broker, wall=wall, grace=grace, changed=self._note)
        self._broker = broker
        self._writer = broker.writer
        self._stopped = False
        # The schedules that have changed since the last group, and those that are in the database.
        self._changed: dict[str, None] = {}
        self._written: set[str] = set()
        # With "always": those who wait for the next group.
        self._waiting: list[Deferred[None]] = []
        # After those of the broker: a publication and that it is done are in the same group.
        self._writer.sources.append(self._take)
        broker.parts.append(self)

    def load(self, database: Database) -> None:
        """Read the schedules of the last run. Raises StateDamaged if they cannot be read."""
        for id, topic, data, event, is_json, first, every, count, done in database.read(_SELECT):
            draft = Draft(topic, data, event=event, is_json=bool(is_json))
            schedule = Schedule(id=id, draft=draft, delay=0, every=every, count=count)
            self._local.restore(StoredSchedule(schedule, first, done))
            self._written.add(id)

    def forget(self) -> None:
        """Forget what was read: the database is set aside."""
        self._local.forget()
        self._written.clear()

    def start(self, dropped: Callable[[Dropped], None]) -> None:
        """Start to publish what is due, and what became due since the last run."""
        self._local.start(dropped)

    def add(self, schedule: Schedule) -> Deferred[ScheduleState]:
        """Keep a schedule. Raises TooManyScheduled; fails with Unavailable if it can't be written.

        It counts as kept when it is on the disk, or else when it will be there within a second.
        """
        fault = _STOPPED if self._stopped else self._writer.reason
        if fault is not None:
            return fail(Unavailable(fault))
        kept = self._local.add(schedule)
        if not self._broker.holds:
            return kept
        written = self._wait_until_written()
        return written.addCallbacks(lambda _: kept, self._not_written, errbackArgs=(schedule.id,))

    def cancel(self, id: str) -> Deferred[bool]:
        """Remove a schedule; the Deferred fires when it will not be there after a restart.

        If that cannot be written it fails with Unavailable, and is written as soon as possible.
        """
        cancelled = self._local.cancel(id)
        if id not in self._changed or not self._broker.holds:
            return cancelled
        return self._wait_until_written().addCallback(lambda _: cancelled)

    def describe(self, id: str) -> Deferred[ScheduleState | None]:
        """Give the state of a schedule, or None."""
        return self._local.describe(id)

    def all(self) -> Deferred[list[ScheduleState]]:
        """Give the states of all schedules, the oldest first."""
        return self._local.all()

    def stop(self) -> Deferred[list[ScheduleState]]:
        """Stop to publish: all goes on with the next start."""
        self._stopped = True
        self._local.pause()
        return succeed([])

    def _wait_until_written(self) -> Deferred[None]:
        """Wait until all that has changed is in the database."""
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        return waiting

    def _not_written(self, failure: Failure, id: str) -> Failure:
        """Take back a schedule that could not be kept."""
        self._local.cancel(id)
        return failure

    def _note(self, id: str) -> None:
        """Write a schedule with the next group."""
        self._changed[id] = None
        self._writer.wake()

    def _take(self) -> Changes | None:
        """Return what has changed since the last group."""
        if not self._changed or self._broker.delivering:
            return None
        changed, self._changed = list(self._changed), {}
        waiting, self._waiting = self._waiting, []
        statements: list[Statement] = []
        inserted, removed = [], []
        for id in changed:
            known = self._local.find(id)
            if known is None:
                removed.append(id)
                statements.append(Statement(_DELETE, (id,)))
            elif id in self._written:
                statements.append(Statement(_UPDATE, (known.done, id)))
            else:
                inserted.append(id)
                statements.append(_insert(known))

        def written() -> None:
            self._written.update(inserted)
            self._written.difference_update(removed)
            for one in waiting:
                one.callback(None)

        def failed(reason: str) -> None:
            self._changed = dict.fromkeys(changed) | self._changed
            for one in waiting:
                one.errback(Unavailable(reason))

        # With "always" the publications of a group that fails are not made, and the next group has
        # what is true by then. Otherwise they are made, and the same group is tried again.
        return Changes(statements, written, failed if self._broker.holds else None)


def _insert(known: StoredSchedule) -> Statement:
    schedule, draft = known.schedule, known.schedule.draft
    values = (schedule.id, draft.topic, draft.data, draft.event, draft.is_json, known.first)
    return Statement(_INSERT, (*values, schedule.every, schedule.count, known.done))
