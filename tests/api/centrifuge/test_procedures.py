"""Remote procedure calls: on the reactor and in threads, and what they answer."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from pushd.access.limits import Limits
from pushd.testing import Daemon
from pushd.views import NotPermitted, Request, RpcError
from tests.support.centrifuge_client import CentrifugeTestCase, Client
from tests.support.keyring import secret_keys, sign


class ProcedureTests(CentrifugeTestCase):
    """A function that answers as the test says."""

    def setUp(self) -> None:
        """Start a daemon whose function runs on the reactor."""
        #: What it was called with.
        self.calls: list[tuple[Request, str | None, Any]] = []
        #: What it returns, or raises.
        self.answer: Any = {"x": 1}
        self.use(self.call)

    def use(self, function: Any) -> Daemon:
        """Start a daemon with a function."""
        return self.start(rpc=function, token_keys=secret_keys())

    def note(self, request: Request, method: str | None, data: Any) -> Any:
        """Answer in a thread."""
        self.calls.append((request, method, data))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def call(self, request: Request, method: str | None, data: Any) -> Any:
        """Answer on the reactor."""
        answer = self.note(request, method, data)
        return await answer if isinstance(answer, Deferred) else answer

    def result(self, client: Client, **request: Any) -> Any:
        """Call a procedure, and return its result."""
        return client.ask("rpc", **request)["data"]

    def test_call(self) -> None:
        """The function gets the request of the handshake, the user, the method and the data."""
        client = self.open("?a=b")
        client.connect(token=sign({"sub": "ann"}))
        self.assertEqual(self.result(client, method="sum", data=[1, 2]), {"x": 1})
        [(request, method, data)] = self.calls
        self.assertEqual((method, data), ("sum", [1, 2]))
        self.assertEqual((request.path, request.query["a"]), ("/connection/websocket", "b"))
        assert request.identity is not None
        self.assertEqual(request.identity.subject, "ann")

    def test_thread(self) -> None:
        """A plain function runs in a thread, and may publish."""

        def publish(request: Request, method: str | None, data: Any) -> str:
            return str(request.publish("a", data))

        self.use(publish)
        id = self.result(self.connect(), method="x", data="text")
        self.assertEqual(self.daemon.last_id("a"), id)

    def test_kinds(self) -> None:
        """Values are JSON in both formats; bytes are themselves in Protobuf, in JSON base64."""
        json, protobuf = self.connect(), self.connect_protobuf()
        for answer, as_json, as_bytes in (
            (None, None, b"null"),
            ("é", "é", '"é"'.encode()),
            ([1.5], [1.5], b"[1.5]"),
            (b"\xff", "/w==", b"\xff"),
        ):
            self.answer = answer
            self.assertEqual(self.result(json), as_json)
            self.assertEqual(self.result(protobuf), as_bytes)
        self.calls.clear()
        for data in (b'{"x":1}', b"text", b"\xff", b"[" * 100_000):
            self.result(protobuf, method="m", data=data)
        self.assertEqual([data for _, _, data in self.calls[:3]], [{"x": 1}, b"text", b"\xff"])
        self.result(json, method="m")
        self.assertIsNone(self.calls[-1][2])

    def test_errors(self) -> None:
        """The function can answer with an error of its own; any other is logged."""
        client = self.connect()
        self.answer = RpcError(1000, "no luck", temporary=True)
        error = client.tell("rpc", method="x")["error"]
        self.assertEqual(error, {"code": 1000, "message": "no luck", "temporary": True})
        self.answer = NotPermitted()
        self.assertEqual(client.error("rpc", method="x"), 103)
        self.answer = ZeroDivisionError()
        self.assertEqual(client.error("rpc", method="x"), 100)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        for self.answer in (object(), float("nan")):
            self.assertEqual(client.error("rpc", method="x"), 100)
        self.assertEqual(len(self.flushLoggedErrors(TypeError, ValueError)), 2)
        self.assertIn("pushd_view_errors_total 1.0", self.control("GET", "/metrics").text)
        self.assertRaises(ValueError, RpcError, 100, "x")

    def test_late(self) -> None:
        """A function that takes longer than ten seconds is cancelled."""
        cancelled: list[Any] = []
        self.answer = Deferred(cancelled.append)
        client = self.connect()
        self.assertEqual(client.tell("rpc", method="x"), {})
        self.daemon.advance(10)
        self.assertEqual(client.reply(2)["error"]["code"], 100)
        self.assertEqual(len(cancelled), 1)

    def test_left(self) -> None:
        """If the client leaves, the function is cancelled."""
        cancelled: list[Any] = []
        self.answer = Deferred(cancelled.append)
        client = self.connect()
        client.tell("rpc", method="x")
        client.browser.leave()
        self.assertEqual(len(cancelled), 1)

    def test_message(self) -> None:
        """A message has no method, and no answer, whatever becomes of it."""
        client = self.connect()
        client.send({"send": {"data": 1}})
        self.assertEqual([(method, data) for _, method, data in self.calls], [(None, 1)])
        for self.answer in (RpcError(1000, "x"), ZeroDivisionError()):
            client.send({"send": {"data": 1}})
        self.assertEqual(client.heard(), [])
        self.flushLoggedErrors(ZeroDivisionError)
        self.assertFalse(client.browser.gone)

    def test_many_messages(self) -> None:
        """Messages beyond those that may wait are dropped; that is no answer, either."""
        self.start(rpc=self.call, limits=Limits(max_topics=1))
        self.answer = Deferred()
        client = self.connect()
        for _ in range(66):
            client.send({"send": {"data": 1}})
        self.assertEqual(client.heard(), [])
        self.assertEqual(len(self.calls), 65)
