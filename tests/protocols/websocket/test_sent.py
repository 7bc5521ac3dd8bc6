"""A Deferred for each message that costs little."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks, succeed
from twisted.trial.unittest import SynchronousTestCase

from pushd.protocols.websocket.sent import Sent
from tests.work import calls_of


class SentTests(SynchronousTestCase):
    """Whatever is done with it, it does what ``succeed(None)`` does."""

    def both(self, use: Callable[[Deferred[None]], Any]) -> Any:
        """Do something with either; gives what came of it, which is the same."""
        ours, theirs = use(Sent()), use(succeed(None))
        self.assertEqual(ours, theirs)
        return ours

    def test_kind(self) -> None:
        """It is a Deferred, and says that it has fired."""
        self.assertIsInstance(Sent(), Deferred)
        self.assertIn("current result: None", str(Sent()))

    def test_callbacks(self) -> None:
        """Who adds callbacks has them called at once, one after the other."""

        def use(deferred: Deferred[None]) -> list[object]:
            heard: list[object] = []
            deferred.addCallback(lambda result: [result, 1])
            deferred.addBoth(heard.append)
            return heard

        self.assertEqual(self.both(use), [[None, 1]])

    def test_failing(self) -> None:
        """What a callback raises goes to the next errback."""

        def use(deferred: Deferred[None]) -> list[object]:
            heard: list[object] = []
            deferred.addCallback(lambda _: 1 / 0)
            deferred.addErrback(lambda failure: heard.append(failure.type))
            return heard

        self.assertEqual(self.both(use), [ZeroDivisionError])

    def test_unhandled(self) -> None:
        """What nobody catches is logged."""
        Sent().addCallback(lambda _: 1 / 0)
        gc.collect()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_chained(self) -> None:
        """A callback may return a Deferred, and it may be returned by one."""

        def use(deferred: Deferred[None]) -> list[object]:
            waiting: Deferred[int] = Deferred()
            heard: list[object] = []
            deferred.addCallback(lambda _: waiting).addCallback(heard.append)
            waiting.callback(2)
            outer: Deferred[None] = Deferred()
            outer.addCallback(lambda _: Sent()).addCallback(heard.append)
            outer.callback(None)
            return heard

        self.assertEqual(self.both(use), [2, None])

    def test_awaited(self) -> None:
        """A coroutine that awaits it goes on at once, and so does a generator."""

        async def wait(deferred: Deferred[None]) -> str:
            await deferred
            return "awaited"

        @inlineCallbacks
        def pause(deferred: Deferred[None]) -> Any:
            result = yield deferred
            return f"yielded {result}"

        def use(deferred: Deferred[None]) -> object:
            return self.successResultOf(Deferred.fromCoroutine(wait(deferred)))

        self.assertEqual(self.both(use), "awaited")
        self.assertEqual(
            self.both(lambda deferred: self.successResultOf(pause(deferred))), "yielded None"
        )

    def test_gathered(self) -> None:
        """It may be one of many."""
        both = gatherResults([Sent(), succeed(None)])
        self.assertEqual(self.successResultOf(both), [None, None])

    def test_cancelled(self) -> None:
        """It can't be cancelled any more, and is not to be fired again."""
        sent = Sent()
        sent.cancel()
        self.assertIsNone(self.successResultOf(sent))
        with self.assertRaises(Exception) as caught:
            Sent().callback(None)
        self.assertEqual(type(caught.exception).__name__, "AlreadyCalledError")

    def test_paused(self) -> None:
        """It can be made to wait."""

        def use(deferred: Deferred[None]) -> list[object]:
            heard: list[object] = []
            deferred.pause()
            deferred.addCallback(heard.append)
            before = list(heard)
            deferred.unpause()
            return [before, heard]

        self.assertEqual(self.both(use), [[], [None]])

    def test_apart(self) -> None:
        """What is made of one is nothing to the next."""
        first = Sent().addCallback(lambda _: "changed")
        self.assertEqual(self.successResultOf(first), "changed")
        self.assertIsNone(self.successResultOf(Sent()))

    def test_price(self) -> None:
        """It takes fewer calls: nothing is made of which nobody knows whether it is needed."""
        self.assertLess(calls_of(Sent), calls_of(lambda: succeed(None)))
