"""``request.publish`` in async and in blocking views."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import Deferred

from pushd.access.limits import Limits
from pushd.errors import TooManyScheduled
from pushd.topics import scheduled
from pushd.topics.publication import Id
from pushd.topics.rules import Rule, Rules
from pushd.views.decorators import accept_websocket, require_websocket
from pushd.views.request import Request
from tests.support.topic_clients import TopicTestCase, V1WebSocketClient


class ViewTestCase(TopicTestCase):
    """A daemon with views that run a function of the test."""

    def setUp(self) -> None:
        """Serve an async view and a blocking one."""
        super().setUp()
        self.results: list[Any] = []
        self.task: Any = None

        async def asynchronous(request: Request) -> str:
            result = self.task(request)
            self.results.append(await result if isinstance(result, Deferred) else result)
            return "done"

        def blocking(request: Request) -> str:
            self.results.append(self.task(request))
            return "done"

        self.views = {"/async": asynchronous, "/blocking": blocking}
        self.start(self.views)

    def run_task(self, task: Any, path: str) -> Any:
        """Run a function in a view, and return its result."""
        self.task = task
        answer = self.daemon.get(path)
        assert answer is not None
        self.assertEqual(answer.text, "done")
        return self.results.pop()


class PublisherTests(ViewTestCase):
    """Publishing in both kinds of view."""

    def test_json(self) -> None:
        """A view publishes a dict or list as JSON, with an event, at once and later."""
        browser = self.daemon.connect("/topics/t?format=json", subprotocols=("pushd.v1",))
        for path in self.views:
            for times in ({}, {"delay": 1}):
                self.run_task(
                    lambda request, t=times: request.publish("t", {"é": [1]}, event="paid", **t),
                    path,
                )
                self.daemon.advance(1)
                self.assertIn(',"event":"paid","data":{"é":[1]}}', browser.messages[-1])
        self.assertEqual(len(browser.messages), 5)

    def test_publish(self) -> None:
        """A view publishes text and bytes, and gets the id of each."""
        client = V1WebSocketClient(self.daemon, "t")
        for path in self.views:
            for data in ("text", b"bytes"):
                id = self.run_task(lambda request, d=data: request.publish("t", d), path)
                assert isinstance(id, Id)
                self.assertEqual((str(id), data), client.got[-1])
        self.assertEqual(len(client.got), 4)

    def test_last_id(self) -> None:
        """A view gets the id of a topic's newest publication, also of a topic that is new."""
        for path in self.views:
            last = self.run_task(lambda request: request.last_id("t"), path)
            id = self.run_task(lambda request: request.publish("t", "x"), path)
            self.assertEqual((id.epoch, id.offset), (last[:-2], int(last[-1]) + 1))
            self.assertEqual(self.run_task(lambda request: request.last_id("t"), path), str(id))

            def fail(request: Request) -> None:
                self.assertRaises(ValueError, request.last_id, "no topic")

            self.run_task(fail, path)

    def test_presence(self) -> None:
        """A view asks who is present; a topic without presence cannot be asked about."""
        self.start(self.views, rules=Rules([Rule(match="t", presence=True)]))
        self.daemon.connect("/topics/t?client=tab")
        for path in self.views:
            listed = self.run_task(lambda request: request.presence("t"), path)
            self.assertEqual([one.connection for one in listed.subjects], ["tab"])

            def fail(request: Request) -> None:
                self.assertRaises(ValueError, request.presence, "u")

            self.run_task(fail, path)

    def test_delay(self) -> None:
        """With a delay the publication is made later."""
        client = V1WebSocketClient(self.daemon, "t")
        for path in self.views:
            before = len(client.got)
            self.run_task(lambda request: request.publish("t", "x", delay=2), path)
            self.daemon.advance(1.9)
            self.assertEqual(len(client.got), before)
            self.daemon.advance(0.1)
            self.assertEqual(len(client.got), before + 1)

    def test_every(self) -> None:
        """With every and count it is made repeatedly, until the handle cancels it."""
        client = V1WebSocketClient(self.daemon, "t")
        for path in self.views:
            handles: list[Any] = []

            def start(request: Request, handles: list[Any] = handles) -> None:
                handles.append(request.publish("t", "x", every=0.5, count=10))

            before = len(client.got)
            self.run_task(start, path)
            (handle,) = handles
            self.daemon.advance(*[0.5] * 4)
            self.assertEqual(len(client.got) - before, 5)
            listed = json.loads(self.control("GET", "/schedules").body)["schedules"]
            self.assertEqual([(one["schedule"], one["done"]) for one in listed], [(handle.id, 5)])

            def cancel(request: Request, handle: Any = handle) -> None:
                handle.cancel()

            self.run_task(cancel, path)
            self.daemon.advance(*[0.5] * 10)
            self.assertEqual(len(client.got) - before, 5)
            self.assertEqual(
                self.control("GET", "/schedules").body, b'{"schedules":[],"total":0}\n'
            )

    def test_rule(self) -> None:
        """The rule of a topic can lower the limit on publications, also on scheduled ones."""
        self.start(self.views, max_message=9, rules=Rules([Rule(match="a/*", max_message=3)]))

        def attempt(request: Request, topic: str, data: str, **times: Any) -> str:
            error = self.assertRaises(ValueError, request.publish, topic, data, **times)
            return str(error)

        for path in self.views:
            for times in ({}, {"delay": 1}):
                self.assertEqual(
                    self.run_task(lambda one, t=times: attempt(one, "a/b", "xxxx", **t), path),
                    "publication must be at most 3 bytes (max-message of a/*); got 4",
                )
            self.assertEqual(
                self.run_task(lambda one: attempt(one, "b", "x" * 10), path),
                "publication must be at most 9 bytes (--max-message); got 10",
            )
            self.run_task(lambda one: one.publish("a/b", "xxx"), path)

    def test_invalid(self) -> None:
        """Invalid topics, data and times raise in the view, and nothing is published."""
        self.start(self.views, limits=Limits(max_message=1000))
        client = V1WebSocketClient(self.daemon, "t")
        invalid: list[tuple[type[Exception], tuple[Any, ...], dict[str, Any]]] = [
            (ValueError, ("a b", "x"), {}),
            (ValueError, ("", "x"), {}),
            (ValueError, ("a/../b", "x"), {}),
            (ValueError, ("./b", "x"), {"delay": 1}),
            (ValueError, ("t", "\ud800"), {}),
            (ValueError, ("t", "x" * 1001), {}),
            (ValueError, ("t", "é" * 501), {}),
            (ValueError, ("t", b"x" * 1001), {"delay": 1}),
            (ValueError, ("t", "x"), {"event": "a b"}),
            (ValueError, ("t", ["x" * 1000]), {}),
            (ValueError, ("t", ["\ud800"]), {}),
            (ValueError, ("t", [float("nan")]), {}),
            (TypeError, ("t", {"x": b"y"}), {}),
            (TypeError, ("t", 7), {}),
            (TypeError, ("t", None), {}),
            (TypeError, ("t", bytearray(b"x")), {}),
            (ValueError, ("t", "x"), {"delay": -1}),
            (ValueError, ("t", "x"), {"every": 1}),
            (ValueError, ("t", "x"), {"count": 1}),
            (ValueError, ("t", "x"), {"at": datetime(2026, 12, 24)}),
            (ValueError, ("t", "x"), {"at": datetime(2026, 12, 24, tzinfo=UTC)}),
        ]
        for path in self.views:
            for error, args, times in invalid:

                def attempt(
                    request: Request,
                    error: Any = error,
                    args: Any = args,
                    times: Any = times,
                ) -> None:
                    self.assertRaises(error, request.publish, *args, **times)

                self.run_task(attempt, path)
            self.run_task(lambda request: request.publish("t", "é" * 500), path)
        self.assertEqual(client.data, ["é" * 500] * 2)

    def test_at(self) -> None:
        """A publication may be made at a time of day."""
        client = V1WebSocketClient(self.daemon, "t")
        at = datetime.fromtimestamp(self.daemon.clock.seconds() + 5, UTC)
        for path in self.views:
            self.run_task(lambda request: request.publish("t", "x", at=at), path)
        self.daemon.advance(4)
        self.assertEqual(client.data, [])
        self.daemon.advance(1)
        self.assertEqual(client.data, ["x", "x"])

    def test_too_many(self) -> None:
        """At the limit of schedules, TooManyScheduled is raised."""
        self.patch(scheduled, "MAX_SCHEDULED", 0)

        def attempt(request: Request) -> None:
            self.assertRaises(TooManyScheduled, request.publish, "t", "x", delay=1)

        for path in self.views:
            self.run_task(attempt, path)


