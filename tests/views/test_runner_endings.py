"""Random conversations and their ends: no message is lost, and every view comes to its end."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.limits import Limits
from pushd.testing import Browser, Daemon
from pushd.views.decorators import accept_websocket
from pushd.views.request import Request, View

# What a client does, and the ends of its conversation.
STEPS = st.lists(st.sampled_from(["send", "send", "send", "pause", "stall", "resume"]), max_size=20)
ENDS: dict[str, Callable[[Browser], object]] = {
    "close": lambda browser: browser.close(4000, "bye"),
    "reset": lambda browser: browser.leave(),
    "violation": lambda browser: browser.send_bytes(b"\xff" * 20),
}

# Seconds that a view takes for each message: less than its grace, which each message renews.
SPEEDS = st.sampled_from([0.0, 0.01, 0.5, 2.0])


class Conversation:
    """Views of each kind that save each message, answer it, and clean up."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.saved: list[str] = []
        self.rooms: list[Any] = []
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
        for websocket in self.rooms:
            websocket.send("gone")
        self.rooms.remove(request.websocket)
        self.cleaned_up += 1

    @property
    def views(self) -> list[View]:
        """All kinds."""
        return [self.coroutine, self.deferred, self.blocking]


class EndingTests(SynchronousTestCase):
    @settings(max_examples=60, deadline=None)
    @given(STEPS, st.sampled_from([*ENDS]), SPEEDS, st.integers(0, 2))
    def test_nothing_lost(self, steps: list[str], end: str, seconds: float, kind: int) -> None:
        """Each message is saved in order, clean-up runs, and another client is not affected."""
        conversation = Conversation(seconds)
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
            other, browser = daemon.connect("/staying/"), daemon.connect("/view/")
            if on_reactor:
                ended += conversation.rooms
            sent: list[str] = []
            for step in steps:
                if step == "send":
                    sent.append(str(len(sent)))
                    browser.send(sent[-1])
                elif step == "pause":
                    daemon.advance(0.1)
                elif step == "stall":
                    browser.stall()
                else:
                    browser.resume()
            ENDS[end](browser)
            other.send("go")
            self.assertEqual(other.messages, ["still here"])
            daemon.advance(*[0.5] * 100)
            self.assertEqual(conversation.saved, sent)
            self.assertEqual((conversation.cleaned_up, conversation.rooms), (1, []))
            self.assertFalse(other.gone)
            other.leave()
            self.assertEqual(daemon.pending_calls, [])
