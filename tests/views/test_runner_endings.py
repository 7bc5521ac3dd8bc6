"""Random conversations and their ends: no message is lost, and every view comes to its end.

Clients send more than the inbox takes, and are reset while it is full; views close, too, and their
last word is read slowly, or not to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.limits import Limits
from pushd.testing import Daemon
from pushd.views.decorators import accept_websocket
from pushd.views.request import Request, View
from tests.support.peer import TEXT, Peer, close_frame, frame, handshake

# What a client does: how many messages it sends, or what else; and the ends of its conversation.
STEPS = st.lists(st.sampled_from([1, 1, 1, 70, "pause", "stall", "resume"]), max_size=12)
ENDS: dict[str, Callable[[Peer], object]] = {
    "close": lambda peer: peer.send(close_frame(4000, b"bye")),
    "close and reset": lambda peer: peer.reset(close_frame(4000, b"bye")),
    "reset": lambda peer: peer.reset(),
    "violation": lambda peer: peer.send(b"\xff" * 20),
}
# What it means for the view; a violation is met by us.
CODES = {"close": 4000, "close and reset": 4000, "reset": 1006, "violation": 1002}

# Seconds that a view takes for each message: less than its grace, which each message renews, a
# minute in all.
SPEEDS = st.sampled_from([0.0, 1 / 64, 0.5, 2.0])
_PATIENCE = 40.0

# How a client reads the last word of a view: seconds until it takes the next part of it.
PACES = st.lists(st.sampled_from([0.5, 2.0, 4.5]), max_size=6)


class Conversation:
    """Views of each kind that save each message, answer it, and clean up."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.saved: list[str] = []
        self.rooms: list[Any] = []
        self.codes: list[int | None] = []
        self.cleaned_up = 0

    async def coroutine(self, request: Request) -> None:
        """Save on the reactor."""
        self.rooms.append(request.websocket)
        async for message in request.websocket:
            await deferLater(request.clock, self.seconds)
            self.saved.append(message)
            for websocket in self.rooms:
                websocket.send("ok")
        await request.websocket.subscribe("t")
        self.clean_up(request)

    @inlineCallbacks
    def deferred(self, request: Request) -> Generator[Deferred[Any], Any, None]:
        """Save on the reactor, with a Deferred."""
        self.rooms.append(request.websocket)
        while (message := (yield request.websocket.wait())) is not None:
            yield deferLater(request.clock, self.seconds)
            self.saved.append(message)
            for websocket in self.rooms:
                websocket.send("ok")
        self.clean_up(request)

    def blocking(self, request: Request) -> None:
        """Save in a thread."""
        self.rooms.append(request.websocket)
        for message in request.websocket:
            request.websocket._bridge.call(lambda: deferLater(request.clock, self.seconds))
            self.saved.append(message)
            for websocket in self.rooms:
                websocket.send("ok")
        request.websocket.subscribe("t")
        self.clean_up(request)

    def clean_up(self, request: Request) -> None:
        """Tell all, and leave."""
        self.codes.append(request.websocket.close_code)
        for websocket in self.rooms:
            websocket.send("gone")
        self.rooms.remove(request.websocket)
        self.cleaned_up += 1

    @property
    def views(self) -> list[View]:
        """All kinds."""
        return [self.coroutine, self.deferred, self.blocking]


class LastWord:
    """Views of each kind that answer the first message, and close."""

    def __init__(self, size: int) -> None:
        self.text = "x" * size
        #: Whether ``send`` has returned, so that the view closes.
        self.has_sent = False
        self.cleaned_up = 0

    async def coroutine(self, request: Request) -> None:
        """Answer on the reactor, and wait for each step."""
        await request.websocket.wait()
        await request.websocket.send(self.text)
        self.has_sent = True
        await request.websocket.close(4000, "bye")
        self.cleaned_up += 1

    @inlineCallbacks
    def deferred(self, request: Request) -> Generator[Deferred[Any], Any, None]:
        """Answer on the reactor, with a Deferred."""
        yield request.websocket.wait()
        request.websocket.send(self.text)
        self.has_sent = True
        request.websocket.close(4000, "bye")
        self.cleaned_up += 1

    def blocking(self, request: Request) -> None:
        """Answer in a thread."""
        request.websocket.wait()
        request.websocket.send(self.text)
        self.has_sent = True
        request.websocket.close(4000, "bye")
        self.cleaned_up += 1

    @property
    def views(self) -> list[View]:
        """All kinds."""
        return [self.coroutine, self.deferred, self.blocking]


