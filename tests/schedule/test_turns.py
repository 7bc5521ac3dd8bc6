"""Turns: heavy work in portions, and in a fair order."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.schedule.coroutine import Task
from pushd.schedule.turns import PORTION, Turn, Turns


class TurnsTests(SynchronousTestCase):
    """Work whose time a fake clock tells."""

    def setUp(self) -> None:
        """Note what is done, and in which iteration of the reactor."""
        self.clock = Clock()
        self.turns = Turns(self.clock)
        self.done: list[str] = []
        self.iterations: list[list[str]] = []

    def work(self, name: str, seconds: float = 2 * PORTION) -> None:
        """Do work that takes some time."""
        began = self.clock.seconds()
        self.clock.rightNow += seconds
        self.done.append(name)
        self.turns.charge(began)

    def wait(self, name: str, key: str, seconds: float = 2 * PORTION) -> Turn:
        """Wait for a turn to do work."""
        return self.turns.wait(key, lambda: self.work(name, seconds))

    def iterate(self) -> list[str]:
        """Let one iteration of the reactor pass; return what was done in it."""
        before, calls = len(self.done), list(self.clock.calls)
        self.clock.calls.clear()
        for call in calls:
            call.func()
        return self.done[before:]

    def test_free(self) -> None:
        """Work that takes little time does not wait, and needs no timer."""
        for _ in range(9):
            self.assertTrue(self.turns.is_free)
            self.work("a", PORTION / 10)
        self.assertTrue(self.turns.is_free)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_spent(self) -> None:
        """After a portion of work, more has to wait for the next iteration."""
        self.work("a")
        self.assertFalse(self.turns.is_free)
        self.assertEqual(self.iterate(), [])
        self.assertTrue(self.turns.is_free)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_order(self) -> None:
        """Keys have turns one after the other, however much waits for one of them."""
        self.work("first")
        for name in ("a1", "a2", "a3", "b1", "c1", "c2"):
            self.wait(name, name[0])
        self.assertEqual(len(self.turns), 6)
        rounds = [self.iterate() for _ in range(6)]
        self.assertEqual(rounds, [["a1"], ["b1"], ["c1"], ["a2"], ["c2"], ["a3"]])
        self.assertFalse(self.turns.is_free)
        self.iterate()
        self.assertEqual((len(self.turns), self.clock.getDelayedCalls()), (0, []))

    def test_portions(self) -> None:
        """An iteration serves as many turns as take a portion together."""
        for number in range(5):
            self.wait(f"a{number}", "a", PORTION * 0.6)
        rounds = [self.iterate() for _ in range(3)]
        self.assertEqual(rounds, [["a0", "a1"], ["a2", "a3"], ["a4"]])

    def test_no_overtaking(self) -> None:
        """While something waits, what comes later waits as well, even if time is left."""
        self.wait("a", "a", 0)
        self.assertFalse(self.turns.is_free)
        free: list[bool] = []
        self.turns.wait("b", lambda: free.append(self.turns.is_free))
        self.turns.wait("c", lambda: self.wait("later", "d", 0))
        self.assertEqual(self.iterate(), ["a"])
        self.assertEqual(free, [True])
        self.assertEqual(self.iterate(), ["later"])

    def test_cancel(self) -> None:
        """A turn that is given up does not come; without turns no timer is left."""
        first, second = self.wait("a", "a"), self.wait("b", "a")
        third = self.wait("c", "c")
        second.cancel()
        second.cancel()
        self.assertEqual(self.iterate(), ["a"])
        first.cancel()
        self.assertEqual(len(self.turns), 1)
        third.cancel()
        # The portion is spent, which the next iteration has to know.
        self.assertEqual(self.iterate(), [])
        self.wait("d", "d").cancel()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_coroutine(self) -> None:
        """A coroutine can await a turn."""

        async def run() -> None:
            await self.turns.take("a")
            self.work("a")

        task = Task(run(), self.clock, lambda seconds: None, lambda result: None)
        task.advance()
        awaited = task.awaited
        self.assertEqual(self.done, [])
        assert awaited is not None
        awaited.cancel()
        self.assertEqual(self.iterate(), ["a"])

    def test_failing(self) -> None:
        """Work that raises does not keep the rest from its turn."""
        self.turns.wait("a", lambda: {}[0])  # type: ignore[index]  # It is to raise.
        self.wait("b", "b")
        self.assertRaises(KeyError, self.iterate)
        self.assertEqual(self.iterate(), ["b"])
