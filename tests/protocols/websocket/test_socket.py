"""WebSocket, method by method: on a fake connection, and in a daemon."""

from __future__ import annotations

import builtins
import gc
import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import GOING_AWAY, NORMAL, TRY_AGAIN_LATER, Closing
from pushd.access.counters import Traffic
from pushd.access.limits import Limits
from pushd.errors import ConversationOver
from pushd.protocols.http.response import Response
from pushd.protocols.websocket.socket import WebSocket
from pushd.testing import Browser, Daemon
from pushd.topics.hub import Hub
from pushd.views.decorators import accept_websocket
from pushd.views.request import Request

# Types that send() refuses.
INVALID_DATA: list[Any] = [None, 7, 1.5, True, ["a"], ("a",), {}]


class FakeConnection:
    """A handshake and its connection, which records what it is asked to do.

    :param subprotocols: those that the client offers.
    :param early: messages that arrived together with the handshake.
    """

    def __init__(self, subprotocols: tuple[str, ...] = (), early: tuple[str, ...] = ()) -> None:
        self.subprotocols = subprotocols
        self.early = list(early)
        self.events: list[str] = []
        self.sent: list[tuple[bytes, bool]] = []
        self.closings: list[Closing] = []
        self.limit = 1000
        self.websocket: WebSocket | None = None

    def accept(
        self, websocket: WebSocket, subprotocol: str | None, headers: Any = ()
    ) -> FakeConnection:
        """Record the answer."""
        self.websocket = websocket
        self.events.append(f"accept {subprotocol}")
        return self

    def send(self, payload: bytes, *, binary: bool) -> None:
        """Record a message. Raises ValueError if it is too long."""
        if len(payload) > self.limit:
            raise ValueError("too long")
        self.sent.append((payload, binary))

    push = send
    window_bits = 0
    sender = None
    after_read: Callable[[], object] | None = None
    traffic = Traffic()

    def push_frames(self, frames: bytes) -> None:
        """Record frames."""
        self.sent.append((frames, True))

    @property
    def taken(self) -> int:
        """Return that the peer takes nothing."""
        return 0

    full = False

    def is_full(self, more: int = 0) -> bool:
        """Return whether a test has set it full."""
        return self.full

    def close(self, closing: Closing) -> None:
        """Record the Close."""
        self.closings.append(closing)

    def message_kept(self, size: int) -> None:
        """Do nothing."""

    def pause_reading(self) -> None:
        """Record it."""
        self.events.append("pause")

    def resume_reading(self) -> None:
        """Record it, and deliver the early messages."""
        self.events.append("resume")
        while self.early:
            assert self.websocket is not None
            self.websocket.message_received(self.early.pop(0))


class FakeViewRun:
    """The run of a view, which records how it is ended."""

    is_calling: bool | None = False
    cancellation: type[BaseException] = CancelledError

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.read = 0

    def end(self) -> None:
        """Record the end."""
        self.ended.append("over")

    def view_notified(self) -> None:
        """Record it."""
        self.ended.append("told")

    def drop(self) -> None:
        """Record it."""
        self.ended.append("dropped")

    def message_read(self) -> None:
        """Count a message that was read after the end."""
        self.read += 1


class FakeHub:
    """A hub that has nothing to send."""

    def flush(self) -> None:
        """Do nothing."""


class WebSocketTestCase(SynchronousTestCase):
    """A WebSocket on a fake connection."""

    def setUp(self) -> None:
        """Make a WebSocket that has not been accepted."""
        self.clock = Clock()
        self.connection = FakeConnection()
        self.websocket = WebSocket(self.connection, self.clock)
        self.view = FakeViewRun()
        self.ended = self.view.ended
        self.websocket.set_owner(self.view)

    def receive(self, *messages: str | bytes) -> None:
        """Let messages come."""
        for message in messages:
            self.websocket.message_received(message)

    def wait(self, timeout: float | None = None) -> str | bytes | None:
        """Return the message that has arrived."""
        return self.successResultOf(self.websocket.wait(timeout))


class OpeningTests(WebSocketTestCase):
    """The handshake is answered when the view first needs it."""

    def test_lost_at_once(self) -> None:
        """A connection may be lost within the call that answers its handshake."""
        self.patch(self.connection, "resume_reading", self.websocket.connection_lost)
        self.websocket.gather()
        self.assertIsNone(self.connection.after_read)
        self.assertTrue(self.websocket.is_closed())

    def test_first_need(self) -> None:
        """Each method that needs the connection accepts it, once."""

        async def iterate(websocket: WebSocket) -> None:
            async for _ in websocket:
                raise AssertionError("nothing came")

        calls: list[Callable[[WebSocket], object]] = [
            lambda websocket: websocket.accept(),
            lambda websocket: websocket.wait(),
            lambda websocket: websocket.read(),
            lambda websocket: websocket.count_messages(),
            lambda websocket: websocket.has_messages(),
            lambda websocket: websocket.send("a"),
            lambda websocket: websocket.close(),
            lambda websocket: Deferred.fromCoroutine(iterate(websocket)),
        ]
        for number, call in enumerate(calls):
            connection = FakeConnection()
            websocket = WebSocket(connection, self.clock)
            self.assertEqual(connection.events, [])
            call(websocket)
            self.assertEqual(connection.events, ["accept None", "resume"], number)
            websocket.read()
            self.assertEqual(connection.events, ["accept None", "resume"], number)

    def test_no_need(self) -> None:
        """Attributes and is_closed() do not accept it."""
        self.assertFalse(self.websocket.is_closed())
        self.assertIsNone(self.websocket.subprotocol)
        self.assertIs(self.websocket.__aiter__(), self.websocket)
        self.assertEqual(self.connection.events, [])

    def test_early_messages(self) -> None:
        """Messages that arrived with the handshake are in the inbox, in order."""
        connection = FakeConnection(early=("a", "b", "c"))
        websocket = WebSocket(connection, self.clock)
        self.assertEqual(websocket.count_messages(), 3)
        self.assertEqual([websocket.read() for _ in range(4)], ["a", "b", "c", None])

    def test_subprotocol(self) -> None:
        """A view can accept any of the subprotocols that are offered."""
        connection = FakeConnection(subprotocols=("chat.v2", "chat.v1"))
        websocket = WebSocket(connection, self.clock)
        websocket.accept("chat.v1")
        self.assertEqual(websocket.subprotocol, "chat.v1")
        self.assertEqual(connection.events, ["accept chat.v1", "resume"])

    def test_no_subprotocol(self) -> None:
        """accept() without a subprotocol chooses none."""
        websocket = WebSocket(FakeConnection(subprotocols=("chat",)), self.clock)
        websocket.accept()
        self.assertIsNone(websocket.subprotocol)

    def test_wrong_subprotocol(self) -> None:
        """A subprotocol that is not offered raises ValueError, and nothing is answered."""
        connection = FakeConnection(subprotocols=("chat",))
        websocket = WebSocket(connection, self.clock)
        for subprotocol in ("Chat", "", "chat "):
            error = self.assertRaises(ValueError, websocket.accept, subprotocol)
            self.assertIn(repr(subprotocol), str(error))
        self.assertEqual(connection.events, [])
        self.assertIsNone(websocket.subprotocol)
        websocket.accept("chat")
        self.assertEqual(connection.events, ["accept chat", "resume"])

    def test_too_late(self) -> None:
        """Choosing a subprotocol after the handshake has been answered raises RuntimeError."""
        connection = FakeConnection(subprotocols=("a", "b"))
        websocket = WebSocket(connection, self.clock)
        websocket.read()
        self.assertRaises(RuntimeError, websocket.accept, "a")
        self.assertIsNone(websocket.subprotocol)

    def test_again(self) -> None:
        """Accepting again does nothing; accepting another subprotocol raises RuntimeError."""
        connection = FakeConnection(subprotocols=("a", "b"))
        websocket = WebSocket(connection, self.clock)
        websocket.accept("a")
        websocket.accept("a")
        websocket.accept()
        self.assertRaises(RuntimeError, websocket.accept, "b")
        self.assertEqual(websocket.subprotocol, "a")
        self.assertEqual(connection.events, ["accept a", "resume"])

    def test_gone_before(self) -> None:
        """If the client left before accept(), nothing is answered, and wait() gives None."""
        websocket = WebSocket(FakeConnection(subprotocols=("a",)), self.clock)
        websocket.connection_lost()
        self.assertTrue(websocket.is_closed())
        websocket.accept("a")
        websocket.send("nobody hears")
        self.assertIsNone(self.successResultOf(websocket.wait()))
        self.assertIsNone(websocket.subprotocol)
        self.successResultOf(websocket.close())
        self.assertEqual(self.connection.events, [])

    def test_gone_meanwhile(self) -> None:
        """A view that is being ended, as its client left, may call accept()."""
        websocket = WebSocket(FakeConnection(subprotocols=("a",)), self.clock)
        self.patch(self.view, "end", lambda: websocket.accept("a"))
        websocket.set_owner(self.view)
        websocket.connection_lost()
        self.assertIsNone(websocket.subprotocol)


