"""Threads that take turns with the test."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from queue import Empty
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import ConversationOver, ThreadsBusy
from pushd.testing import alternating_threads
from pushd.testing.alternating_threads import AlternatingThreads
from pushd.views.request import Request, View

REQUEST = Request(method="GET", path="/", scheme="http", host="a", peer="b", clock=Clock())


class AlternatingThreadsTests(SynchronousTestCase):
    """One thread runs at a time, the test's included."""

    def setUp(self) -> None:
        """Make a pool for two views; all threads must have ended after the test."""
        self.threads = AlternatingThreads(2)
        self.noted: list[object] = []
        before = set(threading.enumerate())
        self.addCleanup(self.check_threads, before)

    def check_threads(self, before: set[threading.Thread]) -> None:
        """Fail if a thread is left."""
        for thread in set(threading.enumerate()) - before:
            thread.join(30)
            self.assertFalse(thread.is_alive(), thread)

    def run_view(self, view: View) -> Deferred[Any]:
        """Start a view."""
        return self.threads.run(view, REQUEST)

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function from a view's thread."""
        return self.threads.call(function)

    def test_result(self) -> None:
        """A view that does not wait has ended when run() returns."""
        finished = self.run_view(lambda request: request.path)
        self.assertEqual(self.successResultOf(finished), "/")

    def test_failure(self) -> None:
        """An exception of any kind is the failure of the Deferred."""
        for error in (ZeroDivisionError, ConversationOver, SystemExit, KeyboardInterrupt):

            def view(request: Request, error: type[BaseException] = error) -> None:
                raise error

            self.failureResultOf(self.run_view(view), error)

    def test_own_thread(self) -> None:
        """A view runs in a thread of its own; the functions it calls run on the test's."""

        def view(request: Request) -> list[bool]:
            here = threading.current_thread()
            there = self.call(threading.current_thread)
            return [here.daemon, here is there, there is threading.main_thread()]

        self.assertEqual(self.successResultOf(self.run_view(view)), [True, False, True])

    def test_call(self) -> None:
        """call() returns what the function returns, or what its Deferred fires with."""

        def view(request: Request) -> list[object]:
            return [
                self.call(lambda: "a"),
                self.call(lambda: succeed("b")),
                self.call(lambda: None),
            ]

        self.assertEqual(self.successResultOf(self.run_view(view)), ["a", "b", None])

    def test_many_calls(self) -> None:
        """A view may call several functions within one turn."""

        def view(request: Request) -> int:
            return sum(self.call(lambda: 1) for _ in range(5000))

        self.assertEqual(self.successResultOf(self.run_view(view)), 5000)

    def test_call_raises(self) -> None:
        """call() raises what the function raises, or what its Deferred fails with."""

        def raising() -> None:
            raise ZeroDivisionError

        def view(request: Request) -> None:
            for function in (raising, lambda: fail(ZeroDivisionError()), lambda: ending):
                try:
                    self.call(function)
                except (ZeroDivisionError, ConversationOver) as error:
                    self.noted.append(type(error))

        ending: Deferred[None] = Deferred()
        finished = self.run_view(view)
        ending.errback(ConversationOver())
        self.successResultOf(finished)
        self.assertEqual(self.noted, [ZeroDivisionError, ZeroDivisionError, ConversationOver])

    def test_turns(self) -> None:
        """A turn lasts until the view has to wait; then the test continues."""
        first: Deferred[str] = Deferred()
        second: Deferred[str] = Deferred()

        def view(request: Request) -> str:
            self.noted.append("starts")
            self.noted.append(self.call(lambda: first))
            self.noted.append(self.call(lambda: second))
            return "returns"

        finished = self.run_view(view)
        self.noted.append("test")
        first.callback("first")
        self.noted.append("test")
        self.assertNoResult(finished)
        second.callback("second")
        self.assertEqual(self.noted, ["starts", "test", "first", "test", "second"])
        self.assertEqual(self.successResultOf(finished), "returns")

    def test_two_views(self) -> None:
        """Two views never run at once, so their order is deterministic."""
        waiting: dict[str, Deferred[None]] = {"a": Deferred(), "b": Deferred()}

        def view(name: str) -> View:
            def step(request: Request) -> None:
                for number in range(50):
                    self.noted.append(f"{name}{number}")
                    self.call(partial(self.noted.append, f"{name}{number} on the test's thread"))
                self.call(lambda: waiting[name])
                self.noted.append(f"{name} ends")

            return step

        finished = [self.run_view(view(name)) for name in "ab"]
        waiting["b"].callback(None)
        waiting["a"].callback(None)
        expected = []
        for name in "ab":
            for number in range(50):
                expected += [f"{name}{number}", f"{name}{number} on the test's thread"]
        self.assertEqual(self.noted, [*expected, "b ends", "a ends"])
        for each in finished:
            self.successResultOf(each)

    def test_inner_turn(self) -> None:
        """If one view's call ends what another waits for, the other has a turn in between."""
        waiting: Deferred[str] = Deferred()

        def receiver(request: Request) -> None:
            self.noted.append(self.call(lambda: waiting))
            self.noted.append("receiver ends")

        def sender(request: Request) -> None:
            self.call(lambda: waiting.callback("hello"))
            self.noted.append("sender ends")

        finished = [self.run_view(receiver), self.run_view(sender)]
        self.assertEqual(self.noted, ["hello", "receiver ends", "sender ends"])
        for each in finished:
            self.successResultOf(each)

    def test_limit(self) -> None:
        """Views beyond the limit raise ThreadsBusy; each view that ends frees its thread."""
        waiting: list[Deferred[None]] = [Deferred(), Deferred(), Deferred()]
        finished = [self.run_view(lambda _: self.call(lambda: waiting[0]))]
        finished.append(self.run_view(lambda _: self.call(lambda: waiting[1])))
        for _ in range(2):
            self.assertRaises(ThreadsBusy, self.run_view, lambda _: None)
        waiting[0].errback(ZeroDivisionError())
        self.failureResultOf(finished[0], ZeroDivisionError)
        self.successResultOf(self.run_view(lambda _: None))
        third = self.run_view(lambda _: self.call(lambda: waiting[2]))
        self.assertRaises(ThreadsBusy, self.run_view, lambda _: None)
        waiting[1].callback(None)
        waiting[2].callback(None)
        self.successResultOf(finished[1])
        self.successResultOf(third)

    def test_deferred(self) -> None:
        """A Deferred or coroutine that a view returns is awaited."""
        waiting: Deferred[str] = Deferred()

        async def inner() -> str:
            return "coroutine"

        first = self.run_view(lambda _: waiting)
        self.assertNoResult(first)
        waiting.callback("deferred")
        self.assertEqual(self.successResultOf(first), "deferred")
        self.assertEqual(self.successResultOf(self.run_view(lambda _: inner())), "coroutine")

    def test_outside(self) -> None:
        """call() raises outside of a view's thread."""
        error = self.assertRaises(RuntimeError, self.threads.call, lambda: None)
        self.assertIn("outside its view's thread", str(error))

    def test_stop(self) -> None:
        """stop() ends no view: each ends with its conversation."""
        waiting: Deferred[str] = Deferred()
        finished = self.run_view(lambda _: self.call(lambda: waiting))
        self.threads.stop()
        self.assertNoResult(finished)
        waiting.callback("done")
        self.assertEqual(self.successResultOf(finished), "done")

    def test_stuck(self) -> None:
        """A view that never calls back fails the test in place of blocking it."""
        self.patch(alternating_threads, "_LIMIT", 0.05)
        gate = threading.Event()
        self.assertRaises(Empty, self.run_view, lambda _: gate.wait(30))
        gate.set()
