"""The writer: one thread writes to the database, a group of changes in each transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from pushd.errors import StateDamaged, Unavailable
from pushd.topics.state.database import Database, Statement

_log = Logger(namespace="pushd.topics")

# Seconds between two groups, unless each has to be on the disk: what a killed process may lose.
_INTERVAL = 0.1

# Seconds between two groups that have to be on the disk: what a loss of power may lose.
_SYNC_INTERVAL = 1.0

# Seconds between two attempts to write a group that failed.
_RETRY = 1.0


class Disk(Protocol):
    """Runs functions that wait for the disk, one after the other."""

    def run(self, function: Callable[[], None]) -> Deferred[None]:
        """Run a function; the Deferred fires on the reactor's thread when it has returned."""

    def stop(self) -> None:
        """Stop, once all functions have returned."""


class WriterThread:
    """A thread for the disk, which is started when it is first used.

    :param reactor: where the results are passed on.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(0, 1, "pushd-state")

    def run(self, function: Callable[[], None]) -> Deferred[None]:
        """Run a function in the thread."""
        if not self._pool.started:
            self._pool.start()
        return deferToThreadPool(self._reactor, self._pool, function)

    def stop(self) -> None:
        """Stop the thread, once it has done its work."""
        if self._pool.started:
            self._pool.stop()


class CallerThread:
    """Takes the place of a ``WriterThread`` under a fake clock: runs functions as they come."""

    def run(self, function: Callable[[], None]) -> Deferred[None]:
        """Run a function."""
        return maybeDeferred(function)

    def stop(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Statements that are written together, and whom to tell."""

    statements: Sequence[Statement]
    #: Called once they are written.
    written: Callable[[], object] = lambda: None
    #: Called with the reason if they cannot be written; None if they are then written later.
    failed: Callable[[str], object] | None = None


#: Returns what has changed since it was called last; None without changes.
Source = Callable[[], Changes | None]