class WaitTests(WebSocketTestCase):
    """wait() gives the next message, None at the end, or a TimeoutError."""

    def test_order(self) -> None:
        """Messages are read in the order in which they arrived, text as str and binary as bytes."""
        self.websocket.accept()
        self.receive("a", b"b", "", b"", "é")
        self.assertEqual([self.wait() for _ in range(5)], ["a", b"b", "", b"", "é"])

    def test_waits(self) -> None:
        """It waits for a message, and takes one."""
        waiting = self.websocket.wait()
        self.assertNoResult(waiting)
        self.receive("a", "b")
        self.assertEqual(self.successResultOf(waiting), "a")
        self.assertEqual(self.websocket.count_messages(), 1)

    def test_call(self) -> None:
        """A function is called with the next message, once, or with None at the end."""
        called: list[Any] = []
        self.assertFalse(self.websocket.call_with_next(called.append))  # It is not open yet.
        self.websocket.accept()
        self.assertTrue(self.websocket.call_with_next(called.append))
        self.assertFalse(self.websocket.call_with_next(called.append))
        self.receive("a", "b")
        self.assertEqual(called, ["a"])
        self.assertFalse(self.websocket.call_with_next(called.append))
        self.assertEqual(self.wait(), "b")
        self.assertTrue(self.websocket.call_with_next(called.append))
        self.websocket.conversation_ended(4000)
        self.assertEqual(called, ["a", None])
        self.assertFalse(self.websocket.call_with_next(called.append))

    def test_time_out(self) -> None:
        """After the timeout it raises the builtin TimeoutError, with the number of seconds."""
        waiting = self.websocket.wait(timeout=2.5)
        self.clock.advance(2.25)
        self.assertNoResult(waiting)
        self.clock.advance(0.25)
        failure = self.failureResultOf(waiting)
        self.assertIs(failure.type, builtins.TimeoutError)
        self.assertIn("2.5 s", failure.getErrorMessage())

    def test_time_out_loses_nothing(self) -> None:
        """A message that arrives after the timeout is given to the next wait()."""
        self.failureResultOf(self._wait_in_vain(), TimeoutError)
        self.receive("a")
        self.assertEqual(self.wait(), "a")
        self.failureResultOf(self._wait_in_vain(), TimeoutError)
        waiting = self.websocket.wait()
        self.receive("b")
        self.assertEqual(self.successResultOf(waiting), "b")

    def _wait_in_vain(self) -> Deferred[str | bytes | None]:
        waiting = self.websocket.wait(timeout=1)
        self.clock.advance(1)
        return waiting

    def test_in_time(self) -> None:
        """A message in time stops the timer."""
        waiting = self.websocket.wait(timeout=1)
        self.clock.advance(0.999)
        self.receive("a")
        self.assertEqual(self.successResultOf(waiting), "a")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_time(self) -> None:
        """With a timeout of 0 it gives a message that has arrived, or times out at once."""
        self.websocket.accept()
        self.receive("a")
        self.assertEqual(self.wait(0), "a")
        waiting = self.websocket.wait(0)
        self.clock.advance(0)
        self.failureResultOf(waiting, TimeoutError)

    def test_bad_time(self) -> None:
        """A timeout that is negative or not finite raises ValueError, and no message is lost."""
        self.websocket.accept()
        self.receive("a")
        for timeout in (-1, -0.001, float("nan"), float("inf")):
            error = self.assertRaises(ValueError, self.websocket.wait, timeout)
            self.assertIn(str(timeout), str(error))
        self.assertEqual(self.wait(), "a")

    def test_odd_time(self) -> None:
        """After a timeout that the clock refuses, no task waits."""
        odd: Any = Decimal(1)
        self.assertRaises(TypeError, self.websocket.wait, odd)
        self.receive("a")
        self.assertEqual(self.wait(), "a")

    def test_two_at_once(self) -> None:
        """A second task that waits gets RuntimeError; the first gets its message."""
        first = self.websocket.wait()
        self.assertRaises(RuntimeError, self.websocket.wait)
        self.assertRaises(RuntimeError, self.websocket.wait, 0)
        self.receive("a")
        self.assertEqual(self.successResultOf(first), "a")
        second = self.websocket.wait()
        self.receive("b")
        self.assertEqual(self.successResultOf(second), "b")

    def test_cancelled(self) -> None:
        """A cancelled wait() loses no message and leaves no timer."""
        waiting = self.websocket.wait(timeout=5)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.receive("a")
        self.assertEqual(self.wait(), "a")

    def test_end(self) -> None:
        """At the end a task that waits gets None, and so does every later wait()."""
        for timeout in (None, 5):
            websocket = WebSocket(FakeConnection(), self.clock)
            waiting = websocket.wait(timeout)
            websocket.conversation_ended()
            self.assertIsNone(self.successResultOf(waiting))
            for _ in range(100):
                self.assertIsNone(self.successResultOf(websocket.wait(timeout)))
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_end_of_connection(self) -> None:
        """If the connection is lost, wait() gives None."""
        waiting = self.websocket.wait()
        self.websocket.connection_lost()
        self.assertIsNone(self.successResultOf(waiting))
        self.assertIsNone(self.wait())

    def test_rest(self) -> None:
        """Messages that arrived before the end are read after it, then wait() gives None."""
        self.websocket.accept()
        self.receive("a", b"b")
        self.websocket.conversation_ended()
        self.websocket.connection_lost()
        self.assertEqual([self.wait() for _ in range(4)], ["a", b"b", None, None])

    def test_too_late(self) -> None:
        """A message that arrives after the end is dropped."""
        self.websocket.accept()
        self.websocket.conversation_ended()
        self.receive("a")
        self.assertIsNone(self.wait())
        self.assertEqual(self.websocket.count_messages(), 0)

    def test_iteration(self) -> None:
        """Iteration gives every message, and stops at the end."""
        received: list[str | bytes] = []

        async def listen() -> None:
            async for message in self.websocket:
                received.append(message)

        listening = Deferred.fromCoroutine(listen())
        self.receive("a", "", b"b")
        self.assertNoResult(listening)
        self.websocket.conversation_ended()
        self.successResultOf(listening)
        self.assertEqual(received, ["a", "", b"b"])
        self.successResultOf(Deferred.fromCoroutine(listen()))
        self.assertEqual(len(received), 3)

    def test_iteration_cancelled(self) -> None:
        """Iteration that is cancelled loses no message, and can be taken up again."""

        async def listen() -> str | bytes | None:
            async for message in self.websocket:
                return message
            return None

        listening = Deferred.fromCoroutine(listen())
        self.receive()
        listening.cancel()
        self.failureResultOf(listening, CancelledError)
        listening = Deferred.fromCoroutine(listen())
        self.receive("a")
        self.assertEqual(self.successResultOf(listening), "a")

    def test_iteration_of_two(self) -> None:
        """Only one task may iterate at a time."""

        async def listen() -> None:
            async for _ in self.websocket:
                pass

        listening = Deferred.fromCoroutine(listen())
        self.failureResultOf(Deferred.fromCoroutine(listen()), RuntimeError)
        self.websocket.conversation_ended()
        self.successResultOf(listening)


