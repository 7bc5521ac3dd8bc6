"""WebSockets of an ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import re
from contextvars import ContextVar, copy_context
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail

from pushd.gateways.asgi.scope import Receive, Scope, Send
from pushd.gateways.asgi.websocket import WebSocketConversation
from pushd.testing import NORMAL, Closing
from tests.support.asgi_case import AsgiTestCase, Recorder, body
from tests.support.event_loop_case import EventLoopTestCase
from tests.support.peer import (
    BINARY,
    CONTINUATION,
    TEXT,
    Peer,
    close_frame,
    frame,
    handshake,
)

ACCEPT = {"type": "websocket.accept"}


def refusal(status: int = 402, **headers: str) -> dict[str, Any]:
    """Return the start of a response that refuses a handshake."""
    pairs = [(name.replace("_", "-").encode(), one.encode()) for name, one in headers.items()]
    return {"type": "websocket.http.response.start", "status": status, "headers": pairs}


def part(data: bytes, *, more: bool = False) -> dict[str, Any]:
    """Return a part of such a response."""
    return {**body(data, more=more), "type": "websocket.http.response.body"}


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Send each message back."""
    if scope["type"] == "lifespan":
        return
    await receive()
    await send(ACCEPT)
    while (event := await receive())["type"] == "websocket.receive":
        await send(
            {"type": "websocket.send", **{key: event[key] for key in event if key != "type"}}
        )


class Reader:
    """An application that accepts, and keeps what it receives."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Receive until the end."""
        if scope["type"] == "lifespan":
            return
        await receive()
        await send(ACCEPT)
        while not self.received or self.received[-1]["type"] != "websocket.disconnect":
            self.received.append(await receive())


