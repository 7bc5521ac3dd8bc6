"""Topics in a view's hands: subscribe, unsubscribe, and what becomes of them at the end."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.task import Clock, deferLater
from twisted.logger import capturedLogs

from pushd.access.closing import HISTORY_GAP, TRY_AGAIN_LATER
from pushd.protocols.websocket.socket import WebSocket
from pushd.protocols.websocket.subscriber import WebSocketSubscriber
from pushd.testing.daemon import Browser
from pushd.topics.publication import Id, Publication
from pushd.topics.subscription import LAG_TIMEOUT
from pushd.views.request import Request, accept_websocket
from tests.listeners import MIB, TopicTestCase


class SubscribeTests(TopicTestCase):
    """A view whose WebSocket the test uses itself."""

    def setUp(self) -> None:
        """Serve a view that only listens."""
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
        """Connect; gives both ends."""
        browser = self.daemon.connect("/view", subprotocols=subprotocols)
        return browser, self.websockets[-1]

    def subscribe(self, websocket: WebSocket, topic: str, after: str | None = None) -> bool:
        """Subscribe; what is sent has arrived then."""
        recovered: bool = self.successResultOf(websocket.subscribe(topic, after))
        self.daemon.settle()
        return recovered

    def test_send_after_the_end(self) -> None:
        """What is published in the same turn may end it: nothing follows the Close frame."""
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
        """One whose buffer is full when it subscribes is closed, and nobody complains."""

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
        """A topic that is left while the connection is full is forgotten."""
        ids = self.publish_many("t", ["x" * 100_000] * 4)
        browser, websocket = self.open()
        browser.stall()
        for _ in range(50):
            websocket.subscribe("t", ids[0])
            websocket.unsubscribe("t")
        self.assertEqual(len(websocket.send_queue), 0)

    def test_recovered(self) -> None:
        """It tells whether nothing is missing since the id."""
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
        """What is no topic, no id, or subscribed to already is raised; the socket is as it was."""
        browser, websocket = self.open()
        self.subscribe(websocket, "t")
        for topic, after in (("", None), ("a b", None), ("u", "x"), ("u", ""), ("t", None)):
            self.assertRaises(ValueError, websocket.subscribe, topic, after)
        self.publish("t", "x")
        self.assertEqual(browser.messages, ["x"])
        self.assertEqual(self.describe("u")["subscribers"], {})

    def test_no_hub(self) -> None:
        """A WebSocket that was made without topics says so."""
        websocket = WebSocket(None, Clock())  # type: ignore[arg-type]
        self.assertRaises(RuntimeError, websocket.subscribe, "t")

    def test_opens(self) -> None:
        """Subscribing opens the connection, in JSON where the view has agreed on that."""

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
        """After the end of the conversation, nobody is subscribed any more, nor can be."""
        browser, websocket = self.open()
        self.subscribe(websocket, "t")
        browser.leave()
        self.assertEqual(self.describe("t")["subscribers"], {})
        self.assertIs(self.subscribe(websocket, "t"), False)
        websocket.unsubscribe("t")
        self.assertEqual(self.describe("t")["subscribers"], {})

    def test_view_goes_on(self) -> None:
        """A view that goes on subscribing after the end is ended."""
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
        """Many long histories on one connection go at its pace, and none of them is forgotten."""
        for topic in ("t", "u", "v"):
            for number in range(10):
                self.publish(topic, f"{topic}{number} {'x' * 90_000}")
        browser, websocket = self.open()
        browser.stall()
        begun = []
        for topic in ("t", "u", "v"):
            epoch = self.describe(topic)["id"].partition(":")[0]
            begun.append(websocket.subscribe(topic, f"{epoch}:0"))
        # There was room for the first; the others have not even begun.
        self.assertIs(self.successResultOf(begun[0]), True)
        self.assertNoResult(begun[1])
        for _ in range(10):
            self.daemon.settle()
            self.assertLess(browser._transport.other.unsent, MIB // 2)
        browser.resume()
        self.assertEqual(len(browser.messages), 30)
        for topic in ("t", "u", "v"):
            of_topic = [str(one)[:2] for one in browser.messages if str(one)[0] == topic]
            self.assertEqual(of_topic, [f"{topic}{number}" for number in range(10)])
        self.assertIs(self.successResultOf(begun[2]), True)

    def test_resuming_costs_what_waits(self) -> None:
        """When there is room again, only those are asked who have something left to send."""
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
        """A subscription that never began is over with the conversation."""
        ids = self.publish_many("t", ["1", "2"])
        browser, websocket = self.open()
        websocket.send_queue.pause()
        begun = websocket.subscribe("t", ids[0])
        self.assertNoResult(begun)
        browser.leave()
        self.assertIs(self.successResultOf(begun), False)
        self.assertEqual(self.describe("t")["subscribers"], {})

    def test_publishing_at_the_end(self) -> None:
        """What a view publishes as its conversation ends is not sent there any more."""
        ids = self.publish_many("late", ["1", "2"])
        noted: list[bool] = []

        @accept_websocket
        async def view(request: Request) -> None:
            websocket = request.websocket
            websocket.accept()
            websocket.send_queue.pause()
            begun = websocket.subscribe("late", ids[0])
            websocket.subscribe("live")
            noted.append(await begun)
            await request.publish("live", "too late")

        self.start({"/view": view})
        ids = self.publish_many("late", ["1", "2"])
        browser = self.daemon.connect("/view")
        browser.close()
        self.assertEqual((noted, browser.messages), ([False], []))
        self.assertEqual(self.describe("live")["history"], 1)
        self.assertEqual(self.describe("live")["subscribers"], {})

    def test_slow(self) -> None:
        """One that is too slow for what comes is closed, and its view is over."""
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
        """One connection may listen to thousands of topics; nothing runs for those in silence."""
        browser, websocket = self.open()
        calls = len(self.daemon.pending_calls)
        for number in range(3000):
            websocket.subscribe(f"t/{number}")
        self.assertEqual(len(self.daemon.pending_calls), calls)
        self.publish("t/1234", "x")
        self.assertEqual(browser.messages, ["x"])
        browser.leave()
        self.assertEqual(self.daemon._service._broker._deliver.__self__._topics, {})  # type: ignore[attr-defined]