def _connect(daemon: Daemon, *, tls: bool) -> Peer:
    peer = Peer(daemon, tls=tls)
    peer.send(handshake("/view/"))
    return peer


class EndingTests(SynchronousTestCase):
    @settings(max_examples=100, deadline=None)
    @given(STEPS, st.sampled_from([*ENDS]), SPEEDS, st.integers(0, 2), st.booleans())
    def test_nothing_lost(
        self, steps: list[int | str], end: str, seconds: float, kind: int, tls: bool
    ) -> None:
        """Each message is saved in order, clean-up runs, and another client is not affected."""
        count = sum(step for step in steps if isinstance(step, int))
        conversation = Conversation(seconds if seconds * count < _PATIENCE else 1 / 64)
        view = conversation.views[kind]

        @accept_websocket
        async def staying(request: Request) -> None:
            await request.websocket.wait()
            for websocket in ended:
                websocket.send("hello")
            await request.websocket.send("still here")
            await request.websocket.wait()

        ended: list[Any] = []
        # A blocking WebSocket must not be used on the reactor.
        on_reactor = view != conversation.blocking
        views = {"/view/": accept_websocket(view), "/staying/": staying}
        with Daemon(views, limits=Limits(compression=False)) as daemon:
            other, peer = daemon.connect("/staying/"), _connect(daemon, tls=tls)
            if on_reactor:
                ended += conversation.rooms
            sent: list[str] = []
            for step in steps:
                if isinstance(step, int):
                    texts = [str(number) for number in range(len(sent), len(sent) + step)]
                    peer.send(b"".join(frame(TEXT, text.encode()) for text in texts))
                    sent += texts
                elif step == "pause":
                    peer.advance(1 / 8)
                elif step == "stall":
                    peer.stall()
                else:
                    peer.resume()
            ENDS[end](peer)
            other.send("go")
            self.assertEqual(other.messages, ["still here"])
            while not conversation.cleaned_up and daemon.clock.seconds() < 60:
                peer.advance(conversation.seconds or 1)
            peer.advance(5, 5, 5)
            self.assertEqual(conversation.saved, sent)
            self.assertEqual((conversation.cleaned_up, conversation.rooms), (1, []))
            self.assertEqual(conversation.codes, [CODES[end]])
            self.assertFalse(other.gone)
            other.leave()
            self.assertEqual(daemon.pending_calls, [])

    @settings(max_examples=100, deadline=None)
    @given(
        st.sampled_from([10_000, 60_000, 900_000]),
        PACES,
        st.booleans(),
        st.integers(0, 2),
        st.booleans(),
    )
    def test_last_word(
        self, size: int, paces: list[float], to_its_end: bool, kind: int, tls: bool
    ) -> None:
        """What is sent before a view closes arrives with the code, or the log says what did not."""
        last = LastWord(size)
        views = {"/view/": accept_websocket(last.views[kind])}
        with Daemon(views, limits=Limits(compression=False)) as daemon, capturedLogs() as events:
            peer = _connect(daemon, tls=tls)
            peer.stall()
            peer.send(frame(TEXT, b"go"))
            for pace in paces:
                peer.advance(pace)
                peer.server.take(size // 8 + 100)
            if to_its_end:
                peer.resume()
                self.assertEqual((peer.texts, peer.code), ([last.text], 4000))
                peer.send(close_frame(4000))
            untaken, side = peer.server.unsent, "us" if last.has_sent else "peer"
            self.assertEqual(untaken == 0, to_its_end)
            peer.vanish()
            [event] = [event for event in events if event.get("event") == "closed"]
            code = 4000 if to_its_end else 1006
            self.assertEqual((event["code"], event["by"]), (code, side))
            self.assertEqual(event["bytes_untaken"], untaken)
            peer.advance(5)
            self.assertEqual((last.cleaned_up, daemon.pending_calls), (1, []))