class AcceptTests(AsgiTestCase):
    """How an application answers a handshake."""

    def test_connect(self) -> None:
        """The first event is websocket.connect; accepting answers 101."""
        application = Recorder(ACCEPT)
        self.serve(application)
        self.assertTrue(self.connect().opened)
        self.assertEqual(application.received, [{"type": "websocket.connect"}])

    def test_subprotocol(self) -> None:
        """One of the subprotocols that the client offers may be chosen."""
        application = Recorder({**ACCEPT, "subprotocol": "b"})
        self.serve(application)
        browser = self.connect(subprotocols=["a", "b"])
        self.assertEqual(browser.subprotocol, "b")
        self.assertEqual(application.scopes[0]["subprotocols"], ["a", "b"])

    def test_wrong_subprotocol(self) -> None:
        """One that is not offered raises, and the handshake is answered with 500."""
        self.serve(Recorder({**ACCEPT, "subprotocol": "c"}))
        refused = self.connect(subprotocols=["a"]).refused
        assert refused is not None
        self.assertEqual(refused.status, 500)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_headers(self) -> None:
        """Headers may be added to the 101, but for those of the handshake itself."""
        headers = [(b"set-cookie", b"a=b"), (b"Sec-WebSocket-Accept", b"x"), (b"upgrade", b"y")]
        headers += [(b"server", b"one"), (b"server", b"two")]
        self.serve(Recorder({**ACCEPT, "headers": headers}))
        peer = self.send_raw(handshake())
        self.assertIn("\r\nset-cookie: a=b", peer.head)
        self.assertEqual(re.findall(r"\r\nserver: (\w+)", peer.head), ["one", "two"])
        self.assertNotIn(": x", peer.head)
        self.assertNotIn(": y", peer.head)

    def test_close_refuses(self) -> None:
        """Closing before accepting is a 403."""
        self.serve(Recorder({"type": "websocket.close"}))
        refused = self.connect().refused
        assert refused is not None
        self.assertEqual((refused.status, refused.body), (403, b""))

    def test_receive_after_refusal(self) -> None:
        """After it has refused, the application is told the end at once, as Channels expects."""
        told: list[Any] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                told.append(await receive())
                await send({"type": "websocket.close"})
                told.append(await receive())

        self.serve(application)
        self.assertEqual(self.connect().refused.status, 403)  # type: ignore[union-attr]
        self.assertEqual(told[1], {"type": "websocket.disconnect", "code": 1006, "reason": ""})

    def test_client_leaves_refusal(self) -> None:
        """A client that leaves while the response that refuses it is made is told as well."""
        told: list[Any] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
                told.append(await receive())

        self.serve(application)
        self.send_raw(handshake()).vanish()
        self.assertEqual([one["type"] for one in told], ["websocket.disconnect"])

    def test_response_refuses(self) -> None:
        """A response of its own refuses the handshake."""
        self.serve(
            Recorder(
                refusal(402, x_a="b", content_length="99"), part(b"pay ", more=True), part(b"first")
            )
        )
        refused = self.connect().refused
        assert refused is not None
        self.assertEqual((refused.status, refused.body), (402, b"pay first"))
        self.assertEqual(refused.headers["x-a"], "b")

    def test_refusal_in_one_part(self) -> None:
        """A response without a length gets one; the application is told the end behind it."""
        told: list[Any] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                await receive()
                await send(refusal(403))
                await send(part(b"hardbody"))
                told.append(await receive())

        self.serve(application)
        refused = self.connect().refused
        assert refused is not None
        self.assertEqual((refused.status, refused.body), (403, b"hardbody"))
        self.assertEqual(refused.headers["content-length"], "8")
        self.assertEqual(told, [{"type": "websocket.disconnect", "code": 1006, "reason": ""}])

    def test_wrong_answer(self) -> None:
        """What cannot be sent, or cannot come now, raises: a 500, as nothing has been sent."""
        cases: list[tuple[list[Any], type[Exception]]] = [
            ([{"type": "websocket.send", "text": "too early"}], RuntimeError),
            ([refusal(700)], ValueError),
            ([refusal(), refusal()], RuntimeError),
        ]
        for events, kind in cases:
            with self.subTest(events=events):
                self.serve(Recorder(*events))
                refused = self.connect().refused
                assert refused is not None
                self.assertEqual(refused.status, 500)
                self.assertEqual(len(self.flushLoggedErrors(kind)), 1)

    def test_long_refusal(self) -> None:
        """Of a long refusal, 64 KiB are sent: it is not collected without bound."""
        self.serve(Recorder(refusal(), *[part(bytes(1 << 16), more=True)] * 5, part(b"")))
        refused = self.connect().refused
        assert refused is not None
        self.assertEqual(len(refused.body), 1 << 16)

    def test_no_answer(self) -> None:
        """An application that returns without an answer has failed."""
        for events in ((), (refusal(),)):
            with self.subTest(events=events):
                self.serve(Recorder(*events))
                refused = self.connect().refused
                assert refused is not None
                self.assertEqual(refused.status, 500)
                self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_raises(self) -> None:
        """An exception before the answer is a 500."""

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            raise LookupError

        self.serve(application)
        refused = self.connect().refused
        assert refused is not None
        self.assertEqual(refused.status, 500)
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)

    def test_client_leaves(self) -> None:
        """A client that leaves before the answer is told as websocket.disconnect with 1006."""
        application = Reader()
        told: list[Any] = []

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                await receive()
                told.append(await receive())
                await application(scope, receive, send)

        self.serve(slow)
        self.send_raw(handshake()).vanish()
        self.assertEqual(told, [{"type": "websocket.disconnect", "code": 1006, "reason": ""}])
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 0)

    def test_accept_while_receiving(self) -> None:
        """One task may receive while another accepts."""
        told: list[Any] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                await receive()
                receiving = asyncio.ensure_future(receive())
                await asyncio.sleep(0)
                await send(ACCEPT)
                told.extend([await receiving, await receive(), await receive()])

        self.serve(application)
        peer = self.send_raw(handshake())
        peer.send(frame(TEXT, b"a"))
        peer.send(frame(TEXT, b"b") + close_frame(1000))
        self.assertEqual([event.get("text") for event in told], ["a", "b", None])