class Writer:
    """Writes changes to the database, in groups.

    A group holds all that has changed while the one before was written. One that cannot be written
    is tried again until it can; meanwhile ``reason`` is set. Changes are written in their order.

    :param database: opened by then; used only through ``disk`` once ``start`` has been called.
    """

    def __init__(self, database: Database, clock: IReactorTime, disk: Disk) -> None:
        #: Why nothing can be written at the moment, in one line; None if it can.
        self.reason: str | None = None
        #: Asked for changes when a group begins, in this order.
        self.sources: list[Source] = []
        self._database = database
        self._clock = clock
        self._disk = disk
        self._always = database.sync == "always"
        self._submitted: list[Changes] = []
        # The group that is being written, or has failed.
        self._group: list[Changes] = []
        self._writing = False
        # True if a group is under way, or will begin by itself.
        self._awake = False
        self._call: IDelayedCall | None = None
        # When the next group may begin, and when one has to be on the disk, if not all are.
        self._next = self._next_sync = 0.0
        # Whether something was written that may not be on the disk.
        self._unsynced = False
        self._stopped: Deferred[None] | None = None

    @property
    def size(self) -> int:
        """The bytes that the files take."""
        return self._database.size()

    def start(self) -> None:
        """Write what has changed until now, at once. If that fails, it is tried again later."""
        self._collect()
        if self._group:
            self._awake = True
            try:
                self._database.write(self._statements(), self._is_durable())
            except Exception:
                self._failed(Failure())
            else:
                self._written(None)

    def submit(self, statements: Sequence[Statement], *, keep: bool = True) -> Deferred[None]:
        """Write statements with the next group; the Deferred fires once they are written.

        :param keep: whether they are written later if that is impossible now. If not, the Deferred
            fails with Unavailable.
        """
        done: Deferred[None] = Deferred()
        failed = None if keep else lambda reason: done.errback(Unavailable(reason))
        self._submitted.append(Changes(statements, lambda: done.callback(None), failed))
        self.wake()
        return done

    def wake(self) -> None:
        """Begin a group soon: something has changed."""
        if not self._awake and self._stopped is None:
            self._awake = True
            self._begin_at(self._next)

    def stop(self) -> Deferred[None]:
        """Write everything that is left, and close the database; the Deferred fires then.

        If it cannot be written, that is logged, and the Deferred fires nevertheless.
        """
        if self._stopped is None:
            self._stopped = Deferred()
            if not self._writing:
                self._begin()
        return self._stopped

    def _begin_at(self, time: float) -> None:
        """Begin a group at a time, and not before."""
        if self._call is not None:
            self._call.cancel()
        self._call = self._clock.callLater(max(0.0, time - self._clock.seconds()), self._begin)

    def _begin(self) -> None:
        """Begin to write a group: one that has failed, or what has changed."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
        if not self._group:
            self._collect()
        if not self._group and not self._must_sync():
            self._rest()
            return
        self._next = self._clock.seconds() + (0.0 if self._always else _INTERVAL)
        self._awake = self._writing = True
        statements, durable = self._statements(), self._is_durable()
        writing = self._disk.run(lambda: self._database.write(statements, durable))
        writing.addCallbacks(self._written, self._failed)
        writing.addErrback(self._broken)

    def _rest(self) -> None:
        """Do nothing until something changes or has to reach the disk; or end."""
        self._awake = False
        if self._stopped is not None:
            self._end(self._stopped)
        elif self._unsynced:
            self._begin_at(self._next_sync)

    def _collect(self) -> None:
        """Take what has changed as the next group."""
        taken = [changes for source in self.sources if (changes := source()) is not None]
        self._group, self._submitted = taken + self._submitted, []

    def _statements(self) -> list[Statement]:
        return [statement for changes in self._group for statement in changes.statements]

    def _must_sync(self) -> bool:
        """Return whether what was written has to reach the disk now, although nothing follows."""
        due = self._stopped is not None or self._clock.seconds() >= self._next_sync
        return self._unsynced and due

    def _is_durable(self) -> bool:
        """Return whether a group that begins now has to be on the disk when it is written."""
        if self._database.sync == "none":
            return False
        now = self._clock.seconds()
        durable = self._always or now >= self._next_sync or self._stopped is not None
        if durable:
            self._next_sync = now + _SYNC_INTERVAL
        self._unsynced = not durable
        return durable

    def _written(self, _: None) -> None:
        self._writing = False
        if self.reason is not None:
            self.reason = None
            _log.info(
                "--state {directory} can be written again",
                event="state_recovered",
                directory=str(self._database.directory),
            )
        group, self._group = self._group, []
        for changes in group:
            changes.written()
        self._go_on()

    def _go_on(self) -> None:
        """Begin the next group: what has changed meanwhile."""
        if self._stopped is not None:
            self._begin()
        else:
            self._begin_at(self._next)

    def _failed(self, failure: Failure) -> None:
        """Tell those who do not wait, and try again later with the rest."""
        self._writing = False
        reason = f"--state {self._database.directory} cannot be written: {failure.value}"
        if reason != self.reason:
            self.reason = reason
            self._log_failure(failure, reason)
        # It is not known what has reached the disk: the next group has to.
        self._unsynced, self._next_sync = self._database.sync != "none", 0.0
        group = self._group
        self._group = [changes for changes in group if changes.failed is None]
        for changes in group:
            if changes.failed is not None:
                changes.failed(reason)
        if self._stopped is None:
            self._begin_at(self._clock.seconds() + _RETRY)
        else:
            self._give_up(self._stopped)

    def _log_failure(self, failure: Failure, reason: str) -> None:
        line = "{reason}; nothing is published until it can, and nothing is lost"
        if failure.check(sqlite3.Error, OSError, StateDamaged) is not None:
            _log.error(line, event="state_failed", reason=reason)
        else:
            _log.failure(line, failure, event="state_failed", reason=reason)

    def _broken(self, failure: Failure) -> None:
        """Log an exception of what was told, and go on."""
        _log.failure("failed after a write", failure, event="state_broken")
        self._go_on()

    def _give_up(self, stopped: Deferred[None]) -> None:
        """End although something is not written."""
        _log.error(
            "{reason}; the daemon ends, and what was published last is not kept",
            event="state_lost",
            reason=self.reason,
        )
        self._group = []
        self._end(stopped)

    def _end(self, stopped: Deferred[None]) -> None:
        self._database.close()
        self._disk.stop()
        stopped.callback(None)
