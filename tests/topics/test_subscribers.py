"""Those who listen to one topic: in unison where that can be, else one by one."""

from __future__ import annotations

import json
from errno import ENOSPC
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import TRY_AGAIN_LATER
from pushd.access.counters import Traffic
from pushd.protocols.fast_paths import FAST_PATHS
from pushd.protocols.transport import unsent
from pushd.testing.daemon import Daemon
from pushd.topics.fanout import DirectWrite, Form
from pushd.topics.publication import Id, Publication
from pushd.topics.subscription import Subscription
from pushd.views.request import Request, accept_websocket
from tests.audience import HubTestCase, Listener
from tests.kernel import Server, open_websocket
from tests.peer import TEXT, close_frame, frame


@accept_websocket
async def both(request: Request) -> None:
    """Listen to two topics, and say everything once more."""
    for topic in "tu":
        request.websocket.subscribe(topic)
    async for message in request.websocket:
        request.websocket.send(message)


def plain(publication: Publication) -> bytes:
    """The data as it is."""
    return str(publication.data).encode()


def loud(publication: Publication) -> bytes:
    """The data, to be heard."""
    return str(publication.data).upper().encode()


class Singer(Listener):
    """A subscriber before whose socket nothing waits, as long as that takes what it gets."""

    def __init__(self, form: Form = plain) -> None:
        super().__init__()
        self.form = form
        self.takes = 100
        self.traffic = Traffic()
        # What came past it.
        self.heard: list[str] = []

    def part(self) -> DirectWrite | None:
        """Be told without being asked."""
        if self.takes <= 0:
            return None
        return DirectWrite(self.form, self._send, self._write, self.traffic)

    def _send(self, data: bytes) -> int:
        taken = data[: self.takes]
        self.heard.append(taken.decode())
        return len(taken)

    def _write(self, data: bytes) -> None:
        self.heard.append(f"…{data.decode()}")


