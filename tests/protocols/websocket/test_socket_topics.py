"""WebSocket.subscribe() and unsubscribe(), and the end of subscriptions."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.task import Clock, deferLater
from twisted.logger import capturedLogs

from pushd.access.closing import HISTORY_GAP, TRY_AGAIN_LATER
from pushd.protocols.websocket.socket import WebSocket
from pushd.protocols.websocket.subscriber import WebSocketSubscriber
from pushd.testing import Browser
from pushd.topics.publication import Id, Publication
from pushd.topics.subscription import LAG_TIMEOUT
from pushd.views.decorators import accept_websocket
from pushd.views.request import Request
from tests.support.topic_clients import MIB, TopicTestCase


class SubscribeTests(TopicTestCase):
    """The test uses the WebSocket of a view."""

    def setUp(self) -> None:
        """Serve a view that only reads."""
        super().setUp()
        self.serve()

    def serve(self, **settings: Any) -> None:
        """Run a daemon with that view."""
        self.websockets: list[WebSocket] = []

        @accept_websocket
        async def view(request: Request) -> None:
            self.websockets.append(request.websocket)
            async for _ in request.websocket:
                pass

        self.start({"/view": view}, **settings)

    def open(self, *subprotocols: str) -> tuple[Browser, WebSocket]:
        """Connect; return both ends."""
        browser = self.daemon.connect("/view", subprotocols=subprotocols)
        return browser, self.websockets[-1]

    def subscribe(self, websocket: WebSocket, topic: str, after: str | None = None) -> bool:
        """Subscribe, and let what is sent arrive."""
        recovered: bool = self.successResultOf(websocket.subscribe(topic, after))
        self.daemon.settle()
        return recovered

    def test_send_after_the_end(self) -> None:
        """A publication in the same iteration may close it: no message follows the Close."""
        browser, websocket = self.open()
        self.subscribe(websocket, "t")
        hub = websocket._hub
        assert hub is not None
        hub.deliver(Publication("t", "x", Id("other", 1)))
        sent: list[bytes] = []
        self.patch(websocket.wire, "push", lambda payload, *, binary: sent.append(payload))
        self.successResultOf(websocket.send("after"))
        self.assertEqual(sent, [])
        self.daemon.settle()
        self.assertEqual((browser.messages, browser.closing), ([], HISTORY_GAP))

    def test_no_room_to_begin(self) -> None:
        """A WebSocket whose buffer is full when it subscribes is closed, without a failure."""

        @accept_websocket
        async def view(request: Request) -> None:
            request.websocket.accept("pushd.v1")
            self.websockets.append(request.websocket)
            await request.websocket.wait()

        self.start({"/view": view})
        browser, websocket = self.open("pushd.v1")
        browser.stall()
        for _ in range(2):
            websocket.send("x" * 900_000)
        with capturedLogs() as events:
            self.assertIs(self.subscribe(websocket, "t"), False)
        browser.resume()
        self.assertEqual(browser.closing, TRY_AGAIN_LATER)
        self.assertFalse([event for event in events if "log_failure" in event])

    def test_unsubscribe_without_room(self) -> None:
        """A topic that is unsubscribed from while the buffer is full is forgotten."""
        ids = self.publish_many("t", ["x" * 100_000] * 4)
        browser, websocket = self.open()
        browser.stall()
        for _ in range(50):
            websocket.subscribe("t", ids[0])
            websocket.unsubscribe("t")
        self.assertEqual(len(websocket.send_queue), 0)

    def test_recovered(self) -> None:
        """subscribe() gives True if nothing is missing since the id."""
        ids = self.publish_many("t", ["1", "2"])
        for after, recovered, messages in (
            (None, False, []),
            (ids[0], True, ["2"]),
            ("other:1", False, []),
        ):
            browser, websocket = self.open()
            self.assertIs(self.subscribe(websocket, "t", after), recovered)
            self.assertEqual(browser.messages, messages)

    def test_mistakes(self) -> None:
        """An invalid topic or id, or a second subscription, raises ValueError."""
        browser, websocket = self.open()
        self.subscribe(websocket, "t")
        for topic, after in (("", None), ("a b", None), ("u", "x"), ("u", ""), ("t", None)):
            self.assertRaises(ValueError, websocket.subscribe, topic, after)
        self.publish("t", "x")
        self.assertEqual(browser.messages, ["x"])
        self.assertEqual(self.describe("u")["subscribers"], {})

    def test_no_hub(self) -> None:
        """A WebSocket without topics raises RuntimeError."""
        offer: Any = None
        websocket = WebSocket(offer, Clock())
        self.assertRaises(RuntimeError, websocket.subscribe, "t")

    def test_opens(self) -> None:
        """Subscribing accepts the connection; with pushd.v1 publications are JSON."""

        @accept_websocket
        async def plain(request: Request) -> None:
            await request.websocket.subscribe("t")
            await deferLater(request.clock, 10)

        @accept_websocket
        async def wrapped(request: Request) -> None:
            request.websocket.accept("pushd.v1")
            await plain(request)

        self.start({"/plain": plain, "/wrapped": wrapped})
        first = self.daemon.connect("/plain")
        second = self.daemon.connect("/wrapped", subprotocols=["pushd.v1"])
        id = self.publish("t", "x")
        self.assertEqual(first.messages, ["x"])
        self.assertEqual(
            [json.loads(message) for message in second.messages][1:], [{"id": id, "data": "x"}]
        )
        self.daemon.advance(10)
        self.assertEqual(self.describe("t")["subscribers"], {})

    def test_after_the_end(self) -> None:
        """After the end there is no subscription, and subscribe() gives False."""
        browser, websocket = self.open()
        self.subscribe(websocket, "t")
        browser.leave()
        self.assertEqual(self.describe("t")["subscribers"], {})
        self.assertIs(self.subscribe(websocket, "t"), False)
        websocket.unsubscribe("t")
        self.assertEqual(self.describe("t")["subscribers"], {})

    def test_view_goes_on(self) -> None:
        """A view that goes on subscribing after the end is cancelled."""
        ended = []

        @accept_websocket
        async def stubborn(request: Request) -> None:
            try:
                await request.websocket.close()
                while True:
                    await request.websocket.subscribe("t")
            finally:
                ended.append(True)

        self.start({"/stubborn": stubborn})
        self.daemon.connect("/stubborn")
        self.assertEqual(ended, [True])

    def test_pace(self) -> None:
        """Long histories of several topics are sent at the pace of the connection, all of them."""
        for topic in ("t", "u", "v"):
            for number in range(10):
                self.publish(topic, f"{topic}{number} {'x' * 90_000}")
        browser, websocket = self.open()
        browser.stall()
        started = []
        for topic in ("t", "u", "v"):
            epoch = self.describe(topic)["id"].partition(":")[0]
            started.append(websocket.subscribe(topic, f"{epoch}:0"))
        # There was room for the first; the others have not started.
        self.assertIs(self.successResultOf(started[0]), True)
        self.assertNoResult(started[1])
        for _ in range(10):
            self.daemon.settle()
            self.assertLess(browser._transport.other.unsent, MIB // 2)
        browser.resume()
        self.assertEqual(len(browser.messages), 30)
        for topic in ("t", "u", "v"):
            of_topic = [str(one)[:2] for one in browser.messages if str(one)[0] == topic]
            self.assertEqual(of_topic, [f"{topic}{number}" for number in range(10)])
        self.assertIs(self.successResultOf(started[2]), True)

    def test_resuming_costs_what_waits(self) -> None:
        """When there is room again, only subscribers with something to send are resumed."""
        _, websocket = self.open()
        for number in range(100):
            id = self.publish(f"idle/{number}", "x")
            self.subscribe(websocket, f"idle/{number}", f"{id.partition(':')[0]}:0")
        asked: list[WebSocketSubscriber] = []
        self.patch(WebSocketSubscriber, "resume", asked.append)
        websocket.send_queue.pause()
        websocket.send_queue.resume()
        self.assertEqual(asked, [])

    def test_left_while_waiting(self) -> None:
        """At the end a subscription that has not started gives False."""
        ids = self.publish_many("t", ["1", "2"])
        browser, websocket = self.open()
        websocket.send_queue.pause()
        started = websocket.subscribe("t", ids[0])
        self.assertNoResult(started)
        browser.leave()
        self.assertIs(self.successResultOf(started), False)
        self.assertEqual(self.describe("t")["subscribers"], {})

    def test_publishing_at_the_end(self) -> None:
        """A publication of a view whose conversation ends is not sent to it."""
        ids = self.publish_many("late", ["1", "2"])
        noted: list[bool] = []

        @accept_websocket
        async def view(request: Request) -> None:
            websocket = request.websocket
            websocket.accept()
            websocket.send_queue.pause()
            started = websocket.subscribe("late", ids[0])
            websocket.subscribe("live")
            noted.append(await started)
            await request.publish("live", "too late")

        self.start({"/view": view})
        ids = self.publish_many("late", ["1", "2"])
        browser = self.daemon.connect("/view")
        browser.close()
        self.assertEqual((noted, browser.messages), ([False], []))
        self.assertEqual(self.describe("live")["history"], 1)
        self.assertEqual(self.describe("live")["subscribers"], {})

    def test_slow(self) -> None:
        """A browser that is too slow is closed with 1013, and its view ends."""
        browser, websocket = self.open()
        self.subscribe(websocket, "t")
        browser.stall()
        for _ in range(4):
            self.publish("t", "x" * (MIB // 2))
        self.assertFalse(websocket.is_closed())
        self.daemon.advance(LAG_TIMEOUT)
        self.assertTrue(websocket.is_closed())
        self.assertEqual(self.describe("t")["subscribers"], {})
        browser.resume()
        self.assertEqual(browser.closing, TRY_AGAIN_LATER)

    def test_many(self) -> None:
        """One connection can subscribe to thousands of topics; idle ones have no timer."""
        browser, websocket = self.open()
        calls = len(self.daemon.pending_calls)
        for number in range(3000):
            websocket.subscribe(f"t/{number}")
        self.assertEqual(len(self.daemon.pending_calls), calls)
        self.publish("t/1234", "x")
        self.assertEqual(browser.messages, ["x"])
        browser.leave()
        hub: Any = self.websockets[-1]._hub
        self.assertEqual(hub._topics, {})