class MessageTests(AsgiTestCase):
    """Messages in both directions."""

    def test_echo(self) -> None:
        """Text and bytes come and go as such."""
        self.serve(echo)
        browser = self.connect()
        browser.send("text")
        browser.send(b"bytes")
        self.assertEqual(browser.messages, ["text", b"bytes"])
        browser.close()

    def test_fragments(self) -> None:
        """A message in fragments arrives as one; beyond the limit it ends the conversation."""
        application = Reader()
        self.serve(application, max_message=3072)
        peer = self.send_raw(handshake())
        for opcode in (TEXT, BINARY):
            peer.send(frame(opcode, b"A" * 512, fin=False))
            peer.send(frame(CONTINUATION, b"A" * 512, fin=False) * 4)
            peer.send(frame(CONTINUATION, b"A" * 512))
        self.assertEqual(application.received[0]["text"], "A" * 3072)
        self.assertEqual(application.received[1]["bytes"], b"A" * 3072)
        peer.send(frame(TEXT, b"A" * 1024, fin=False))
        peer.send(frame(CONTINUATION, b"A" * 1024, fin=False) * 64)
        self.assertEqual(application.received[2]["code"], 1009)
        self.assertEqual(peer.frames[-1].code, 1009)

    def test_mistakes(self) -> None:
        """An event that cannot be sent raises, and the conversation closes with 1011."""
        cases: list[tuple[dict[str, Any], type[Exception]]] = [
            ({"type": "websocket.send"}, ValueError),
            ({"type": "websocket.send", "text": "a", "bytes": b"b"}, ValueError),
            ({"type": "websocket.send", "text": b"a"}, TypeError),
            ({"type": "websocket.send", "bytes": "a"}, TypeError),
            ({"type": "websocket.close", "code": 1005}, ValueError),
            (ACCEPT, RuntimeError),
            ({"type": "http.response.start"}, RuntimeError),
        ]
        for event, kind in cases:
            with self.subTest(event=event):
                self.serve(Recorder(ACCEPT, event))
                browser = self.connect()
                self.assertEqual(browser.closing and browser.closing.code, 1011)
                self.assertEqual(len(self.flushLoggedErrors(kind)), 1)

    def test_none_is_absent(self) -> None:
        """A value of None counts as absent."""
        self.serve(Recorder(ACCEPT, {"type": "websocket.send", "text": "a", "bytes": None}))
        self.assertEqual(self.connect().messages, ["a"])

    def test_cancelled_receive(self) -> None:
        """A task that is cancelled while it receives loses no message."""
        told: list[Any] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                await receive()
                await send(ACCEPT)
                receiving = asyncio.ensure_future(receive())
                await asyncio.sleep(1)
                receiving.cancel()
                await asyncio.sleep(1)
                told.extend([await receive(), await receive()])

        self.serve(application)
        browser = self.connect()
        self.daemon.advance(1)
        browser.send("a")
        browser.send("b")
        self.daemon.advance(1)
        self.assertEqual([event["text"] for event in told], ["a", "b"])

    def test_too_large(self) -> None:
        """A message beyond the limit does not reach the application, which is told the end."""
        application = Reader()
        self.serve(application)
        peer = self.send_raw(handshake())
        peer.send(frame(TEXT, bytes((1 << 20) + 1)))
        self.assertEqual([one["type"] for one in application.received], ["websocket.disconnect"])
        self.assertEqual(application.received[0]["code"], 1009)

    def test_raises_cancelled(self) -> None:
        """An application that raises CancelledError by itself has failed, and ends nothing else."""

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                await receive()
                await send(ACCEPT)
                raise asyncio.CancelledError

        self.serve(application)
        browser = self.connect()
        assert browser.closing is not None
        self.assertEqual(browser.closing.code, 1011)
        self.assertEqual(len(self.flushLoggedErrors(CancelledError)), 1)

    def test_receive_again(self) -> None:
        """A task that has given up receiving receives the next message when it tries again."""
        told: list[Any] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                await receive()
                await send(ACCEPT)
                for _ in range(2):
                    with contextlib.suppress(TimeoutError):
                        told.append(await asyncio.wait_for(receive(), 1))

        self.serve(application)
        browser = self.connect()
        self.daemon.advance(1.5)
        browser.send("late")
        self.assertEqual([one["text"] for one in told], ["late"])

    def test_two_receivers(self) -> None:
        """A second task that receives at the same time is refused."""

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                await receive()
                await send(ACCEPT)
                receiving = asyncio.ensure_future(receive())
                await asyncio.sleep(0)
                try:
                    await receive()
                finally:
                    receiving.cancel()

        self.serve(application)
        self.connect()
        (failure,) = self.flushLoggedErrors(RuntimeError)
        self.assertIn("another task", failure.getErrorMessage())

    def test_slow_client(self) -> None:
        """Sending waits until a slow client has room."""
        sent: list[int] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                await receive()
                await send(ACCEPT)
                for number in range(5):
                    await send({"type": "websocket.send", "bytes": bytes(100_000)})
                    sent.append(number)

        self.serve(application)
        peer = Peer(self.daemon)
        peer.stall()
        peer.send(handshake())
        self.assertEqual(sent, [])
        peer.resume()
        while len(sent) < 5 and peer.lost is None:
            peer.settle()
        self.assertEqual(len([one for one in peer.frames if one.payload]), 6)  # And a Close.
        peer.send(close_frame(1000))