class AudienceTests(HubTestCase):
    """How it comes to a unison, and how one leaves it."""

    def sing(self, form: Form = plain) -> tuple[Singer, Subscription]:
        """Subscribe one that can be told in unison."""
        singer = Singer(form)
        return singer, self.subscribe(singer)

    def test_unite(self) -> None:
        """Who has been told once is told in unison from then on, in its own form."""
        (first, _), (second, _) = self.sing(), self.sing(loud)
        other = self.listen()
        for text in ("a", "b", "c"):
            self.publish(text)
        self.assertEqual((first.events[1:], first.heard), (["a"], ["b", "c"]))
        self.assertEqual((second.events[1:], second.heard), (["a"], ["B", "C"]))
        self.assertEqual(other.events[1:], ["a", "b", "c"])
        self.assertEqual(self.hub.delivered, 9)
        self.assertEqual(self.hub.count("t"), 3)
        self.assertEqual(self.hub.subscribers("t"), [other, first, second])

    def test_late(self) -> None:
        """One who comes later joins those who are there, with the publication that all hear."""
        first, one = self.sing()
        self.publish("a")
        second, another = self.sing()
        self.publish("b")
        self.publish("c")
        self.assertEqual((first.heard, second.heard), (["b", "c"], ["c"]))
        self.assertIs(one.unison, another.unison)

    def test_short(self) -> None:
        """Whose socket does not take all gets the rest, and is told by itself from then on."""
        first, subscription = self.sing()
        second, _ = self.sing()
        self.publish("a")
        first.takes = 1
        self.publish("bcd")
        self.assertEqual((first.heard, second.heard), (["b", "…cd"], ["bcd"]))
        self.assertIsNone(subscription.unison)
        self.assertEqual(subscription.last, Id("e1", 2))
        first.takes = 0
        self.publish("e")
        self.assertEqual(first.events[1:], ["a", "e"])
        first.takes = 100
        self.publish("f")
        self.publish("g")
        self.assertEqual((first.events[1:], first.heard[2:]), (["a", "e", "f"], ["g"]))
        self.assertEqual(second.heard, ["bcd", "e", "f", "g"])

    def test_step_out(self) -> None:
        """One that is to be asked again is; nothing is missing, and nothing comes twice."""
        singer, subscription = self.sing()
        subscription.step_out()
        self.publish("a")
        self.publish("b")
        subscription.step_out()
        subscription.step_out()
        self.publish("c")
        self.publish("d")
        self.assertEqual((singer.events[1:], singer.heard), (["a", "c"], ["b", "d"]))

    def test_leave(self) -> None:
        """Who leaves hears nothing more, and the topic is forgotten with its last."""
        first, subscription = self.sing()
        self.publish("a")
        subscription.cancel()
        self.assertEqual(self.hub.count("t"), 0)
        self.assertEqual(self.hub.topics(), [])
        self.publish("b")
        self.assertEqual(first.heard, [])

    def test_gap(self) -> None:
        """What does not follow what they heard last is for each to sort out, from the past."""
        first, subscription = self.sing()
        second, _ = self.sing(loud)
        self.publish("a")
        self.publish("b")
        self.past.history.add("t", "missed")
        self.publish("c")
        for singer in (first, second):
            self.assertEqual(singer.events[1:], ["a", "missed", "c"])
        self.publish("d")
        self.publish("e")
        self.assertEqual(first.heard, ["b", "e"])
        self.assertIsNotNone(subscription.unison)

    def test_missed(self) -> None:
        """What can't be had any more ends those who have not heard it, also in unison."""
        (first, _), other = self.sing(), self.listen()
        last = [self.publish(text).id for text in ("a", "b")][-1]
        self.hub.missed("t", last)
        self.hub.missed("u", last)
        self.assertNotIn("lost", first.events)
        self.hub.missed("t", Id("e1", 3))
        self.assertEqual((first.events[-1], other.events[-1]), ("lost", "lost"))
        self.assertEqual(self.hub.topics(), [])

    def test_ahead(self) -> None:
        """Who has heard more than those in unison goes on by itself until they have, too."""
        first, _ = self.sing()
        self.publish("a")
        self.hub.deliver(self.past.history.add("t", "b"))
        # It has that from the past already, when it is told the turn's news.
        second = Singer()
        subscription = self.subscribe(second, "e1:0")
        self.assertEqual(second.events[1:], ["a", "b"])
        self.hub.flush()
        self.publish("c")
        self.publish("d")
        self.assertEqual(first.heard, ["b", "c", "d"])
        self.assertEqual((second.events[1:], second.heard), (["a", "b", "c"], ["d"]))
        self.assertIsNotNone(subscription.unison)

    def test_not_to_be_rendered(self) -> None:
        """What has no bytes in a form is no harm to those with another; each of its own fails."""

        def picky(publication: Publication) -> bytes:
            if publication.data == "b":
                raise ValueError
            return plain(publication)

        (first, _), (second, _) = self.sing(picky), self.sing()
        self.patch(first, "deliver", lambda batch: batch.render(picky))
        for text in ("a", "b", "c"):
            self.publish(text)
        self.assertEqual(first.events[1:], ["lost"])
        self.assertEqual(second.heard, ["b", "c"])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_settle(self) -> None:
        """What was told is counted on each connection when it is asked for."""
        singer, subscription = self.sing()
        self.listen(topic="u")
        for text in ("a", "bc", "def"):
            self.publish(text)
        self.assertEqual(singer.traffic.messages_out, 0)
        self.hub.settle()
        self.assertEqual((singer.traffic.messages_out, singer.traffic.bytes_out), (2, 5))
        self.publish("g")
        subscription.cancel()
        self.assertEqual((singer.traffic.messages_out, singer.traffic.bytes_out), (3, 6))