class CallsAfterEndTests(WebSocketTestCase):
    """A view that goes on calling after the end is ended: it would block the reactor."""

    def count_calls(self, ask: Callable[[], Deferred[Any]], most: int = 1000) -> int:
        """Call something until it is refused or delayed; return how many times it was not."""
        for number in range(most):
            try:
                answer = ask()
            except (CancelledError, ConversationOver):
                return number
            if not answer.called:
                return number
            self.assertIsNone(self.successResultOf(answer))
        return most

    def end(self, calling: bool | None) -> None:
        """End the conversation of a view in the given state."""
        self.websocket.accept()
        self.websocket.conversation_ended()
        self.view.is_calling = calling

    def test_view_waits(self) -> None:
        """wait() in the view gives None 100 times, then raises CancelledError."""
        self.end(calling=True)
        self.assertEqual(self.count_calls(self.websocket.wait), 100)
        self.assertEqual(self.count_calls(self.websocket.wait), 0)

    def test_refused(self) -> None:
        """Every other refused call raises, first CancelledError; those between do after 0.1 s."""
        self.end(calling=True)
        self.websocket.grace_expired()
        self.assertRaises(CancelledError, self.websocket.wait)
        refused = self.websocket.wait()
        raised: list[Any] = []
        refused.addErrback(raised.append)
        self.assertRaises(ConversationOver, self.websocket.wait)
        self.clock.advance(0.09)
        self.assertNoResult(refused)
        self.clock.advance(0.02)
        self.assertIsInstance(raised[0].value, CancelledError)

    def test_refused_cancelled(self) -> None:
        """A refused call can be cancelled, and leaves no timer."""
        self.end(calling=True)
        self.websocket.grace_expired()
        self.assertRaises(CancelledError, self.websocket.wait)
        refused = self.websocket.wait()
        refused.cancel()
        self.failureResultOf(refused, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_refused_unawaited(self) -> None:
        """A refused call that nobody awaits is not logged as unhandled."""
        self.end(calling=True)
        self.websocket.grace_expired()
        self.assertRaises(CancelledError, self.websocket.send, "a")
        self.websocket.send("a")
        self.clock.advance(1)
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_dropped(self) -> None:
        """A view that ignores 100 refusals is dropped: none of its calls is answered any more."""
        self.end(calling=True)
        self.websocket.grace_expired()
        for _ in range(50):
            with self.assertRaises((CancelledError, ConversationOver)):
                self.websocket.send("a")
            refused = self.websocket.send("a")
        self.assertEqual(self.ended, ["over", "told"])
        self.clock.advance(0.1)
        self.assertEqual(self.ended, ["over", "told", "dropped"])
        self.assertNoResult(refused)
        self.websocket.view_dropped()
        self.assertRaises(ConversationOver, self.websocket.send, "a")
        self.assertNoResult(self.websocket.send("a"))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        for calling in (False, None):
            self.view.is_calling = calling
            self.successResultOf(self.websocket.send("a"))

    def test_closes(self) -> None:
        """close() does nothing 10,000 times, and not only in the view's grace; then it raises."""
        self.end(calling=True)
        self.websocket.connection_lost()
        self.websocket.grace_expired()
        self.assertEqual(self.count_calls(self.websocket.close, 20_000), 10_000)
        self.assertRaises(ValueError, self.websocket.close, 999)

    def test_view_sends(self) -> None:
        """send() in the view does nothing 10,000 times, then raises CancelledError."""
        self.end(calling=True)
        self.assertEqual(self.count_calls(lambda: self.websocket.send("a"), 20_000), 10_000)
        self.assertEqual(self.count_calls(lambda: self.websocket.send("a")), 0)

    def test_after_grace(self) -> None:
        """After its grace the view gets CancelledError at its first call; others do not."""
        calls: list[Callable[[], Deferred[Any]]] = [
            self.websocket.wait,
            lambda: self.websocket.send("a"),
        ]
        for call in calls:
            self.end(calling=True)
            self.websocket.grace_expired()
            self.assertEqual(self.count_calls(call), 0)
            for calling in (False, None):
                self.view.is_calling = calling
                self.successResultOf(call())
            self.websocket = WebSocket(self.connection, self.clock)
            self.websocket.set_owner(self.view)

    def test_dropped_after_grace(self) -> None:
        """What the view has not read when its grace is over is dropped."""
        self.websocket.accept()
        self.receive("a", "b")
        self.websocket.conversation_ended()
        self.assertEqual(self.wait(), "a")
        self.websocket.grace_expired()
        self.assertEqual(self.websocket.count_messages(), 0)
        self.assertIsNone(self.wait())

    def test_others(self) -> None:
        """Other tasks may call any number of times, but leave the reactor free in between.

        After 100 times, ``wait`` takes longer each time; ``send`` takes 0.1 s every 1,000 times.
        """
        self.end(calling=False)
        for _ in range(2):
            self.assertEqual(self.count_calls(lambda: self.websocket.send("a")), 999)
        self.assertEqual(self.count_calls(self.websocket.wait), 100)
        for seconds in (0.2, 0.3, 0.4):
            told = self.websocket.wait()
            self.clock.advance(seconds - 0.01)
            self.assertNoResult(told)
            self.clock.advance(0.01)
            self.assertIsNone(self.successResultOf(told))
        sent = [self.websocket.send("a") for _ in range(1000)]
        self.clock.advance(0.1)
        for each in sent:
            self.successResultOf(each)

    def test_threads(self) -> None:
        """Calls from threads, which wait for each of them, are not delayed."""
        self.end(calling=False)
        self.websocket.used_by_threads = True
        self.assertEqual(self.count_calls(self.websocket.wait), 1000)
        self.assertEqual(self.count_calls(lambda: self.websocket.send("a")), 1000)

    def test_others_do_not_count(self) -> None:
        """Calls of other tasks are not counted for the view."""
        self.end(calling=False)
        self.count_calls(self.websocket.wait)
        self.count_calls(lambda: self.websocket.send("a"))
        self.view.is_calling = True
        self.assertEqual(self.count_calls(self.websocket.wait), 100)

    def test_unknown(self) -> None:
        """If it is not known whether the view calls, 100 calls of any kind are allowed."""
        self.end(calling=None)
        self.assertEqual(self.count_calls(lambda: self.websocket.send("a"), 60), 60)
        self.assertEqual(self.count_calls(self.websocket.wait), 40)
        self.assertEqual(self.count_calls(lambda: self.websocket.send("a")), 0)

    def test_nobody(self) -> None:
        """A WebSocket without a view never raises CancelledError."""
        websocket = WebSocket(FakeConnection(), self.clock)
        websocket.connection_lost()
        self.assertEqual(self.count_calls(websocket.wait), 100)
        self.assertEqual(self.count_calls(lambda: websocket.send("a")), 999)

    def test_not_in_vain(self) -> None:
        """Calls that give a message are not counted."""
        self.websocket = WebSocket(self.connection, self.clock, inbox=1000)
        self.websocket.set_owner(self.view)
        self.websocket.accept()
        self.receive(*["a"] * 500)
        self.websocket.conversation_ended()
        self.view.is_calling = True
        self.assertEqual([self.wait() for _ in range(500)], ["a"] * 500)
        self.assertEqual(self.view.read, 500)
        self.assertEqual(self.count_calls(self.websocket.wait), 100)


class ReadTests(WebSocketTestCase):
    """read(), count_messages() and has_messages() never wait."""

    def test_read(self) -> None:
        """read() gives the next message, or the fallback if there is none."""
        self.assertIsNone(self.websocket.read())
        self.assertEqual(self.websocket.read("none"), "none")
        self.receive("a", b"b")
        self.assertEqual(self.websocket.read("none"), "a")
        self.assertEqual(self.websocket.read(), b"b")
        self.assertEqual(self.websocket.read(b"none"), b"none")

    def test_arrived(self) -> None:
        """read_arrived() gives what has arrived, up to a number, and after the end what is left."""
        self.websocket.accept()
        self.assertEqual(self.websocket.read_arrived(9), [])
        self.receive("a", b"b", "c", "d")
        self.assertEqual(self.websocket.read_arrived(2), ["a", b"b"])
        self.websocket.conversation_ended()
        self.assertEqual(self.websocket.read_arrived(9), ["c", "d"])
        self.assertEqual((self.websocket.read_arrived(9), self.view.read), ([], 2))

    def test_empty_message(self) -> None:
        """An empty message is a message, not the fallback."""
        self.websocket.accept()
        self.receive("", b"")
        self.assertEqual([self.websocket.read("none") for _ in range(3)], ["", b"", "none"])

    def test_count(self) -> None:
        """count_messages() gives the number of unread messages."""
        self.websocket.accept()
        for count in range(3):
            self.assertEqual(self.websocket.count_messages(), count)
            self.assertIs(self.websocket.has_messages(), count > 0)
            self.receive("a")
        self.assertEqual([self.websocket.count_messages() for _ in range(3)], [3, 3, 3])
        self.websocket.read()
        self.assertEqual(self.websocket.count_messages(), 2)

    def test_waited_for(self) -> None:
        """A message that is given to wait() is not counted."""
        self.websocket.wait()
        self.receive("a")
        self.assertEqual(self.websocket.count_messages(), 0)

    def test_end(self) -> None:
        """The end is not counted; messages that arrived before it are."""
        self.websocket.accept()
        self.receive("a")
        self.websocket.conversation_ended()
        self.assertEqual(self.websocket.count_messages(), 1)
        self.assertEqual(self.websocket.read("none"), "a")
        self.assertIs(self.websocket.has_messages(), False)
        self.assertEqual(self.websocket.read("none"), "none")


class SendTests(WebSocketTestCase):
    """send() sends one message, or raises."""

    def test_text(self) -> None:
        """Text and bytes are sent as text, in UTF-8."""
        for data in ("a", b"a", "é€😀", "é€😀".encode(), "", b"", "\x00"):
            self.successResultOf(self.websocket.send(data))
        sent = [b"a", b"a", "é€😀".encode(), "é€😀".encode(), b"", b"", b"\x00"]
        self.assertEqual(self.connection.sent, [(payload, False) for payload in sent])

    def test_binary(self) -> None:
        """With binary=True bytes are sent as binary."""
        self.successResultOf(self.websocket.send(b"\xff\x00", binary=True))
        self.assertEqual(self.connection.sent, [(b"\xff\x00", True)])

    def test_wrong_type(self) -> None:
        """Data that is neither str nor bytes raises TypeError with its type."""
        for data in INVALID_DATA:
            for binary in (False, True):
                error = self.assertRaises(TypeError, self.websocket.send, data, binary=binary)
                self.assertEqual(str(error), f"send takes str or bytes, not {type(data).__name__}")

    def test_text_as_binary(self) -> None:
        """A str with binary=True raises TypeError."""
        self.assertRaises(TypeError, self.websocket.send, "a", binary=True)

    def test_no_utf8(self) -> None:
        """Bytes that are not UTF-8, and a lone surrogate, raise ValueError."""
        for data in (b"\xff", b"\xc3", b"caf\xe9", b"\xed\xa0\x80", b"\xc0\x80", "a\ud800"):
            self.assertRaises(ValueError, self.websocket.send, data)

    def test_error_changes_nothing(self) -> None:
        """An error changes nothing: the handshake is not answered, and later messages are sent."""
        self.assertRaises(TypeError, self.websocket.send, INVALID_DATA[0])
        self.assertRaises(TypeError, self.websocket.send, "a", binary=True)
        self.assertRaises(ValueError, self.websocket.send, b"\xff")
        self.assertEqual(self.connection.events, [])
        self.websocket.send("a")
        self.assertRaises(ValueError, self.websocket.send, b"\xff")
        self.websocket.send("b")
        self.assertEqual(self.connection.sent, [(b"a", False), (b"b", False)])
        self.assertFalse(self.websocket.is_closed())

    def test_too_long(self) -> None:
        """A message that is too long raises ValueError, and the next one is sent."""
        self.assertRaises(ValueError, self.websocket.send, "x" * 1001)
        self.successResultOf(self.websocket.send("x" * 1000))
        self.assertEqual(len(self.connection.sent), 1)
        self.assertFalse(self.websocket.is_closed())

    def test_after_end(self) -> None:
        """After the end nothing is sent, and send() in other tasks does not raise."""
        self.websocket.accept()
        for end in (self.websocket.conversation_ended, self.websocket.connection_lost):
            end()
            self.successResultOf(self.websocket.send("a"))
        self.assertEqual(self.connection.sent, [])

    def test_after_end_view(self) -> None:
        """After the end send(), close() and subscribe() in the view do nothing."""
        self.websocket = WebSocket(self.connection, self.clock, hub=cast(Hub, FakeHub()))
        self.websocket.set_owner(self.view)
        self.websocket.close()
        self.websocket.connection_lost()
        self.view.is_calling = True
        self.successResultOf(self.websocket.send("a"))
        self.successResultOf(self.websocket.close(4000))
        self.assertIs(self.successResultOf(self.websocket.subscribe("t")), False)
        self.websocket.unsubscribe("t")
        self.assertEqual(self.connection.sent, [])

    def test_buffers(self) -> None:
        """A bytearray or a memoryview is sent as bytes, as it is at the time of the call."""
        data = bytearray(b"abc")
        self.websocket.send(data)
        self.websocket.send(memoryview(data)[1:], binary=True)
        data[:] = b"xyz"
        self.assertEqual(self.connection.sent, [(b"abc", False), (b"bc", True)])
        self.assertRaises(ValueError, self.websocket.send, memoryview(b"caf\xc3"))

    def test_close_code(self) -> None:
        """How the conversation ended is known from the end on: the first of two ends counts."""
        self.assertEqual((self.websocket.close_code, self.websocket.close_reason), (None, ""))
        self.websocket.close(4001, "enough")
        self.websocket.connection_lost()
        self.assertEqual((self.websocket.close_code, self.websocket.close_reason), (4001, "enough"))
        websocket = WebSocket(FakeConnection(), self.clock)
        websocket.connection_lost()
        self.assertEqual((websocket.close_code, websocket.close_reason), (1006, ""))

    def test_mistake_after_end(self) -> None:
        """Invalid data raises after the end, too."""
        self.websocket.close()
        for calling in (False, True):
            self.view.is_calling = calling
            self.assertRaises(TypeError, self.websocket.send, INVALID_DATA[0])
            self.assertRaises(ValueError, self.websocket.send, b"\xff")


class BackPressureTests(WebSocketTestCase):
    """The Deferred of send() fires when the connection can take more."""

    def setUp(self) -> None:
        """Accept it."""
        super().setUp()
        self.websocket.accept()

    def test_held(self) -> None:
        """While the transport's buffer is full, messages are sent and their Deferreds wait."""
        self.successResultOf(self.websocket.send("a"))
        self.websocket.send_queue.pause()
        held = [self.websocket.send(data) for data in ("b", "c")]
        self.assertEqual([payload for payload, _ in self.connection.sent], [b"a", b"b", b"c"])
        for sender in held:
            self.assertNoResult(sender)
        self.websocket.send_queue.resume()
        for sender in held:
            self.successResultOf(sender)
        self.successResultOf(self.websocket.send("d"))

    def test_in_turn(self) -> None:
        """Deferreds fire in order, and only while there is room."""
        self.websocket.send_queue.pause()
        went: list[str] = []
        for name in "abc":
            self.websocket.send(name).addCallback(self._go, went, name)
        self.websocket.send_queue.resume()
        self.assertEqual(went, ["a", "b"])
        self.websocket.send_queue.resume()
        self.assertEqual(went, ["a", "b", "c"])

    def _go(self, _: None, went: list[str], name: str) -> None:
        went.append(name)
        if name == "b":
            self.websocket.send_queue.pause()

    def test_cancelled(self) -> None:
        """A Deferred that is cancelled is forgotten; the others fire."""
        self.websocket.send_queue.pause()
        first, second = self.websocket.send("a"), self.websocket.send("b")
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertNoResult(second)
        self.websocket.send_queue.resume()
        self.successResultOf(second)

    def test_end(self) -> None:
        """All Deferreds fire at the end."""
        self.websocket.send_queue.pause()
        held = [self.websocket.send(data) for data in ("a", "b")]
        self.websocket.conversation_ended()
        for sender in held:
            self.successResultOf(sender)


class TogetherTests(WebSocketTestCase):
    """send_together() is send() of several messages with one write."""

    def setUp(self) -> None:
        """Accept it."""
        super().setUp()
        self.websocket.accept()

    def test_one_write(self) -> None:
        """Each message is a frame, and all are written at once."""
        before = self.connection.traffic.messages_out
        self.successResultOf(self.websocket.send_together(["a", "é"]))
        self.assertEqual(self.connection.sent, [(b"\x81\x01a\x81\x02\xc3\xa9", True)])
        self.assertEqual(self.connection.traffic.messages_out - before, 2)

    def test_held(self) -> None:
        """While the transport's buffer is full, the Deferred waits; a peer too slow is closed."""
        self.websocket.send_queue.pause()
        held = self.websocket.send_together(["a"])
        self.assertNoResult(held)
        self.connection.full = True
        self.websocket.send_together(["b"])
        self.assertEqual(self.connection.closings, [TRY_AGAIN_LATER])
        self.assertEqual(len(self.connection.sent), 1)

    def test_after_end(self) -> None:
        """After the end nothing is sent."""
        self.websocket.conversation_ended()
        self.successResultOf(self.websocket.send_together(["a"]))
        self.assertEqual(self.connection.sent, [])


class InboxTests(WebSocketTestCase):
    """A full inbox pauses reading, and no message is lost; reading resumes at half."""

    def setUp(self) -> None:
        """Accept it."""
        super().setUp()
        self.websocket.accept()
        self.connection.events.clear()

    def test_full(self) -> None:
        """The 64th message pauses reading, once; further messages are kept."""
        self.receive(*map(str, range(63)))
        self.assertEqual(self.connection.events, [])
        self.receive("63")
        self.assertEqual(self.connection.events, ["pause"])
        self.receive("64", "65")
        self.assertEqual(self.connection.events, ["pause"])
        self.assertEqual([self.wait() for _ in range(66)], [str(number) for number in range(66)])

    def test_half(self) -> None:
        """Reading resumes once, when half of them are read."""
        self.receive(*["a"] * 64)
        for _ in range(31):
            self.websocket.read()
        self.assertEqual(self.connection.events, ["pause"])
        self.successResultOf(self.websocket.wait())
        self.assertEqual(self.connection.events, ["pause", "resume"])
        while self.websocket.has_messages():
            self.websocket.read()
        self.assertEqual(self.connection.events, ["pause", "resume"])

    def test_again(self) -> None:
        """Reading pauses each time the inbox is full."""
        for _ in range(3):
            self.receive(*["a"] * 64)
            while self.websocket.has_messages():
                self.websocket.read()
        self.assertEqual(self.connection.events, ["pause", "resume"] * 3)

    def test_full_on_resume(self) -> None:
        """Messages that arrive when reading resumes may fill it again, in order."""
        self.receive(*["a"] * 64)
        self.connection.early = ["b"] * 40
        for _ in range(32):
            self.websocket.read()
        self.assertEqual(self.connection.events, ["pause", "resume", "pause"])
        self.assertEqual(self.websocket.count_messages(), 72)
        self.assertEqual([self.websocket.read() for _ in range(72)], ["a"] * 32 + ["b"] * 40)

    def test_bytes(self) -> None:
        """A MiB of messages counts as 64 messages, and half a MiB as 32."""
        self.receive("a" * (1 << 19), "b" * ((1 << 19) - 1))
        self.assertEqual(self.connection.events, [])
        self.receive(b"c")
        self.assertEqual(self.connection.events, ["pause"])
        self.websocket.read()
        self.assertEqual(self.connection.events, ["pause", "resume"])

    def test_bytes_and_number(self) -> None:
        """Both the number and the bytes must be down to half before reading resumes."""
        large = "x" * (1 << 20)
        self.receive(*["a"] * 31, large)
        for _ in range(31):
            self.websocket.read()
        self.assertEqual(self.connection.events, ["pause"])
        self.assertEqual(self.websocket.read(), large)
        self.assertEqual(self.connection.events, ["pause", "resume"])

    def test_smallest(self) -> None:
        """An inbox for one message pauses and resumes reading for each."""
        connection = FakeConnection()
        self.websocket = WebSocket(connection, self.clock, inbox=1)
        self.websocket.accept()
        for message in "abc":
            self.receive(message)
            self.assertEqual(self.wait(), message)
        self.assertEqual(connection.events[2:], ["pause", "resume"] * 3)

    def test_handed_over(self) -> None:
        """Messages that are given to wait() do not fill it."""
        for _ in range(200):
            waiting = self.websocket.wait()
            self.receive("a")
            self.successResultOf(waiting)
        self.assertEqual(self.connection.events, [])

    def test_after_end(self) -> None:
        """After the connection is lost, reading messages resumes nothing."""
        self.receive(*["a"] * 64)
        self.websocket.connection_lost()
        self.assertEqual([self.wait() for _ in range(65)], ["a"] * 64 + [None])
        self.assertEqual(self.connection.events, ["pause"])


class CloseTests(WebSocketTestCase):
    """close() ends the conversation once, with a valid code and reason."""

    def test_gone(self) -> None:
        """The end of the connection can be awaited without closing it, also when it is over."""
        gone = self.websocket.gone()
        self.assertNoResult(gone)
        self.websocket.connection_lost()
        self.successResultOf(gone)
        self.successResultOf(self.websocket.gone())
        self.assertEqual(self.connection.closings, [])

    def test_close(self) -> None:
        """The Close is sent at once; the Deferred fires when the connection is lost."""
        self.websocket.accept()
        gone = self.websocket.close(4001, "enough")
        self.assertEqual(self.connection.closings, [Closing(4001, "enough")])
        self.assertNoResult(gone)
        self.websocket.connection_lost()
        self.successResultOf(gone)

    def test_default(self) -> None:
        """The default is 1000 without a reason."""
        self.websocket.close()
        self.assertEqual(self.connection.closings, [NORMAL])

    def test_keywords(self) -> None:
        """Code and reason can be passed by name."""
        self.websocket.close(code=3000, reason="é")
        self.assertEqual(self.connection.closings, [Closing(3000, "é")])

    def test_idempotent(self) -> None:
        """Closing again sends nothing; each Deferred fires when the connection is lost."""
        gone = [self.websocket.close(), self.websocket.close(4000, "other")]
        self.websocket.close_with(GOING_AWAY)
        self.assertEqual(self.connection.closings, [NORMAL])
        for each in gone:
            self.assertNoResult(each)
        self.websocket.connection_lost()
        for each in [*gone, self.websocket.close()]:
            self.successResultOf(each)
        self.assertEqual(self.connection.closings, [NORMAL])

    def test_unopened(self) -> None:
        """Closing first accepts the handshake."""
        self.websocket.close(4000)
        self.assertEqual(self.connection.events, ["accept None", "resume"])
        self.assertEqual(self.connection.closings, [Closing(4000)])

    def test_after_peer(self) -> None:
        """After the peer's Close nothing is sent."""
        self.websocket.accept()
        self.websocket.conversation_ended()
        gone = self.websocket.close()
        self.assertEqual(self.connection.closings, [])
        self.assertNoResult(gone)
        self.websocket.connection_lost()
        self.successResultOf(gone)

    def test_bad_code(self) -> None:
        """A code that must not be sent raises ValueError, and the conversation goes on."""
        for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000):
            self.assertRaises(ValueError, self.websocket.close, code)
        codes: list[Any] = [True, "1000", None]
        for wrong in codes:
            self.assertRaises(TypeError, self.websocket.close, wrong)
        self.assertEqual(self.connection.events, [])
        self.assertFalse(self.websocket.is_closed())
        self.successResultOf(self.websocket.send("a"))
        self.assertEqual(self.connection.closings, [])

    def test_bad_reason(self) -> None:
        """A reason longer than 123 bytes raises ValueError, one that is not str TypeError."""
        self.assertRaises(ValueError, self.websocket.close, 1000, "é" * 62)
        reasons: list[Any] = [b"bye", None]
        for wrong in reasons:
            self.assertRaises(TypeError, self.websocket.close, 1000, wrong)
        self.websocket.close(1000, "é" * 61)
        self.assertEqual(self.connection.closings, [Closing(1000, "é" * 61)])

    def test_bad_code_after_end(self) -> None:
        """An invalid code raises after the end, too."""
        self.websocket.close()
        self.assertRaises(ValueError, self.websocket.close, 1005)

    def test_nothing_after(self) -> None:
        """After close() messages are neither delivered nor sent, and wait() gives None."""
        waiting = self.websocket.wait()
        self.websocket.close()
        self.assertIsNone(self.successResultOf(waiting))
        self.receive("late")
        self.websocket.send("late")
        self.assertEqual(self.websocket.count_messages(), 0)
        self.assertEqual(self.connection.sent, [])

    def test_told_before_sent(self) -> None:
        """A message that is delivered while the Close is sent is dropped."""

        class Chatty(FakeConnection):
            def close(self, closing: Closing) -> None:
                assert self.websocket is not None
                self.websocket.message_received("meanwhile")
                super().close(closing)

        websocket = WebSocket(Chatty(), self.clock)
        websocket.close()
        self.assertEqual(websocket.count_messages(), 0)

    def test_cancelled(self) -> None:
        """A Deferred of close() that is cancelled is forgotten; the others fire."""
        first, second = self.websocket.close(), self.websocket.close()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.websocket.connection_lost()
        self.successResultOf(second)

    def test_cancelled_late(self) -> None:
        """It may be cancelled while another one fires."""
        first, second = self.websocket.close(), self.websocket.close()
        first.addCallback(lambda _: second.cancel())
        self.websocket.connection_lost()
        self.failureResultOf(second, CancelledError)

    def test_is_closed(self) -> None:
        """is_closed() is True once one side has closed or the connection is lost."""
        ends: list[Callable[[WebSocket], object]] = [
            lambda websocket: websocket.close(),
            lambda websocket: websocket.close_with(GOING_AWAY),
            lambda websocket: websocket.conversation_ended(),
            lambda websocket: websocket.connection_lost(),
        ]
        for end in ends:
            websocket = WebSocket(FakeConnection(), self.clock)
            self.assertIs(websocket.is_closed(), False)
            websocket.accept()
            self.assertIs(websocket.is_closed(), False)
            end(websocket)
            self.assertIs(websocket.is_closed(), True)
            websocket.connection_lost()
            self.assertIs(websocket.is_closed(), True)