class EndTests(AsgiTestCase):
    """How conversations end."""

    def test_client_closes(self) -> None:
        """Messages from before the end come first, then the code and reason of the client."""
        application = Reader()
        self.serve(application)
        peer = self.send_raw(handshake())
        peer.send(frame(TEXT, b"a") + frame(TEXT, b"b") + close_frame(4001, b"bye"))
        self.assertEqual(
            application.received,
            [
                {"type": "websocket.receive", "text": "a"},
                {"type": "websocket.receive", "text": "b"},
                {"type": "websocket.disconnect", "code": 4001, "reason": "bye"},
            ],
        )

    def test_client_vanishes(self) -> None:
        """A connection that is lost without a Close has the code 1006."""
        application = Reader()
        self.serve(application)
        self.connect().leave()
        self.assertEqual(application.received[-1]["code"], 1006)

    def test_application_closes(self) -> None:
        """The application closes with a code and a reason, or with 1000 without."""
        cases: list[tuple[dict[str, Any], Closing]] = [
            ({"code": 4000, "reason": "over"}, Closing(4000, "over")),
            ({"code": None, "reason": None}, NORMAL),
            ({}, NORMAL),
        ]
        for fields, closing in cases:
            with self.subTest(fields=fields):
                self.serve(Recorder(ACCEPT, {"type": "websocket.close", **fields}))
                self.assertEqual(self.connect().closing, closing)

    def test_application_returns(self) -> None:
        """An application that returns closes with 1000."""
        self.serve(Recorder(ACCEPT))
        self.assertEqual(self.connect().closing, NORMAL)

    def test_send_after_close(self) -> None:
        """What the application sends behind its own close raises."""
        message = {"type": "websocket.send", "text": "a"}
        self.serve(Recorder(ACCEPT, message, {"type": "websocket.close"}, message))
        browser = self.connect()
        self.assertEqual((browser.messages, browser.closing), (["a"], NORMAL))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_returned_value(self) -> None:
        """What the application returns is without effect."""

        async def application(scope: Scope, receive: Receive, send: Send) -> int:
            if scope["type"] == "websocket":
                await send(ACCEPT)
            return 123

        self.serve(application)
        self.assertEqual(self.connect().closing, NORMAL)

    def test_receive_after_close(self) -> None:
        """After its own close, the application receives websocket.disconnect."""
        told: list[Any] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                await receive()
                await send(ACCEPT)
                await send({"type": "websocket.close", "code": 4000})
                told.append(await receive())

        self.serve(application)
        self.connect()
        self.assertEqual(told, [{"type": "websocket.disconnect", "code": 4000, "reason": ""}])

    def test_send_after_end(self) -> None:
        """What is sent to a client that has left is dropped until the application is told of it."""
        told: list[Any] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                await receive()
                await send(ACCEPT)
                await asyncio.sleep(1)
                await send({"type": "websocket.send", "text": "a"})
                told.append(await receive())
                try:
                    await send({"type": "websocket.send", "text": "b"})
                except OSError as error:
                    told.append(str(error))

        self.serve(application)
        self.connect().leave()
        self.daemon.advance(1)
        self.assertEqual(told[1:], ["the client has left"])

    def test_ignores_end(self) -> None:
        """An application that goes on after the end is cancelled after the grace."""
        ended: list[str] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                await receive()
                await send(ACCEPT)
                try:
                    await asyncio.sleep(1000)
                except asyncio.CancelledError:
                    ended.append("cancelled")
                    raise

        self.serve(application)
        self.connect().leave()
        self.daemon.advance(4.9)
        self.assertEqual(ended, [])
        self.daemon.advance(0.1)
        self.assertEqual(ended, ["cancelled"])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_spins(self) -> None:
        """An application that receives after the end over and over is ended."""

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                await send(ACCEPT)
                while True:
                    await receive()

        self.serve(application)
        self.connect().leave()
        self.assertEqual(self.daemon.pending_calls, [])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_stop(self) -> None:
        """A daemon that stops closes with 1001, and the application is told."""
        application = Reader()
        self.serve(application)
        browser = self.connect()
        self.daemon.stop()
        self.assertEqual(browser.closing and browser.closing.code, 1001)
        self.assertEqual(application.received[-1]["code"], 1001)

    def test_stop_waits(self) -> None:
        """A stop waits for what an application does behind the end, within the grace."""
        ended: list[str] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                await receive()
                await send(ACCEPT)
                await receive()
                await asyncio.sleep(3)
                ended.append("ended")

        self.serve(application)
        self.connect().close()
        stopped = self.daemon.begin_stop()
        self.daemon.advance(2.9)
        self.assertFalse(stopped.called)
        self.daemon.advance(0.1)
        self.assertEqual((ended, stopped.called), (["ended"], True))

    def test_context(self) -> None:
        """A WebSocket has context variables of its own."""
        variable = ContextVar[str]("variable")
        seen: list[str | None] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                seen.append(variable.get(None))
                await send(ACCEPT)

        self.serve(application)

        def connect_within_other() -> None:
            variable.set("of another")
            self.connect()

        copy_context().run(connect_within_other)
        self.assertEqual(seen, [None])


class FailingWebSocket:
    """A WebSocket on which waiting fails."""

    def accept(self, subprotocol: str | None, headers: Any) -> None:
        """Accept."""

    def has_messages(self) -> bool:
        """Whether a message has arrived."""
        return False

    def call_with_next(self, resume: Any) -> bool:
        """Return False: it must be waited for otherwise."""
        return False

    def wait(self) -> Deferred[Any]:
        """Fail."""
        return fail(LookupError("no message"))


class ConversationTests(EventLoopTestCase):
    """WebSocketConversation."""

    def test_waiting_fails(self) -> None:
        """What fails while a message is waited for is raised for the application."""
        raised: list[str] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send(ACCEPT)
            try:
                await receive()
            except LookupError as error:
                raised.append(str(error))

        websocket: Any = FailingWebSocket()
        conversation = WebSocketConversation(websocket, self.loop)
        self.run_loop(lambda: self.loop.create_task(conversation.run(application, {})))
        self.assertEqual(raised, ["no message"])