class SubscribeTests(TopicTestCase):
    """``request.websocket.subscribe`` and ``unsubscribe``, in both kinds of view."""

    def test_async(self) -> None:
        """An async view subscribes its browser to topics, and unsubscribes it."""

        @accept_websocket
        async def view(request: Request) -> None:
            websocket = request.websocket
            async for message in websocket:
                command, *arguments = str(message).split()
                if command == "subscribe":
                    websocket.send(str(await websocket.subscribe(*arguments)))
                else:
                    websocket.unsubscribe(*arguments)

        self.start({"/view": view})
        self.check()

    def test_blocking(self) -> None:
        """A blocking view subscribes its browser to topics, and unsubscribes it."""

        @require_websocket
        def view(request: Request) -> None:
            for message in request.websocket:
                command, *arguments = message.split()
                if command == "subscribe":
                    request.websocket.send(str(request.websocket.subscribe(*arguments)))
                else:
                    request.websocket.unsubscribe(*arguments)

        self.start({"/view": view})
        self.check()

    def check(self) -> None:
        """Let the view subscribe, resume and unsubscribe."""
        browser = self.daemon.connect("/view")
        ids = self.publish_many("t", ["old", "missed"])
        browser.send("subscribe t")
        self.publish("t", "1")
        browser.send(f"subscribe u {ids[0]}")
        self.publish("u", b"2")
        browser.send("unsubscribe t")
        browser.send("unsubscribe t")
        self.publish("t", "3")
        browser.send(f"subscribe t {ids[0]}")
        self.assertEqual(
            browser.messages,
            ["False", "1", "False", b"2", "missed", "1", "3", "True"],
        )
        self.assertEqual(self.describe("u")["subscribers"], {"websocket": 1})
        browser.close()
        self.assertEqual(self.describe("u")["subscribers"], {})
        self.assertEqual(self.describe("t")["subscribers"], {})