class EndTests(WebSocketTestCase):
    """The run of the view is notified of the end."""

    def test_once(self) -> None:
        """The run of the view is ended and notified once."""
        self.websocket.close()
        self.websocket.conversation_ended()
        self.websocket.connection_lost()
        self.websocket.connection_lost()
        self.assertEqual(self.ended, ["over", "told", "told"])  # Once more when close() fires.

    def test_first(self) -> None:
        """It is ended before tasks that wait are resumed."""
        self.websocket.wait().addCallback(lambda _: self.ended.append("waiter"))
        self.websocket.send_queue.pause()
        self.websocket.send("a").addCallback(lambda _: self.ended.append("sender"))
        self.websocket.close().addCallback(lambda _: self.ended.append("closer"))
        self.websocket.connection_lost()
        self.assertEqual(self.ended, ["over", "waiter", "sender", "told", "told", "closer"])

    def test_unopened(self) -> None:
        """It is ended if the client leaves before the handshake is answered."""
        self.websocket.connection_lost()
        self.assertEqual(self.ended, ["over", "told"])

    def test_will_notify(self) -> None:
        """will_notify() is True for what wait() and close() return, and for nothing else."""
        other: Deferred[None] = Deferred()
        waiting = self.websocket.wait()
        self.websocket.send_queue.pause()
        sending = self.websocket.send("a")
        for awaited, told in ((waiting, True), (sending, False), (other, False)):
            self.assertIs(self.websocket.will_notify(awaited), told)
        closing = self.websocket.close()
        self.assertIs(self.websocket.will_notify(closing), True)
        self.assertIs(self.websocket.will_notify(waiting), False)


