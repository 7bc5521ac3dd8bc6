"""How a subscription reconnects, resumes, and changes its transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pushd.aio import subscription
from pushd.aio.messages import Began, Broken, Message
from pushd.aio.subscription import Subscription
from pushd.errors import PushdError, Refused, Unreachable


def began(topic: str, id: str) -> dict[str, Any]:
    """Return the message that a subscription begins with."""
    return {"subscribed": topic, "id": id, "recovered": True}


def message(topic: str, id: str) -> dict[str, Any]:
    """Return a publication."""
    return {"topic": topic, "id": id, "data": "x"}


class ScriptedTransport:
    """A transport whose connections receive what a test has written."""

    def __init__(self, *connections: list[Any]) -> None:
        self._connections = list(connections)
        #: The positions that each connection was opened with.
        self.opened: list[dict[str, str | None]] = []

    async def __call__(self, positions: Mapping[str, str | None]) -> AsyncGenerator[Any, None]:
        """Yield values, and raise exceptions."""
        self.opened.append(dict(positions))
        for value in self._connections.pop(0):
            if isinstance(value, PushdError):
                raise value
            yield value


class SubscriptionTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Let pauses be as long as they may."""
        self.patch(subscription, "uniform", lambda low, high: high)
        self.pauses: list[float] = []

    async def pause(self, seconds: float) -> bool:
        """Record a pause, and go on after the first ten."""
        self.pauses.append(seconds)
        return len(self.pauses) < 10

    def follow(
        self, *transports: ScriptedTransport, topics: tuple[str, ...] = ("t",), **options: Any
    ) -> list[Any]:
        """Return what a subscription yields, and the exception that ends it, if one does."""

        async def run() -> list[Any]:
            positions: dict[str, str | None] = dict.fromkeys(topics)
            followed = Subscription(positions, transports, pause=self.pause, **options)
            got: list[Any] = []
            try:
                async for event in followed.follow():
                    got.append(event)
            except PushdError as error:
                got.append(error)
            return got

        return asyncio.run(run())

    def test_resume(self) -> None:
        """Each topic resumes after the last id that it had."""
        away = Refused(403, "no", "token", None)
        transport = ScriptedTransport(
            [began("a", "e:0"), began("b", "f:7"), message("a", "e:1"), message("c", "g:1")],
            [25, began("a", "e:1"), away],
        )
        got = self.follow(transport, topics=("a", "b"))
        expected = [Began("a", "e:0", True), Began("b", "f:7", True), Message("a", "e:1", "x")]
        self.assertEqual(got[:3], expected)
        self.assertEqual(got[3:5], [Broken("the connection ended", 0.5), Began("a", "e:1", True)])
        self.assertIs(got[5], away)
        self.assertEqual(transport.opened, [{"a": None, "b": None}, {"a": "e:1", "b": "f:7"}])

    def test_pauses(self) -> None:
        """Pauses grow to 20 seconds, begin anew after a message, and heed Retry-After."""
        busy = Refused(503, "busy", None, 60.0)
        lost = Unreachable("lost")
        transport = ScriptedTransport(
            [began("t", "e:0"), lost], *[[lost]] * 6, [busy], [began("t", "e:0"), lost], [lost]
        )
        self.follow(transport)
        self.assertEqual(self.pauses, [0.5, 1, 2, 4, 8, 16, 20, 60, 0.5, 1])

    def test_first_fails(self) -> None:
        """If nothing was ever received, a failure is raised."""
        for error in (Unreachable("lost"), Refused(503, "busy", None, None)):
            self.assertEqual(self.follow(ScriptedTransport([error])), [error])

    def test_fallback(self) -> None:
        """The next transport is tried at once if nothing was received, and then kept."""
        lost, blocked = Unreachable("lost"), Refused(400, "proxy", None, None)
        for error in (lost, blocked, Refused(426, "no Upgrade", "Upgrade", None)):
            self.pauses = []
            first = ScriptedTransport([error])
            end = Refused(404, "end", "topic", None)
            second = ScriptedTransport([began("t", "e:0"), lost], [began("t", "e:0"), end])
            got = self.follow(first, second)
            self.assertEqual([type(one) for one in got], [Began, Broken, Began, Refused])
            self.assertEqual((len(first.opened), len(second.opened)), (1, 2))

    def test_no_fallback(self) -> None:
        """What pushd itself refuses is not tried over another transport."""
        denied = Refused(403, "denied", "token", None)
        second = ScriptedTransport()
        self.assertEqual(self.follow(ScriptedTransport([denied]), second), [denied])
        self.assertEqual(second.opened, [])

    def test_no_fallback_after_message(self) -> None:
        """A transport that has worked is used again."""
        end = Refused(404, "end", "topic", None)
        lost = Unreachable("lost")
        first = ScriptedTransport([began("t", "e:0"), lost], [began("t", "e:0"), end])
        second = ScriptedTransport()
        self.follow(first, second)
        self.assertEqual((len(first.opened), len(second.opened)), (2, 0))

    def test_malformed(self) -> None:
        """What pushd does not send breaks the connection."""
        got = self.follow(ScriptedTransport([{"subscribed": "t"}]))
        self.assertIsInstance(got[0], Unreachable)
        self.assertIn("does not respond as pushd does", str(got[0]))

    def test_token(self) -> None:
        """A token that was refused is replaced once, where that is possible."""
        old = Refused(401, "expired", "token", None)
        self.assertEqual(self.follow(ScriptedTransport([old])), [old])
        transport = ScriptedTransport([old], [began("t", "e:0"), old], [old])
        got = self.follow(transport, renews_token=True)
        self.assertEqual([type(one) for one in got], [Broken, Began, Broken, Refused])

    def test_stop(self) -> None:
        """It ends when the pause says so."""
        self.pauses = [0.0] * 9
        got = self.follow(ScriptedTransport([began("t", "e:0")]))
        self.assertEqual([type(one) for one in got], [Began, Broken])
