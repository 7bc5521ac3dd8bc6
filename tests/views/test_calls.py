"""Calls of an operator's function, in threads and in time."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from pushd.views.calls import TIMEOUT, FunctionCalls
from pushd.views.request import Request


class Threads:
    """A pool whose threads run when the test says so, and the way back from them."""

    def __init__(self) -> None:
        self.work: list[Any] = []

    def callInThread(self, function: Any) -> None:
        """Keep the work."""
        self.work.append(function)

    def call(self, function: Any) -> Any:
        """Call a function on the reactor."""
        return function()


class CallTests(SynchronousTestCase):
    """A function that blocks."""

    def setUp(self) -> None:
        """Make calls of a function with one thread."""
        self.clock, self.threads = Clock(), Threads()
        self.called: list[Any] = []
        self.calls = FunctionCalls(
            lambda request, data: self.called.append(data),
            self.clock,
            threads=self.threads,  # type: ignore[arg-type] # It has what is used.
            pool=self.threads,
            limit=1,
            loop=None,
        )
        self.request = Request(
            method="GET",
            path="/",
            scheme="http",
            host="localhost",
            peer="127.0.0.1:1",
            clock=self.clock,
            raw_headers=Headers(),
        )

    def start(self, data: str) -> Deferred[Any]:
        """Call the function."""
        return self.calls.start(self.request, data).answered

    def test_limit(self) -> None:
        """Calls wait for a thread; one that is late by then is not made."""
        one, two = self.start("one"), self.start("two")
        self.assertEqual(len(self.threads.work), 1)
        self.clock.advance(TIMEOUT)
        self.assertIsNone(self.successResultOf(one))
        self.assertIsNone(self.successResultOf(two))
        self.threads.work.pop()()
        self.assertEqual((self.called, self.threads.work), ([], []))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_answer(self) -> None:
        """The next call gets the thread of one that has answered."""
        one, two = self.start("one"), self.start("two")
        self.threads.work.pop()()
        self.successResultOf(one)
        self.threads.work.pop()()
        self.successResultOf(two)
        self.assertEqual(self.called, ["one", "two"])