class SocketTests(SynchronousTestCase):
    """The same on Twisted's own transports, in a whole daemon."""

    def setUp(self) -> None:
        """Have somebody who listens to two topics, in unison with another in one of them."""
        self.patch(FAST_PATHS, "enabled", True)
        self.daemon = Daemon({"/both/": both}, max_per_address=1000)
        self.addCleanup(self.daemon.stop)
        self.first, self.second = (
            open_websocket(self.daemon, "/both/"),
            open_websocket(self.daemon, "/topics/t"),
        )
        for topic in "tu":
            self.publish("begin", topic)
        for server in (self.first, self.second):
            server.kernel.given.clear()

    def publish(self, data: str, topic: str = "t") -> None:
        """Publish, and let the turn end."""
        self.daemon.request("POST", f"/topics/{topic}", body=data.encode(), control=True)

    def sent_to(self, server: Server) -> bytes:
        """All that a browser has got."""
        return b"".join(server.kernel.given)

    def traffic(self) -> list[tuple[int, int]]:
        """The messages and bytes that the control port says each has got."""
        answer = self.daemon.request("GET", "/connections", control=True)
        assert answer is not None
        listed = json.loads(answer.body)["connections"]
        return [(one["messages_out"], one["bytes_out"]) for one in listed]

    def test_order(self) -> None:
        """What the kernel does not take is sent before all that comes later, from anywhere."""
        self.first.kernel.room = 4
        self.publish("one")
        # There is room again, but the transport has not been told yet.
        self.first.kernel.room = 100
        self.publish("two", "u")
        self.first.receive(frame(TEXT, b"three"))
        self.publish("four")
        self.assertEqual(self.sent_to(self.first), b"\x81\x03on")
        self.assertEqual(self.sent_to(self.second), b"\x81\x03one\x81\x04four")
        self.first.doWrite()
        said = b"\x81\x03one\x81\x03two\x81\x05three\x81\x04four"
        self.assertEqual(self.sent_to(self.first), said)
        for topic in "tutu":
            self.publish("x", topic)
        self.assertEqual(self.sent_to(self.first), said + b"\x81\x01x" * 4)

    def test_order_of_a_view(self) -> None:
        """What a view could not send whole is sent before what is published then."""
        self.first.kernel.room = 3
        self.first.receive(frame(TEXT, b"one"))
        self.first.kernel.room = 100
        self.publish("two")
        self.publish("three", "u")
        self.assertEqual(self.sent_to(self.first), b"\x81\x03o")
        self.first.doWrite()
        self.assertEqual(self.sent_to(self.first), b"\x81\x03one\x81\x03two\x81\x05three")

    def test_traffic(self) -> None:
        """What went out is counted for each, also while it is told in unison."""
        before = self.traffic()
        self.publish("one")
        self.publish("more", "u")
        after = self.traffic()
        self.assertEqual(after[0], (before[0][0] + 2, before[0][1] + 11))
        self.assertEqual(after[1], (before[1][0] + 1, before[1][1] + 5))
        metrics = self.daemon.request("GET", "/metrics", control=True)
        assert metrics is not None
        said = sum(messages for messages, _ in after)
        self.assertIn(f'pushd_sent_messages_total{{transport="websocket"}} {said}.0', metrics.text)

    def test_failing(self) -> None:
        """One whose rest can't be kept is ended, and the others have all of theirs."""
        third = open_websocket(self.daemon, "/topics/t")
        self.publish("begin")
        for server in (self.first, self.second, third):
            server.kernel.given.clear()
            server.kernel.room = 1
        failing: Any = self.first
        as_ever, errors = failing.startWriting, [OSError(ENOSPC, "no room to watch another")]

        def start_writing() -> None:
            if errors:
                raise errors.pop()
            as_ever()

        self.patch(failing, "startWriting", start_writing)
        self.publish("abc")
        for server in (self.second, third):
            server.kernel.room = 100
            server.doWrite()
            self.assertEqual(self.sent_to(server), b"\x81\x03abc")
        self.publish("next")
        self.assertEqual(self.sent_to(third), b"\x81\x03abc\x81\x04next")
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_gone(self) -> None:
        """Whose connection ends, is not written to any more; the other hears everything."""
        self.first.receive(close_frame(1000))
        self.assertFalse(self.first.connected)
        count = len(self.first.kernel.given)
        self.publish("one")
        self.publish("two", "u")
        self.assertEqual(len(self.first.kernel.given), count)
        self.assertEqual(self.sent_to(self.second), b"\x81\x03one")

    def test_slow(self) -> None:
        """One that reads nothing is cut off in its time, as it would be by itself."""
        self.second.kernel.room = 0
        for _ in range(20):
            self.publish("x" * 60_000)
        self.daemon.advance(11)
        self.second.kernel.room = 1 << 30
        while unsent(self.second):
            self.second.doWrite()
        self.assertIn(TRY_AGAIN_LATER.code.to_bytes(2, "big"), self.second.kernel.given[-1])
        self.assertEqual(self.sent_to(self.first).count(b"x"), 20 * 60_000)