class DaemonTestCase(SynchronousTestCase):
    """A view in a daemon."""

    def serve(self, view: Callable[[Request], Any], **settings: Any) -> Daemon:
        """Serve one view; the daemon is stopped after the test, and must have no timers then."""
        daemon = Daemon({"/view/": accept_websocket(view)}, **settings)
        self.addCleanup(lambda: self.assertEqual(daemon.pending_calls, []))
        self.addCleanup(daemon.stop)
        return daemon

    def open(self, daemon: Daemon, **asked: Any) -> Browser:
        """Open a WebSocket to it."""
        return daemon.connect("/view/", **asked)


class HandshakeTests(DaemonTestCase):
    """The 101 is sent when the view needs it; a response before that refuses the handshake."""

    def test_when_needed(self) -> None:
        """The browser's open event fires when the view first uses the WebSocket, not before."""

        async def view(request: Request) -> None:
            await deferLater(request.clock, 1)
            request.websocket.is_closed()
            await deferLater(request.clock, 1)
            request.websocket.accept()
            await deferLater(request.clock, 1)

        daemon = self.serve(view)
        browser = self.open(daemon)
        for opened in (False, False, True):
            self.assertIs(browser.opened, opened)
            daemon.advance(1)
        self.assertEqual(browser.closing, NORMAL)

    def test_refused(self) -> None:
        """A response before the first use refuses the handshake."""
        answers: list[tuple[Any, int, str]] = [
            ("no", 200, "no"),
            (b"no", 200, "no"),
            (Response(403, {"X-Why": "no"}, "members only"), 403, "members only"),
        ]
        for answer, status, text in answers:

            async def view(request: Request, answer: Any = answer) -> Any:
                return answer

            browser = self.open(self.serve(view))
            assert browser.refused is not None
            self.assertEqual((browser.refused.status, browser.refused.text), (status, text))
            self.assertFalse(browser.opened)

    def test_refused_later(self) -> None:
        """A handshake may be refused later."""

        async def view(request: Request) -> Response:
            await deferLater(request.clock, 3)
            return Response(403)

        daemon = self.serve(view)
        browser = self.open(daemon)
        self.assertIsNone(browser.refused)
        daemon.advance(3)
        assert browser.refused is not None
        self.assertEqual(browser.refused.status, 403)

    def test_answer_too_late(self) -> None:
        """A response after the first use is discarded, and the WebSocket is closed."""

        async def view(request: Request) -> str:
            request.websocket.send("hello")
            return "too late"

        browser = self.open(self.serve(view))
        self.assertEqual((browser.messages, browser.closing), (["hello"], NORMAL))

    def test_unused(self) -> None:
        """A view that returns None and never used it accepts and closes it with 1000."""

        async def view(request: Request) -> None:
            return None

        browser = self.open(self.serve(view))
        self.assertEqual((browser.opened, browser.closing), (True, NORMAL))

    def test_failed(self) -> None:
        """A view that raises before the first use refuses with 500, without a traceback."""

        async def view(request: Request) -> None:
            raise ZeroDivisionError("secret")

        browser = self.open(self.serve(view))
        assert browser.refused is not None
        self.assertEqual(browser.refused.status, 500)
        self.assertNotIn("secret", browser.refused.text)
        self.assertNotIn("Traceback", browser.refused.text)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_subprotocol(self) -> None:
        """The browser sees the subprotocol that the view chose."""

        async def view(request: Request) -> None:
            request.websocket.accept(request.subprotocols[1])
            request.websocket.send(str(request.websocket.subprotocol))

        browser = self.open(self.serve(view), subprotocols=("chat.v2", "chat.v1"))
        self.assertEqual((browser.subprotocol, browser.messages), ("chat.v1", ["chat.v1"]))

    def test_no_subprotocol(self) -> None:
        """If the view chooses none, the browser sees none, and is open."""

        async def view(request: Request) -> None:
            await request.websocket.wait()

        browser = self.open(self.serve(view), subprotocols=("chat",))
        self.assertEqual((browser.opened, browser.subprotocol), (True, None))

    def test_wrong_subprotocol(self) -> None:
        """A view that accepts a subprotocol that is not offered has failed: 500."""

        async def view(request: Request) -> None:
            request.websocket.accept("chat")

        browser = self.open(self.serve(view), subprotocols=("news",))
        assert browser.refused is not None
        self.assertEqual(browser.refused.status, 500)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class TrafficTests(DaemonTestCase):
    """Messages through a daemon."""

    def test_kinds(self) -> None:
        """Text arrives as str and binary as bytes, both ways."""
        received: list[str | bytes] = []

        async def view(request: Request) -> None:
            async for message in request.websocket:
                received.append(message)
                request.websocket.send(message, binary=isinstance(message, bytes))

        browser = self.open(self.serve(view))
        sent: list[str | bytes] = ["é", b"\xff", "", b"", "x" * 70_000, b"y" * 126]
        for message in sent:
            browser.send(message)
        self.assertEqual(received, sent)
        self.assertEqual(browser.messages, sent)

    def test_fragments(self) -> None:
        """A message in fragments is delivered whole, also with a ping among them."""
        received: list[str | bytes] = []

        async def view(request: Request) -> None:
            async for message in request.websocket:
                received.append(message)

        browser = self.open(self.serve(view))
        head, middle, end, ping = b"\x01\x82", b"\x00\x81", b"\x80\x82", b"\x89\x81"
        mask = bytes(4)
        # The two bytes of an é come in two fragments.
        browser.send_bytes(head + mask + b"a\xc3" + ping + mask + b"p" + middle + mask + b"\xa9")
        self.assertEqual(received, [])
        browser.send_bytes(end + mask + b"bc" + b"\x82\x81" + mask + b"\xff")
        self.assertEqual(received, ["aébc", b"\xff"])

    def test_with_handshake(self) -> None:
        """Messages that arrive with the handshake are delivered, whenever it is answered."""
        received: list[str | bytes] = []
        for delay in (0, 3):

            async def view(request: Request, delay: float = delay) -> None:
                await deferLater(request.clock, delay)
                async for message in request.websocket:
                    received.append(message)

            daemon = self.serve(view)
            wire = daemon.open_connection()
            frames = [b"\x81\x81" + bytes(4) + name for name in (b"a", b"b", b"c")]
            wire.send(
                b"GET /view/ HTTP/1.1\r\nHost: localhost:8080\r\n"
                b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" + b"".join(frames[:2])
            )
            wire.send(frames[2])
            daemon.advance(delay)
            self.assertEqual(received, ["a", "b", "c"])
            received.clear()
            wire.leave()

    def test_bytes_as_text(self) -> None:
        """Bytes are sent as text unless binary=True."""

        async def view(request: Request) -> None:
            request.websocket.send("é".encode())
            request.websocket.send("é".encode(), binary=True)

        self.assertEqual(self.open(self.serve(view)).messages, ["é", "é".encode()])

    def test_wrong_types(self) -> None:
        """After each error of send() the next message arrives."""

        async def view(request: Request) -> None:
            for data in [*INVALID_DATA, b"\xff", "a\ud800", "x" * 101]:
                try:
                    await request.websocket.send(data)
                except (TypeError, ValueError) as error:
                    request.websocket.send(type(error).__name__)
            try:
                await request.websocket.send("text", binary=True)
            except TypeError:
                request.websocket.send("and on")

        browser = self.open(self.serve(view, limits=Limits(max_message=100)))
        expected = ["TypeError"] * len(INVALID_DATA)
        expected += ["UnicodeDecodeError", "UnicodeEncodeError", "ValueError", "and on"]
        self.assertEqual(browser.messages, expected)
        self.assertEqual(browser.closing, NORMAL)

    def test_longest(self) -> None:
        """A message may have --max-message bytes of UTF-8, and not one more."""
        errors: list[str] = []

        async def view(request: Request) -> None:
            request.websocket.send("é" * 50)
            try:
                request.websocket.send("é" * 50 + "x")
            except ValueError as error:
                errors.append(str(error))
            request.websocket.send(b"x" * 100, binary=True)

        browser = self.open(self.serve(view, limits=Limits(max_message=100)))
        self.assertEqual(browser.messages, ["é" * 50, b"x" * 100])
        self.assertEqual(errors, ["message of 101 bytes: --max-message allows 100"])

    def test_close_codes(self) -> None:
        """Codes and reasons that are valid arrive; others raise ValueError."""

        async def view(request: Request) -> None:
            code = int(request.query["code"])
            try:
                await request.websocket.close(code, request.query.get("reason", ""))
            except ValueError:
                await request.websocket.close(4400, "refused")

        daemon = self.serve(view)
        for code in (1000, 1001, 1008, 1011, 1013, 3000, 4999):
            browser = daemon.connect(f"/view/?code={code}&reason=caf%C3%A9")
            self.assertEqual(browser.closing, Closing(code, "café"))
            self.assertTrue(browser.gone)
        for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000):
            browser = daemon.connect(f"/view/?code={code}")
            self.assertEqual(browser.closing, Closing(4400, "refused"))
        longest, too_long = "x" * 123, "x" * 124
        browser = daemon.connect(f"/view/?code=1000&reason={longest}")
        self.assertEqual(browser.closing, Closing(1000, longest))
        browser = daemon.connect(f"/view/?code=1000&reason={too_long}")
        self.assertEqual(browser.closing, Closing(4400, "refused"))

    def test_buffered_after_close(self) -> None:
        """A view that was busy when the browser closed reads the messages before that."""
        received: list[str | bytes | None] = []

        async def view(request: Request) -> None:
            request.websocket.accept()
            await deferLater(request.clock, 4)
            self.assertTrue(request.websocket.is_closed())
            for _ in range(4):
                received.append(await request.websocket.wait())

        daemon = self.serve(view)
        browser = self.open(daemon)
        browser.send("a")
        browser.send(b"b")
        browser.close()
        daemon.advance(4)
        self.assertEqual(received, ["a", b"b", None, None])


