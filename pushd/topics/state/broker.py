"""The broker of a single node that keeps its histories on disk as well, with ``--state``.

It is the broker in memory, which records what changes for the writer. They differ in when others
know of a publication:

* ``--state-sync second`` and ``none``: at once, as in memory; it is written soon. What may be lost
  then, and who has to be told, is found out by ``recovery``.
* ``--state-sync always``: once it is on the disk. So whatever a publisher or a subscriber knows of
  is there. Publications wait for the group that is being written, and are then written together:
  their ids are known, as nothing else is published meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from twisted.internet.defer import Deferred, FirstError, fail, gatherResults, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.errors import StateDamaged, Unavailable
from pushd.topics.broker import KEY_TTL, SLICE, Draft, MemoryBroker
from pushd.topics.history import History
from pushd.topics.publication import Id, Publication, size_of
from pushd.topics.state.activity_log import (
    SIZE,
    Activity,
    ActivityLog,
    read_activity,
    remove_activity,
)
from pushd.topics.state.changes import HistoryChanges, insert_all, insert_publications, topic_row
from pushd.topics.state.database import Database, Statement
from pushd.topics.state.recovery import LastRun, Losses, Recovery, find_losses, read_last_run
from pushd.topics.state.writer import Changes, Writer

_log = Logger(namespace="pushd.topics")

# How many publications may be delivered that are not written, at most: the activity log has to know
# them all.
_MAX_UNWRITTEN = SIZE // 2

_STOPPED = "the daemon is shutting down"


@dataclass(frozen=True, kw_only=True)
class StateDependencies:
    """What a broker needs to keep its state.

    :param wall: the time of day, in seconds since 1970.
    :param make_name: returns a new random name, for an epoch, a generation or a run.
    :param log_folders: where the activity log may be; see ``find_memory``.
    """

    database: Database
    writer: Writer
    wall: Callable[[], float]
    make_name: Callable[[], str]
    log_folders: Sequence[Path] = ()


class StoredPart(Protocol):
    """Something else that is kept in the database of a broker."""

    def load(self, database: Database) -> None:
        """Read what the last run has left. Raises StateDamaged if that is impossible."""

    def forget(self) -> None:
        """Forget what was read: the database is set aside."""


class StoredBroker(MemoryBroker):
    """Broker of a single process, which keeps all publications in memory and on disk."""

    def __init__(
        self, clock: IReactorTime, history: History, dependencies: StateDependencies
    ) -> None:
        super().__init__(clock, history)
        self._state = dependencies
        #: Writes to the database.
        self.writer = dependencies.writer
        #: What else is restored when this is opened.
        self.parts: list[StoredPart] = []
        self._database = dependencies.database
        self._holds = dependencies.database.sync == "always"
        self._stopped = False
        # The name of the run, once it has begun.
        self._run = ""
        self._log = ActivityLog("", ())
        self._changes = HistoryChanges(history, dependencies.wall, self._log, self.writer.wake)
        # With "always": publications that wait for the next group, those that were written and are
        # delivered now, and all of them that have a key.
        self._queue: list[_Held] = []
        self._written: deque[_Held] = deque()
        self._held_keys: dict[tuple[str, str], _Held] = {}
        self.writer.sources += [self._take_changes, self._take_held]

    def open(self) -> None:
        """Open the database, and restore what is in it. Raises StateUnusable."""
        self._database.open()
        began = self._clock.seconds()
        last: LastRun | None = None
        try:
            last = read_last_run(self._database)
            recovery = self._restore(last)
        except StateDamaged as damage:
            self._forget_all()
            for part in self.parts:
                part.forget()
            self._log.remove()
            self._database.set_aside(str(damage))
            last, recovery = None, self._restore(None)
        if recovery is not None:
            _log.info(
                "{publications} publications of {topics} topics restored from --state {directory} "
                "in {seconds:.1f} s",
                event="state_restored",
                publications=recovery.publications,
                topics=len(self._history),
                directory=str(self._database.directory),
                seconds=self._clock.seconds() - began,
            )
            recovery.log_losses()
        numbers = (self.generation, self._history.sequence, self._history.floor)
        row = (1, *numbers, self._run, self._database.sync, False)
        begun = self.writer.submit(list(insert_all("daemon", [row])))
        if last is not None:
            begun.addCallback(lambda _: self._remove_activity(last.run))
        self.writer.start()
        if not (self._holds or self._log.outlives_process):
            _log.warn(
                "no folder in memory for the activity log (docs/operations.md): if the daemon is "
                "killed, all topics begin a new epoch",
                event="state_no_log",
            )

    def fault(self) -> str | None:
        """Return why publishing is impossible at the moment; None if it is possible."""
        if self._stopped:
            return _STOPPED
        if self.writer.reason is not None:
            return self.writer.reason
        if self.unwritten > _MAX_UNWRITTEN:
            return (
                f"--state {self._database.directory}: {self.unwritten} publications wait to be "
                "written; the disk is too slow"
            )
        return None

    @property
    def holds(self) -> bool:
        """Whether publications are on the disk before they are delivered."""
        return self._holds

    @property
    def delivering(self) -> bool:
        """Whether publications are written that are not delivered; until they are, none is written.

        Then the writer is woken.
        """
        return bool(self._written)

    @property
    def unwritten(self) -> int:
        """How many publications are not in the database yet."""
        return self._history.sequence - self._changes.written + len(self._queue)

    def publish(
        self,
        topic: str,
        data: str | bytes,
        key: str | None = None,
        event: str | None = None,
        is_json: bool = False,
    ) -> Deferred[Id]:
        """Publish. For a key that the topic has seen, only give the id of the first time."""
        if (fault := self.fault()) is not None:
            return fail(Unavailable(fault))
        draft = Draft(topic, data, key, event, is_json)
        return self._hold(draft) if self._holds else succeed(self._publish(draft))

    def publish_at_once(self, draft: Draft) -> Id | None:
        """Publish, unless it has to be on the disk first, or cannot be written there."""
        if self._holds or self.fault() is not None:
            return None
        return self._publish(draft)

    def publish_all(self, drafts: Sequence[Draft]) -> Deferred[list[Id]]:
        """Publish all drafts or none."""
        if (fault := self.fault()) is not None:
            return fail(Unavailable(fault))
        if not self._holds:
            return super().publish_all(drafts)
        # They are all in the same group.
        holding = gatherResults([self._hold(one) for one in drafts], consumeErrors=True)
        return holding.addErrback(_unwrap)

    def stop(self) -> None:
        """Accept nothing any more; what waits is still written, and answered."""
        if not self._stopped:
            self._stopped = True
            self._deliver = _refuse_publication
            while self._written:
                self._deliver_next()

    def close(self) -> Deferred[None]:
        """Write what is left, and forget everything; the Deferred fires when all is on the disk."""
        if self._run:
            ended = self.writer.submit([Statement("UPDATE daemon SET clean = 1")])
            ended.addCallback(lambda _: self._log.remove())
        return self.writer.stop().addCallback(lambda _: self._end())

    def _end(self) -> None:
        self._refuse(self._take_queue(), self.writer.reason or _STOPPED)
        self._forget_all()

    # At the start

    def _restore(self, last: LastRun | None) -> Recovery | None:
        """Begin a run, with what the last one left."""
        state = self._state
        self._run, self.generation = state.make_name(), state.make_name()
        losses = Losses() if last is None else find_losses(last, self._read_activity)
        self._log = ActivityLog(self._run, state.log_folders)
        self._changes = HistoryChanges(self._history, state.wall, self._log, self.writer.wake)
        self._history.recorder = self._changes
        if last is None:
            return None
        if not losses.everywhere:
            self.generation = last.generation
        recovery = Recovery(
            self._database, self._history, self._changes, state.make_name, losses, state.wall()
        )
        recovery.restore(last)
        self._log.begin_at(self._history.sequence)
        self._changes.note_written(self._history.sequence)
        self._restore_keys()
        for part in self.parts:
            part.load(self._database)
        return recovery

    def _restore_keys(self) -> None:
        sql = "SELECT number, topic, key, epoch, offset, at FROM idempotency ORDER BY number"
        now = self._state.wall()
        for number, topic, key, epoch, offset, at in self._database.read(sql):
            self._changes.restore_key(number)
            age = max(0.0, now - at)
            if age < KEY_TTL:
                self._ids[topic, key] = Id(epoch, offset)
                self._keys.start((topic, key), age)
            else:
                self._changes.drop_key()

    def _forget_all(self) -> None:
        """Forget everything in memory."""
        self._history.recorder = None
        super().stop()

    def _read_activity(self, run: str, written: int) -> Activity | None:
        return read_activity(run, self._state.log_folders, written)

    def _remove_activity(self, run: str) -> None:
        remove_activity(run, self._state.log_folders)

    # Keys

    def _remember(self, key: tuple[str, str], id: Id) -> None:
        super()._remember(key, id)
        if key not in self._held_keys:
            self._changes.add_key(*key, id)

    def _forget_key(self, key: tuple[str, str]) -> None:
        super()._forget_key(key)
        self._changes.drop_key()

    # What the writer takes

    def _take_changes(self) -> Changes | None:
        """Return what has changed, unless the history lags behind the database."""
        return None if self._written else self._changes.take()

    def _take_held(self) -> Changes | None:
        """Return the publications that wait, with the ids that they will get."""
        group = [] if self._written else self._take_queue()
        if not group:
            return None
        sequence, now = self._history.sequence, self._state.wall()
        topics: dict[str, tuple[str, str, int, int, int]] = {}
        publications, keys = [], []
        for held in group:
            draft, sequence = held.draft, sequence + 1
            topic, kept = self._history.look_ahead(draft.topic)
            name, epoch, offset, _, floor = topics.get(draft.topic) or topic_row(topic)
            id = Id(epoch, offset + 1)
            topics[name] = (name, epoch, id.offset, sequence, floor if kept else sequence)
            if kept:
                publication = Publication(
                    name, draft.data, id, draft.event, draft.is_json, sequence, 0, draft.metadata
                )
                publications.append((publication, now))
            if draft.key is not None:
                held.number = self._changes.reserve_key()
                keys.append((held.number, name, draft.key, epoch, id.offset, now))
        statements = [
            *insert_all("topic", list(topics.values())),
            *insert_publications(publications),
            *insert_all("idempotency", keys),
            Statement("UPDATE daemon SET sequence = ?", (sequence,)),
        ]
        return Changes(
            statements,
            partial(self._deliver_held, group, sequence),
            partial(self._refuse, group),
        )

    # Publications that wait for the disk

    def _hold(self, draft: Draft) -> Deferred[Id]:
        """Publish with the next group."""
        done: Deferred[Id] = Deferred()
        if draft.key is None:
            held = _Held(draft, [done])
        else:
            key = draft.topic, draft.key
            if key in self._ids:
                return succeed(self._ids[key])
            if key in self._held_keys:
                self._held_keys[key].waiting.append(done)
                return done
            held = self._held_keys[key] = _Held(draft, [done])
        self._history.expect(draft.topic)
        self._queue.append(held)
        self.writer.wake()
        return done

    def _take_queue(self) -> list[_Held]:
        queue, self._queue = self._queue, []
        return queue

    def _deliver_held(self, group: Iterable[_Held], sequence: int) -> None:
        """Deliver what was written, with the last one at a sequence."""
        self._changes.note_written(sequence)
        self._written.extend(group)
        delivering = Deferred.fromCoroutine(self._deliver_written())
        delivering.addErrback(_log_failure)

    async def _deliver_written(self) -> None:
        size = 0
        while self._written:
            if size > SLICE and not self._stopped:
                # As in memory: let the sockets take what there is.
                await deferLater(self._clock, 0)
                await self._room()
                size = 0
                continue
            size += self._deliver_next()
        self.writer.wake()

    def _deliver_next(self) -> int:
        """Deliver a publication, and answer; return the bytes that its data takes."""
        held = self._written.popleft()
        draft = held.draft
        result: Id | Failure
        try:
            result = self._add(draft)
        except Exception:
            result = Failure()
        self._history.settle(draft.topic)
        if draft.key is not None:
            del self._held_keys[draft.topic, draft.key]
            self._changes.restore_key(held.number)
        for waiting in held.waiting:
            waiting.callback(result)
        return size_of(draft.data)

    def _add(self, draft: Draft) -> Id:
        """Publish what was written, as the broker in memory does; deliver it unless this ends."""
        publication = self._history.add(
            draft.topic, draft.data, draft.event, draft.is_json, draft.metadata
        )
        self.published += 1
        if draft.key is not None:
            self._remember((draft.topic, draft.key), publication.id)
        if not self._stopped:
            assert self._deliver is not None
            self._deliver(publication)
        return publication.id

    def _refuse(self, group: Iterable[_Held], reason: str) -> None:
        """Refuse publications that cannot be written."""
        for held in group:
            self._history.settle(held.draft.topic)
            self._changes.refuse(held.draft.topic, held.number)
            if held.draft.key is not None:
                del self._held_keys[held.draft.topic, held.draft.key]
            for waiting in held.waiting:
                waiting.errback(Unavailable(reason))


@dataclass(slots=True, eq=False)
class _Held:
    """A publication that is delivered once it is on the disk."""

    draft: Draft
    #: Those who want its id: whoever publishes it, and repeats it with its key.
    waiting: list[Deferred[Id]]
    #: The number of its key in the database, if it has one.
    number: int = 0


def _log_failure(failure: Failure) -> None:
    _log.failure("failed to deliver what was written", failure, event="state_broken")


def _unwrap(failure: Failure) -> Failure:
    """Return the failure of the first of several Deferreds."""
    assert isinstance(failure.value, FirstError)
    inner: Failure = failure.value.subFailure
    return inner


def _refuse_publication(publication: Publication) -> None:
    """Refuse what is published after the end: it would not be kept."""
    raise Unavailable(_STOPPED)
