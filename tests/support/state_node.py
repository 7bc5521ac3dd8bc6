"""A node with ``--state`` under a fake clock: started, killed, and started again."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from pushd.topics.broker import Draft
from pushd.topics.history import History, Retention
from pushd.topics.rules import Rules
from pushd.topics.state.broker import StateDependencies, StoredBroker
from pushd.topics.state.database import Database, Statement
from pushd.topics.state.writer import CallerThread, Disk, Writer
from tests.support.broker_contract import Node


class SlowDisk:
    """A disk on which functions wait until ``go_on`` is called, if ``busy`` is set."""

    def __init__(self) -> None:
        self.busy = False
        self.stopped = False
        self._waiting: list[tuple[Callable[[], None], Deferred[None]]] = []

    def run(self, function: Callable[[], None]) -> Deferred[None]:
        """Run a function, now or later."""
        if not self.busy:
            return CallerThread().run(function)
        done: Deferred[None] = Deferred()
        self._waiting.append((function, done))
        return done

    def go_on(self) -> None:
        """Run what waits."""
        self.busy = False
        waiting, self._waiting = self._waiting, []
        for function, done in waiting:
            CallerThread().run(function).addBoth(done.callback)

    def stop(self) -> None:
        """Note that it was stopped."""
        self.stopped = True


class FailingDatabase(Database):
    """A database whose disk is full, or does not say that it has written, when a test wants it."""

    #: The error that the next writes raise; None if they succeed.
    failure: Exception | None = None
    #: Whether what fails is written all the same.
    lies = False

    def __init__(self, directory: Path, sync: str) -> None:
        super().__init__(directory, sync)
        #: Whether each write had to be on the disk.
        self.writes: list[bool] = []

    def write(self, statements: Sequence[Statement], durable: bool) -> None:
        """Write, or fail."""
        if self.failure is None or self.lies:
            super().write(statements, durable)
        if self.failure is not None:
            raise self.failure
        self.writes.append(durable)

    def fill(self) -> None:
        """Let writes fail as on a full disk."""
        self.failure = sqlite3.OperationalError("database or disk is full")


class StateNode:
    """A node that keeps its state in a folder; it can be killed and started as often as needed.

    :param memory: the folder of the activity log.
    """

    def __init__(
        self,
        folder: Path,
        memory: Path,
        sync: str = "second",
        retention: Retention | None = None,
        rules: Rules | None = None,
        names: str = "a",
    ) -> None:
        self.folder = folder
        self.memory = memory
        self.sync: str = sync
        self.retention = retention or Retention()
        self.rules = rules or Rules()
        #: The time of day, when the clock was at 0.
        self.day = 1_000_000.0
        self._names = names
        self._count = 0
        self.start()

    def start(self) -> None:
        """Start, and restore what there is."""
        self.clock = Clock()
        self.disk = SlowDisk()
        self.database = FailingDatabase(self.folder / "state", self.sync)
        self.broker = self.make_broker()
        self.broker.open()
        self.node = Node(self.broker, self.clock, self.rules)

    def make_broker(self) -> StoredBroker:
        """Make the broker, without opening it."""
        disk: Disk = self.disk
        history = History(self.clock, self.retention, self._make_name, rules=self.rules)
        writer = Writer(self.database, self.clock, disk)
        dependencies = StateDependencies(
            database=self.database,
            writer=writer,
            wall=lambda: self.day + self.clock.seconds(),
            make_name=self._make_name,
            log_folders=[self.memory],
        )
        return StoredBroker(self.clock, history, dependencies)

    def kill(self) -> None:
        """End as by SIGKILL: what is in the database and the activity log is what is left."""
        self.database.close()
        self.day += self.clock.seconds()

    def lose_power(self) -> None:
        """End as by a loss of power, which the activity log does not outlive."""
        self.kill()
        for log in self.memory.iterdir():
            log.unlink()

    def stop(self) -> None:
        """End in order."""
        self.broker.stop()
        done: list[None] = []
        self.broker.close().addCallback(done.append)
        assert done == [None], "the state was not closed"
        self.day += self.clock.seconds()

    def restart(self) -> None:
        """End in order, and start again."""
        self.stop()
        self.start()

    def write(self) -> None:
        """Let time pass until all is written, and on the disk."""
        self.clock.advance(0)
        self.clock.pump([0.1] * 21)

    def publish(self, topic: str, data: str | bytes, key: str | None = None) -> str:
        """Publish, and return the id."""
        ids: list[str] = []
        self.broker.publish(topic, data, key).addCallback(lambda id: ids.append(str(id)))
        self.clock.advance(0)
        self.clock.advance(0)
        assert ids, "it was not published"
        return ids[0]

    def publish_at_once(self, topic: str, data: str) -> str | None:
        """Publish as the fast path does."""
        id = self.broker.publish_at_once(Draft(topic, data))
        return None if id is None else str(id)

    def read(self, topic: str, after: str | None = None) -> tuple[bool, list[str | bytes]]:
        """Return whether a subscriber is recovered, and what it gets."""
        subscriber = self.node.listen(topic, after)
        self.clock.advance(0)
        assert subscriber.subscription is not None
        subscriber.subscription.cancel()
        (_, recovered), *rest = subscriber.events
        return recovered, [data for _, data in rest]

    def _make_name(self) -> str:
        self._count += 1
        return f"{self._names}{self._count}"