class FlowTests(DaemonTestCase):
    """Back-pressure, both ways."""

    def test_send_held(self) -> None:
        """A view that awaits send() waits while the browser does not read."""
        sent: list[int] = []

        async def view(request: Request) -> None:
            await request.websocket.wait()
            for number in range(100):
                await request.websocket.send(random.randbytes(10_000), binary=True)
                sent.append(number)

        browser = self.open(self.serve(view, limits=Limits(compression=False)))
        browser.stall()
        browser.send("go")
        held = len(sent)
        # The transport asks for a pause at 64 KiB.
        self.assertEqual(held, 6)
        browser.resume()
        self.assertEqual(len(sent), 100)
        self.assertEqual(len(browser.messages), 100)
        self.assertEqual(browser.closing, NORMAL)

    def test_send_held_until_the_end(self) -> None:
        """A view that waits there is cancelled when its browser leaves."""
        ends: list[str] = []

        async def view(request: Request) -> None:
            await request.websocket.wait()
            try:
                while True:
                    await request.websocket.send(bytes(10_000), binary=True)
            except CancelledError:
                ends.append("cancelled")
                raise

        browser = self.open(self.serve(view, limits=Limits(compression=False)))
        browser.stall()
        browser.send("go")
        self.assertEqual(ends, [])
        browser.leave()
        self.assertEqual(ends, ["cancelled"])

    def test_full_inbox(self) -> None:
        """All messages that a browser sends to a busy view arrive, in order."""
        counts: list[int] = []
        received: list[str | bytes] = []

        async def view(request: Request) -> None:
            request.websocket.accept()
            await deferLater(request.clock, 5)
            counts.append(request.websocket.count_messages())
            async for message in request.websocket:
                received.append(message)

        daemon = self.serve(view)
        browser = self.open(daemon)
        for number in range(500):
            browser.send(str(number))
        daemon.advance(5)
        self.assertEqual(counts, [64])
        self.assertEqual(received, [str(number) for number in range(500)])
        browser.close()
        self.assertEqual(browser.closing, NORMAL)

    def test_full_inbox_read(self) -> None:
        """read() makes room in the inbox as wait() does."""
        received: list[str | bytes | None] = []

        async def view(request: Request) -> None:
            request.websocket.accept()
            await deferLater(request.clock, 5)
            while request.websocket.has_messages():
                received.append(request.websocket.read())

        daemon = self.serve(view)
        browser = self.open(daemon)
        for number in range(200):
            browser.send(str(number))
        daemon.advance(5)
        # 64, and those that had arrived when reading was paused.
        self.assertEqual(received, [str(number) for number in range(len(received))])
        self.assertGreaterEqual(len(received), 64)

    def test_full_inbox_keeps_alive(self) -> None:
        """A browser whose view does not read is not dropped for missing pongs."""
        received: list[str | bytes] = []

        async def view(request: Request) -> None:
            request.websocket.accept()
            await deferLater(request.clock, 120)
            async for message in request.websocket:
                received.append(message)

        daemon = self.serve(view)
        browser = self.open(daemon)
        for number in range(100):
            browser.send(str(number))
        daemon.advance(*[5] * 23)
        self.assertFalse(browser.gone)
        daemon.advance(5)
        self.assertEqual(len(received), 100)
        browser.close()
