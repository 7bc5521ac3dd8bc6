"""Running views: where they run, how they are ended, and that nothing is left of them."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Generator, Sequence
from functools import partial, wraps
from typing import Any, cast
from weakref import ref

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredList,
    FirstError,
    gatherResults,
    inlineCallbacks,
    succeed,
)
from twisted.internet.task import Clock, deferLater
from twisted.logger import LogEvent, LogLevel, capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import GOING_AWAY, INTERNAL_ERROR, NORMAL, TRY_AGAIN_LATER, Closing
from pushd.access.limits import Limits
from pushd.errors import ConversationOver, ThreadsBusy
from pushd.protocols.fast_paths import FAST_PATHS
from pushd.protocols.http.channel import Channel
from pushd.protocols.websocket.protocol import PushProtocol
from pushd.protocols.websocket.socket import WebSocket
from pushd.schedule.ticks import PushSchedule
from pushd.testing import Browser, Daemon
from pushd.views.decorators import accept_websocket
from pushd.views.request import Request, View
from pushd.views.runner import ViewRun, ViewRunner, is_cancellation, runs_on_reactor


def warnings(events: Sequence[LogEvent]) -> list[str]:
    """Return the warnings among log events."""
    return [str(formatEvent(event)) for event in events if event["log_level"] is LogLevel.warn]


class DaemonTestCase(SynchronousTestCase):
    """A view in a daemon in memory, and what it records."""

    def setUp(self) -> None:
        """Start with an empty record."""
        self.record: list[object] = []

    def serve(self, view: View, **settings: Any) -> Daemon:
        """Serve one view; the daemon is stopped after the test, and no delayed call may be left."""
        self.daemon = Daemon({"/view/": accept_websocket(view)}, **settings)
        self.addCleanup(lambda: self.assertEqual(self.daemon.pending_calls, []))
        self.addCleanup(self.daemon.stop)
        return self.daemon

    def open(self, view: View, **settings: Any) -> Browser:
        """Serve one view and open a WebSocket to it."""
        return self.serve(view, **settings).connect("/view/")


class EndOfViewTests(DaemonTestCase):
    """What a view's end does to its conversation."""

    def test_returns(self) -> None:
        """A view that returns closes with 1000 and no reason."""

        async def view(request: Request) -> None:
            await request.websocket.wait()

        browser = self.open(view)
        browser.send("go")
        self.assertEqual((browser.closing, browser.gone), (NORMAL, True))

    def test_raises(self) -> None:
        """A view that raises closes with 1011; the log has the traceback, the peer and the path."""

        async def view(request: Request) -> None:
            await request.websocket.wait()
            raise ZeroDivisionError("secret")

        browser = self.open(view)
        with capturedLogs() as events:
            browser.send("go")
        self.assertEqual((browser.closing, browser.gone), (INTERNAL_ERROR, True))
        self.assertEqual(browser.messages, [])
        [event] = [event for event in events if event["log_level"] is LogLevel.critical]
        self.assertIn("test_raises", formatEvent(event))
        self.assertIn("/view/", formatEvent(event))
        self.assertIn("127.0.0.1:5", formatEvent(event))
        [failure] = self.flushLoggedErrors(ZeroDivisionError)
        self.assertIn("secret", failure.getTraceback())

    def test_cancels_itself(self) -> None:
        """A CancelledError that the view raises itself is an error like any other."""

        async def view(request: Request) -> None:
            await request.websocket.wait()
            raise CancelledError

        browser = self.open(view)
        browser.send("go")
        self.assertEqual(browser.closing, INTERNAL_ERROR)
        self.assertEqual(len(self.flushLoggedErrors(CancelledError)), 1)

    def test_goes_on_after_close(self) -> None:
        """A view may run for some seconds after its close()."""

        async def view(request: Request) -> None:
            await request.websocket.wait()
            await request.websocket.close(4000, "enough")
            await deferLater(request.clock, 4)
            self.record.append("finished")

        browser = self.open(view)
        with capturedLogs() as events:
            browser.send("go")
            self.assertEqual(browser.closing, Closing(4000, "enough"))
            self.assertTrue(browser.gone)
            self.daemon.advance(4)
        self.assertEqual(self.record, ["finished"])
        self.assertEqual(warnings(events), [])
        self.assertEqual(self.daemon.pending_calls, [])


class EndOfConversationTests(DaemonTestCase):
    """What the end of a conversation does to its view."""

    def setUp(self) -> None:
        """Collect the ways in which a conversation can end from outside."""
        super().setUp()
        self.ends: list[Callable[[Browser], object]] = [
            lambda browser: browser.close(4000),
            lambda browser: browser.leave(),
            lambda browser: browser.send_bytes(b"\xff\xff nonsense"),
            lambda browser: self.daemon.begin_stop(),
        ]

    def record_exception(self, failure: BaseException) -> None:
        """Record the type of an exception."""
        self.record.append(type(failure))

    def test_cancelled(self) -> None:
        """A view that waits for something else is cancelled there after its grace: no error."""

        async def view(request: Request) -> None:
            request.websocket.accept()
            try:
                await deferLater(request.clock, 1000)
            except BaseException as error:
                self.record_exception(error)
                raise

        for end in self.ends:
            browser = self.open(view)
            with capturedLogs() as events:
                end(browser)
                self.daemon.advance(4.9)
                self.assertEqual(self.record, [])
                self.daemon.advance(0.1)
            self.assertEqual(self.record.pop(), CancelledError)
            self.assertEqual(len(warnings(events)), 1)
            self.daemon.stop()
            self.assertEqual(self.daemon.pending_calls, [])

    def test_timed(self) -> None:
        """A view that waits for its PushSchedule is cancelled there at once."""

        async def view(request: Request) -> None:
            await request.websocket.wait()
            try:
                async for _ in PushSchedule(request.clock, count=None, interval=1000):
                    pass
            except BaseException as error:
                self.record_exception(error)
                raise

        for end in self.ends:
            browser = self.open(view)
            browser.send("go")
            with capturedLogs() as events:
                end(browser)
            self.assertEqual(self.record.pop(), CancelledError)
            self.assertEqual(warnings(events), [])
            self.daemon.stop()
            self.assertEqual(self.daemon.pending_calls, [])

    def test_timed_reads_on(self) -> None:
        """A timed view that has messages to read is cancelled when it has read them."""

        async def view(request: Request) -> None:
            request.websocket.accept()
            async for _ in PushSchedule(request.clock, count=None, interval=1, delay=1):
                self.record.append(request.websocket.read())

        browser = self.open(view)
        for message in ("a", "b", "c"):
            browser.send(message)
        browser.close()
        self.daemon.advance(1, 1)
        self.assertEqual(self.record, ["a", "b"])
        self.assertNotEqual(self.daemon.pending_calls, [])
        self.daemon.advance(1)
        self.assertEqual(self.record, ["a", "b", "c"])
        self.assertEqual(self.daemon.pending_calls, [])

    def test_timed_in_helper(self) -> None:
        """So is a view that awaits Deferreds of helpers that wait for a PushSchedule."""

        async def tick(request: Request) -> None:
            async for _ in PushSchedule(request.clock, count=None, interval=1000, delay=1000):
                pass

        async def single(request: Request) -> None:
            request.websocket.accept()
            await Deferred.fromCoroutine(tick(request))

        async def both(request: Request) -> None:
            reading = Deferred.fromCoroutine(self.read(request))
            ticking = Deferred.fromCoroutine(tick(request))
            await gatherResults([reading, ticking], consumeErrors=True)

        @inlineCallbacks
        def generator(request: Request) -> Generator[Deferred[Any], Any, None]:
            request.websocket.accept()
            yield Deferred.fromCoroutine(tick(request))

        for view in (single, both, generator):
            for end in self.ends:
                browser = self.open(view)
                with capturedLogs() as events:
                    end(browser)
                self.assertEqual(warnings(events), [])
                self.daemon.stop()
                self.assertEqual(self.daemon.pending_calls, [])

    async def read(self, request: Request) -> None:
        """Read all messages."""
        async for message in request.websocket:
            await deferLater(request.clock, 1)
            self.record.append(message)

    def test_timed_in_helper_reads_on(self) -> None:
        """Beside a helper that still reads messages, a PushSchedule goes on until it has."""

        async def tick(request: Request) -> None:
            async for number in PushSchedule(request.clock, count=None, interval=1):
                self.record.append(number)

        async def view(request: Request) -> None:
            reading = Deferred.fromCoroutine(self.read(request))
            ticking = Deferred.fromCoroutine(tick(request))
            await gatherResults([reading, ticking], consumeErrors=True)

        browser = self.open(view)
        for message in ("a", "b"):
            browser.send(message)
        browser.close()
        self.daemon.advance(1, 1, 1)
        self.assertEqual(sorted(map(str, self.record)), ["0", "1", "a", "b"])
        self.assertEqual(self.daemon.pending_calls, [])

    def test_timed_later(self) -> None:
        """A view that comes to its PushSchedule after the end is cancelled then, if unaware."""

        async def view(request: Request, *, told: bool) -> None:
            request.websocket.accept()
            for _ in range(2):
                await deferLater(request.clock, 1)
            if told:
                self.assertIsNone(await request.websocket.wait())
            async for number in PushSchedule(request.clock, count=3, interval=1):
                self.record.append(number)

        for told, expected in ((False, [0]), (True, [0, 1, 2])):
            browser = self.open(partial(view, told=told))
            browser.leave()
            self.daemon.advance(1, 1, 1, 1, 1)
            self.assertEqual(self.record, expected)
            self.assertEqual(self.daemon.pending_calls, [])
            self.record.clear()

    def test_timed_after_sends(self) -> None:
        """Sends after the end, however many, do not tell a view of it."""

        async def view(request: Request) -> None:
            request.websocket.accept()
            await deferLater(request.clock, 1)
            for _ in range(200):
                request.websocket.send("unread")
            async for number in PushSchedule(request.clock, count=3, interval=1):
                self.record.append(number)

        browser = self.open(view)
        browser.leave()
        self.daemon.advance(1)
        self.assertEqual(self.record, [0])
        self.assertEqual(self.daemon.pending_calls, [])

    def test_timed_deferred_closes(self) -> None:
        """A view with inlineCallbacks that closes and then ticks is cancelled at once."""

        @inlineCallbacks
        def view(request: Request) -> Generator[Deferred[Any], Any, None]:
            request.websocket.close(4000)
            yield Deferred.fromCoroutine(tick(request))

        async def tick(request: Request) -> None:
            async for number in PushSchedule(request.clock, count=None, interval=1):
                self.record.append(number)

        self.open(view)
        self.daemon.advance(0.5)
        self.assertEqual((self.record, self.daemon.pending_calls), ([0], []))

    def test_notified(self) -> None:
        """A view that waits for a message gets None, and has time to clean up."""

        async def view(request: Request) -> None:
            self.record.append(await request.websocket.wait())
            await deferLater(request.clock, 3)
            self.record.append("cleaned up")

        for end in self.ends:
            browser = self.open(view)
            with capturedLogs() as events:
                end(browser)
                self.assertEqual(self.record, [None])
                self.daemon.advance(3)
            self.assertEqual(self.record, [None, "cleaned up"])
            self.assertEqual(warnings(events), [])
            self.daemon.stop()
            self.record.clear()

    def test_loop_stops(self) -> None:
        """A view that iterates leaves its loop without an exception."""

        async def view(request: Request) -> None:
            async for message in request.websocket:
                self.record.append(message)
            self.record.append("after the loop")

        for end in self.ends:
            browser = self.open(view)
            browser.send("a")
            end(browser)
            self.assertEqual(self.record, ["a", "after the loop"])
            self.daemon.stop()
            self.record.clear()

    def test_timed_wait(self) -> None:
        """A wait with a timeout returns None like any other, and its timer is cancelled."""

        async def view(request: Request) -> None:
            self.record.append(await request.websocket.wait(timeout=100))

        browser = self.open(view)
        browser.leave()
        self.assertEqual(self.record, [None])
        self.assertEqual(self.daemon.pending_calls, [])

    def test_closing(self) -> None:
        """A view that awaits close() goes on when the connection is closed."""

        async def view(request: Request) -> None:
            request.websocket.accept()
            await deferLater(request.clock, 1)
            await request.websocket.close()
            self.record.append("gone")

        browser = self.open(view)
        browser.stall()
        self.daemon.advance(1)
        self.assertEqual(self.record, [])
        browser.leave()
        self.assertEqual(self.record, ["gone"])

    def test_combined(self) -> None:
        """A view that waits for a message and other things is cancelled after its grace."""
        combine: Any
        for combine in (DeferredList, gatherResults):

            async def view(request: Request, combine: Any = combine) -> None:
                later: Deferred[None] = deferLater(request.clock, 1000)
                await combine([request.websocket.wait(), later], consumeErrors=True)

            self.open(view).leave()
            self.daemon.advance(5)
            self.assertEqual(self.daemon.pending_calls, [])
            self.daemon.stop()

    def test_in_helper(self) -> None:
        """It is notified or cancelled in whichever of its functions it waits."""

        async def sleep(request: Request) -> None:
            try:
                await deferLater(request.clock, 1000)
            finally:
                self.record.append("awake")

        async def listen(request: Request) -> str | bytes | None:
            message: str | bytes | None = await request.websocket.wait()
            return message

        async def view(request: Request) -> None:
            if await listen(request) == "sleep":
                await sleep(request)
            self.record.append("notified")

        browser = self.open(view)
        browser.leave()
        self.assertEqual(self.record, ["notified"])
        browser = self.daemon.connect("/view/")
        browser.send("sleep")
        browser.leave()
        self.daemon.advance(5)
        self.assertEqual(self.record, ["notified", "awake"])

    def test_canceller_raises(self) -> None:
        """If cancelling what a view waits for raises, the connection is closed all the same."""

        def fail(_: Deferred[None]) -> None:
            raise LookupError

        async def view(request: Request) -> None:
            await request.websocket.wait()
            await Deferred(fail)

        browser = self.open(view)
        browser.send("go")
        browser.leave()
        self.daemon.advance(5)
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)
        self.assertEqual(len(self.daemon._service.connections), 0)

    def test_sending(self) -> None:
        """Sends after the end do nothing within the grace, and the view goes on to its end."""

        async def view(request: Request) -> None:
            await request.websocket.wait()
            for number in range(1000):
                await request.websocket.send(f"tick {number}")
            self.record.append(await request.websocket.subscribe("t"))
            await request.websocket.close()
            self.record.append("cleaned up")

        self.open(view).leave()
        self.assertEqual(self.record, [False, "cleaned up"])

    def test_sending_after_grace(self) -> None:
        """After its grace a send ends the view."""

        async def view(request: Request) -> None:
            await request.websocket.wait()
            with contextlib.suppress(CancelledError):
                await deferLater(request.clock, 1000)
            try:
                request.websocket.send("tick")
            except BaseException as error:
                self.record_exception(error)
                raise

        self.open(view).leave()
        self.daemon.advance(5)
        self.assertEqual(self.record, [CancelledError])

    def test_sending_without_end(self) -> None:
        """A view that sends in an endless loop does not keep the reactor for its grace."""

        async def view(request: Request) -> None:
            await request.websocket.wait()
            try:
                while len(self.record) < 100_000:
                    self.record.append(await request.websocket.send("tick"))
            except BaseException as error:
                self.record_exception(error)
                raise

        self.open(view).leave()
        self.assertEqual(self.record[-1], CancelledError)
        self.assertEqual(len(self.record), 10_001)

    def test_too_slow(self) -> None:
        """A view that does not await its sends is ended when its browser is closed as too slow."""

        async def view(request: Request) -> None:
            await request.websocket.wait()
            try:
                while len(self.record) < 100_000:
                    request.websocket.send(bytes(10_000), binary=True)
                    self.record.append("sent")
            except BaseException as error:
                self.record_exception(error)
                raise

        browser = self.open(view, limits=Limits(compression=False))
        browser.stall()
        browser.send("go")
        self.assertEqual(self.record.pop(), CancelledError)
        self.assertLess(len(self.record), 10_200)
        browser.resume()
        self.assertEqual(browser.closing, TRY_AGAIN_LATER)

    def test_ignores_end(self) -> None:
        """A view that loops over wait() and ignores the None is ended."""

        async def view(request: Request) -> None:
            while True:
                self.record.append(await request.websocket.wait())

        browser = self.open(view)
        browser.send("a")
        browser.close()
        self.assertEqual(self.record, ["a"] + [None] * 101)

    def test_unopened(self) -> None:
        """A view whose browser leaves before the 101 is cancelled after its grace."""

        async def view(request: Request) -> None:
            try:
                await deferLater(request.clock, 1000)
            except BaseException as error:
                self.record_exception(error)
                self.assertTrue(request.websocket.is_closed())
                raise

        browser = self.open(view)
        browser.leave()
        self.daemon.advance(5)
        self.assertEqual(self.record, [CancelledError])
        self.assertEqual(self.daemon.pending_calls, [])

    def test_plain_http(self) -> None:
        """A view whose client leaves before it is answered is cancelled, which is no error."""

        async def view(request: Request) -> str:
            try:
                await deferLater(request.clock, 1000)
            except BaseException as error:
                self.record_exception(error)
                raise
            return "late"

        wire = self.serve(view).open_connection()
        wire.send(b"GET /view/ HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        with capturedLogs() as events:
            wire.leave()
        self.assertEqual(self.record, [CancelledError])
        self.assertEqual(warnings(events), [])
        self.assertEqual(self.daemon.pending_calls, [])

    def test_error_on_the_way_out(self) -> None:
        """An exception that a view raises while it cleans up is logged."""

        async def view(request: Request) -> None:
            request.websocket.accept()
            try:
                await deferLater(request.clock, 1000)
            finally:
                raise ZeroDivisionError

        self.open(view).leave()
        self.daemon.advance(5)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_finished_before(self) -> None:
        """A view that has returned is not affected when the connection closes later."""

        async def view(request: Request) -> None:
            await request.websocket.wait()

        browser = self.open(view)
        browser.stall()
        with capturedLogs() as events:
            browser.send("go")
            self.daemon.advance(2)
            browser.leave()
            self.daemon.advance(20)
        self.assertEqual(warnings(events), [])

    def test_other_tasks(self) -> None:
        """Other tasks can go on using the WebSocket of a view that has ended."""
        held: list[WebSocket] = []

        async def view(request: Request) -> None:
            held.append(request.websocket)
            await request.websocket.wait()

        browser = self.open(view)
        browser.leave()
        [websocket] = held
        for _ in range(100):
            self.successResultOf(websocket.send("ignored"))
            self.assertIsNone(self.successResultOf(websocket.wait()))

    def test_broadcast(self) -> None:
        """A view that sends to other browsers is not ended when one of those leaves."""
        websockets: list[WebSocket] = []

        async def view(request: Request) -> None:
            websockets.append(request.websocket)
            async for message in request.websocket:
                for websocket in websockets:
                    websocket.send(message)

        first = self.open(view)
        second, third = (self.daemon.connect("/view/") for _ in range(2))
        second.leave()
        third.send("hello")
        self.assertEqual((first.messages, third.messages), (["hello"], ["hello"]))


class LastMessagesTests(DaemonTestCase):
    """Messages that arrived before the end are read after it, at the pace of the view."""

    def serve_saving(self, seconds: float, **settings: Any) -> Browser:
        """Serve a view that takes some time over each message, and answers each."""

        async def view(request: Request) -> None:
            async for message in request.websocket:
                await deferLater(request.clock, seconds)
                self.record.append(message)
                await request.websocket.send("ok")
            self.record.append("after the loop")

        return self.open(view, **settings)

    def test_all_saved(self) -> None:
        """Ten messages and a Close at once: each message is saved, then the loop ends."""
        ends: list[Callable[[Browser], object]] = [
            lambda browser: browser.close(),
            lambda browser: browser.leave(),
            lambda browser: self.daemon.begin_stop(),
        ]
        for end in ends:
            browser = self.serve_saving(0.01)
            for number in range(10):
                browser.send(str(number))
            end(browser)
            with capturedLogs() as events:
                self.daemon.advance(*[0.01] * 12)
            self.assertEqual(self.record, [*map(str, range(10)), "after the loop"])
            self.assertEqual(warnings(events), [])
            self.daemon.stop()
            self.assertEqual(self.daemon.pending_calls, [])
            self.record.clear()

    def test_stop(self) -> None:
        """A daemon that stops waits for views in their grace, and not longer than that."""
        browser = self.serve_saving(0.5)
        for number in range(3):
            browser.send(str(number))
        stopped = self.daemon.begin_stop()
        self.assertNoResult(stopped)
        self.daemon.advance(0.5, 0.5)
        self.assertNoResult(stopped)
        self.daemon.advance(0.5, 0.5)
        self.successResultOf(stopped)
        self.assertEqual(self.record, ["0", "1", "2", "after the loop"])
        browser = self.serve_saving(100)
        browser.send("a")
        stopped = self.daemon.begin_stop()
        self.daemon.advance(5)
        self.successResultOf(stopped)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_renewed(self) -> None:
        """Each message that is read renews the grace, as long as it ends within a minute."""
        browser = self.serve_saving(4)
        for number in range(30):
            browser.send(str(number))
        browser.close()
        self.daemon.advance(*[1] * 70)
        self.assertEqual(self.record, [*map(str, range(14))])
        self.assertEqual(self.daemon.pending_calls, [])

    def test_too_long_over_one(self) -> None:
        """A view that takes longer than its grace over one message is cancelled."""
        browser = self.serve_saving(6)
        browser.send("a")
        browser.send("b")
        browser.close()
        self.daemon.advance(*[1] * 20)
        self.assertEqual(self.record, [])
        self.assertEqual(self.daemon.pending_calls, [])

    def test_paused(self) -> None:
        """What had arrived when reading was paused is read after a reset as well."""
        for fast_paths in (True, False):
            self.patch(FAST_PATHS, "enabled", fast_paths)
            browser = self.serve_saving(0.01)
            browser.send_bytes(b"".join(b"\x81\x81\0\0\0\0" + b"%d" % (n % 10) for n in range(300)))
            self.daemon.advance(0.01)
            browser.leave()
            self.daemon.advance(*[0.01] * 400)
            self.assertEqual(self.record, [*(str(n % 10) for n in range(300)), "after the loop"])
            self.daemon.stop()
            self.record.clear()

    def test_slot(self) -> None:
        """A connection counts until its messages are read, or its view ends, or the grace does."""

        async def view(request: Request) -> None:
            messages = request.websocket
            while (message := await messages.wait()) not in (None, "return"):
                await deferLater(request.clock, 10 if message == "sleep" else 1)

        for messages, seconds in (("a", 0), ("ab", 1), ("abc", 2), (["a", "return", "b"], 1)):
            self.check_slot(view, messages, seconds)
        self.check_slot(view, ["sleep", "a"], 5)

    def check_slot(self, view: View, messages: Sequence[str], seconds: int) -> None:
        """Check how long a client that leaves after these messages counts as a connection."""
        browser = self.open(view, limits=Limits(max_connections=1))
        for message in messages:
            browser.send(message)
        browser.leave()
        for _ in range(seconds):
            self.assertFalse(self.daemon.connect("/view/").opened)
            self.daemon.advance(1)
        self.assertTrue(self.daemon.connect("/view/").opened)
        self.daemon.advance(10)
        self.daemon.stop()

    def test_option(self) -> None:
        """--view-grace sets the grace."""
        browser = self.serve_saving(6, view_grace=7)
        browser.send("a")
        browser.send("b")
        browser.close()
        self.daemon.advance(*[1] * 20)
        self.assertEqual(self.record, ["a", "b", "after the loop"])

    def test_inline_callbacks(self) -> None:
        """A view that returns a Deferred reads them as well."""

        @inlineCallbacks
        def view(request: Request) -> Generator[Deferred[Any], Any, None]:
            while (message := (yield request.websocket.wait())) is not None:
                yield deferLater(request.clock, 0.01)
                self.record.append(message)
                yield request.websocket.send("ok")

        browser = self.open(view)
        for number in range(10):
            browser.send(str(number))
        browser.close()
        self.daemon.advance(*[0.01] * 12)
        self.assertEqual(self.record, [*map(str, range(10))])

    def test_close_code(self) -> None:
        """A view learns how its conversation ended."""

        async def view(request: Request) -> None:
            websocket = request.websocket
            websocket.accept()
            self.record.append((websocket.close_code, websocket.close_reason))
            await websocket.wait()
            self.record.append((websocket.close_code, websocket.close_reason))

        ends: list[tuple[Callable[[Browser], object], tuple[int, str]]] = [
            (lambda browser: browser.close(4001, "bye"), (4001, "bye")),
            (lambda browser: browser.leave(), (1006, "")),
            (lambda browser: browser.send_bytes(b"\x88\x80mask"), (1005, "")),
            (lambda browser: self.daemon.begin_stop(), (1001, GOING_AWAY.reason)),
        ]
        for end, expected in ends:
            end(self.open(view))
            self.assertEqual(self.record, [(None, ""), expected])
            self.daemon.stop()
            self.record.clear()

    def test_broadcast_of_who_left(self) -> None:
        """The last message of a client that left reaches all others, and clean-up runs."""
        rooms: dict[str, WebSocket] = {}

        async def view(request: Request) -> None:
            name = request.query["name"]
            rooms[name] = request.websocket
            async for message in request.websocket:
                await deferLater(request.clock, 0.01)
                for websocket in rooms.values():
                    await websocket.send(message)
            for websocket in rooms.values():
                await websocket.send(f"{name} left")
            del rooms[name]

        self.serve(view)
        first, second, third = (self.daemon.connect(f"/view/?name={name}") for name in "abc")
        for browser in (first, second, third):
            browser.send("hi")
            self.daemon.advance(0.01)
        first.send("last words")
        first.close()
        self.daemon.advance(0.01)
        for browser in (second, third):
            self.assertEqual(browser.messages[-2:], ["last words", "a left"])
        self.assertEqual([*rooms], ["b", "c"])


class GraceTests(DaemonTestCase):
    """A view that outlives its grace is cancelled every 5 s, with a warning."""

    def test_outlives_grace(self) -> None:
        """A view that outlives its grace is cancelled, and a warning names it."""

        async def view(request: Request) -> None:
            await request.websocket.wait()
            try:
                await deferLater(request.clock, 1000)
            except CancelledError:
                self.record.append("cancelled")
                raise

        browser = self.open(view)
        browser.leave()
        with capturedLogs() as events:
            self.daemon.advance(4.999)
            self.assertEqual(self.record, [])
            self.daemon.advance(0.001)
        self.assertEqual(self.record, ["cancelled"])
        [warning] = warnings(events)
        self.assertIn(
            "test_outlives_grace.<locals>.view is still running 5 s after the end", warning
        )
        self.assertIn("127.0.0.1:5", warning)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_swallows(self) -> None:
        """A view that swallows its cancellation is cancelled every 5 s until it ends."""

        async def view(request: Request) -> None:
            request.websocket.accept()
            while len(self.record) < 4:
                try:
                    await deferLater(request.clock, 1000)
                except CancelledError:
                    self.record.append(request.clock.seconds())

        browser = self.open(view)
        browser.leave()
        with capturedLogs() as events:
            self.daemon.advance(*[1] * 30)
        self.assertEqual(self.record, [5, 10, 15, 20])
        self.assertEqual(len(warnings(events)), 4)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_swallows_exception(self) -> None:
        """So is a view with a loop that catches every Exception."""

        async def view(request: Request) -> None:
            request.websocket.accept()
            while True:
                try:
                    await deferLater(request.clock, 3)
                    self.record.append("tick")
                    await request.websocket.send("tick")
                except Exception as error:
                    self.record.append(type(error))
                    if self.record.count(CancelledError) == 3:
                        return

        browser = self.open(view)
        self.daemon.advance(3)
        self.assertEqual(browser.messages, ["tick"])
        browser.leave()
        self.daemon.advance(3, 2, 3, 2)
        self.assertEqual(
            self.record,
            ["tick", "tick", CancelledError, "tick", CancelledError, CancelledError],
        )
        self.assertEqual(self.daemon.pending_calls, [])

    def test_in_time(self) -> None:
        """A view that ends within its grace causes no warning."""

        async def view(request: Request) -> None:
            await request.websocket.wait()
            await deferLater(request.clock, 4.9)
            self.record.append("finished")

        browser = self.open(view)
        browser.leave()
        with capturedLogs() as events:
            self.daemon.advance(4.9, 10)
        self.assertEqual((self.record, warnings(events)), (["finished"], []))

    def test_within_first_step(self) -> None:
        """A view whose first step outlasts its grace causes a warning as well."""

        async def view(request: Request) -> None:
            request.websocket.close_with(NORMAL)
            self.daemon.clock.advance(6)
            try:
                await deferLater(request.clock, 1000)
            except CancelledError:
                self.record.append(request.clock.seconds())

        with capturedLogs() as events:
            self.open(view)
            self.daemon.advance(5)
        self.assertEqual(self.record, [11])
        self.assertEqual(len([line for line in warnings(events) if "is still running" in line]), 2)


class SlowCloseTests(DaemonTestCase):
    """A view that awaits ``close`` on a slow link has its grace after that."""

    def check(self, view: View) -> None:
        """Let a view send much and close, to a browser that reads nothing for 4 s."""
        browser = self.open(view, limits=Limits(compression=False), view_grace=2)
        browser.stall()
        with capturedLogs() as events:
            browser.send("go")
            self.daemon.advance(*[0.5] * 8)
            self.assertEqual(self.record, [])
            browser.resume()
            self.assertEqual(browser.closing, Closing(4000, "bye"))
            self.assertEqual(len(browser.messages[0]), 900_000)
            self.daemon.advance(*[0.5] * 4)
        self.assertEqual(self.record, ["closed", "cleaned up"])
        self.assertEqual(warnings(events), [])

    def test_async(self) -> None:
        """It goes on after ``close``, and may take its whole grace for its clean-up."""

        async def view(request: Request) -> None:
            await request.websocket.wait()
            request.websocket.send("x" * 900_000)
            await request.websocket.close(4000, "bye")
            self.record.append("closed")
            await deferLater(request.clock, 1.4)
            self.record.append("cleaned up")

        self.check(view)

    def test_inline_callbacks(self) -> None:
        """So does a view with inlineCallbacks."""

        @inlineCallbacks
        def view(request: Request) -> Generator[Deferred[Any], Any, None]:
            yield request.websocket.wait()
            request.websocket.send("x" * 900_000)
            yield request.websocket.close(4000, "bye")
            self.record.append("closed")
            yield deferLater(request.clock, 1.4)
            self.record.append("cleaned up")

        self.check(view)

    def test_thread(self) -> None:
        """A view in a thread keeps its place, and is not ended by its next call."""

        def view(request: Request) -> None:
            request.websocket.wait()
            request.websocket.send("x" * 900_000)
            request.websocket.close(4000, "bye")
            self.record.append("closed")
            request.websocket.send("nothing")
            self.record.append("cleaned up")

        self.check(view)

    def test_then_endless(self) -> None:
        """After ``close`` the grace is as long as ever."""

        async def view(request: Request) -> None:
            request.websocket.close()
            try:
                await deferLater(request.clock, 1000)
            finally:
                self.record.append(request.clock.seconds())

        self.open(view)
        self.daemon.advance(*[1] * 10)
        self.assertEqual(self.record, [5])


class StubbornTests(DaemonTestCase):
    """Views on the reactor that ignore every exception: they end, and the reactor stays free."""

    def calls(self) -> dict[str, Callable[[Request], Any]]:
        """Return what is called in endless loops."""

        async def iterate(request: Request) -> None:
            async for _ in request.websocket:
                pass
            raise ValueError

        async def tick(request: Request) -> None:
            async for _ in PushSchedule(request.clock, count=None, interval=0.01):
                await request.websocket.send("tick")

        async def helped(request: Request) -> None:
            await Deferred.fromCoroutine(tick(request))

        async def poll(request: Request) -> None:
            request.websocket.read()
            request.websocket.send("tick")  # Not awaited.
            await deferLater(request.clock, 0.1)

        async def send(request: Request) -> None:
            await request.websocket.send("tick")
            await deferLater(request.clock, 0.1)

        return {
            "wait": lambda request: request.websocket.wait(),
            "send": send,
            "tight": lambda request: request.websocket.send("tick"),
            "close": lambda request: request.websocket.close(),
            "subscribe": lambda request: request.websocket.subscribe("news"),
            "iterate": iterate,
            "tick": tick,
            "helped": helped,
            "poll": poll,
        }

    def loop(self, call: Callable[[Request], Any], caught: type[BaseException]) -> View:
        """Return a view that makes a call again and again, and ignores what it raises."""

        async def view(request: Request) -> None:
            record = self.record
            await request.websocket.wait()
            while len(record) < 100_000:
                try:
                    record.append("call")
                    await call(request)
                except caught:
                    continue

        return view

    def check(self, view: View, name: str) -> None:
        """Let a browser leave a view; it must end within bounded calls, without an error."""
        record = self.record = []
        browser = self.open(view)
        if name not in ("tight", "subscribe"):  # Which take no time before the end.
            browser.send("go")
            self.daemon.advance(*[0.01] * 20)
        browser.leave()
        with capturedLogs() as events:
            for _ in range(20_000):
                self.daemon.advance(0.05)
                if not self.daemon.pending_calls:
                    break
        gc.collect()
        self.assertEqual(self.daemon.pending_calls, [], name)
        self.assertLess(len(record), 30_000, name)
        count = len(record)
        self.daemon.advance(*[1] * 30)
        self.assertEqual(len(record), count, name)
        dropped = [event for event in events if event.get("event") == "view_dropped"]
        self.assertLessEqual(len(dropped), 1, name)
        self.record = [*dropped]

    def test_exception(self) -> None:
        """A loop in ``except Exception`` ends by the second exception that is raised in it."""
        for name, call in self.calls().items():
            self.check(self.loop(call, Exception), name)

    def test_everything(self) -> None:
        """A loop that catches everything is closed, and the log names the view once."""
        raised: list[object] = []
        self.patch(sys, "unraisablehook", raised.append)
        calls = self.calls()
        del calls["helped"]  # As it is closed it would start another helper, which goes on.
        for name, call in calls.items():
            self.check(self.loop(call, BaseException), name)
            self.assertEqual(len(self.record), 1, name)

    def test_inline_callbacks(self) -> None:
        """So with inlineCallbacks, whatever the loop catches."""
        raised: list[object] = []
        self.patch(sys, "unraisablehook", raised.append)
        for caught in (Exception, BaseException):
            for name in ("wait", "tight", "close", "subscribe"):
                call = self.calls()[name]

                @inlineCallbacks
                def view(
                    request: Request,
                    call: Callable[[Request], Any] = call,
                    caught: type[BaseException] = caught,
                ) -> Generator[Deferred[Any], Any, None]:
                    record = self.record
                    yield request.websocket.wait()
                    while len(record) < 100_000:
                        try:
                            record.append("call")
                            yield call(request)
                        except caught:
                            continue

                self.check(view, name)
                self.assertEqual(len(self.record), int(caught is BaseException), name)

    def test_cancellations(self) -> None:
        """A view that calls nothing of its WebSocket is dropped after 100 cancellations."""

        async def view(request: Request) -> None:
            request.websocket.accept()
            while True:
                try:
                    await deferLater(request.clock, 1000)
                except CancelledError:
                    self.record.append("ignored")
                finally:
                    self.record.append("finally")

        browser = self.open(view)
        browser.leave()
        with capturedLogs() as events:
            self.daemon.advance(*[5] * 101)
        self.assertEqual(self.record, ["ignored", "finally"] * 100 + ["finally"])
        self.assertEqual(self.daemon.pending_calls, [])
        [event] = [event for event in events if event.get("event") == "view_dropped"]
        self.assertIn("ignored 100 times", str(formatEvent(event)))

    def test_dropped_deferred(self) -> None:
        """What a dropped view's Deferred gives later is ignored."""
        results: list[Deferred[None]] = []

        def view(request: Request) -> Deferred[None]:
            request.websocket.accept()

            def go_on(_: object) -> Deferred[None]:
                results.append(Deferred())
                return results[-1].addBoth(go_on) if len(results) < 102 else results[-1]

            return go_on(None)

        browser = self.open(view)
        browser.leave()
        self.daemon.advance(*[5] * 101)
        self.assertEqual(self.daemon.pending_calls, [])
        self.assertEqual(len(results), 101)
        for _ in range(2):
            results[-1].callback(None)
        self.assertEqual(len(results), 102)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_dropped_plain_http(self) -> None:
        """A view over plain HTTP is dropped as well, once its client is gone."""

        async def view(request: Request) -> None:
            while True:
                with contextlib.suppress(CancelledError):
                    await deferLater(request.clock, 1000)

        wire = self.serve(view).open_connection()
        wire.send(b"GET /view/ HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        wire.leave()
        with capturedLogs() as events:
            self.daemon.advance(*[5] * 130)
        dropped = [event for event in events if event.get("event") == "view_dropped"]
        self.assertEqual((len(dropped), self.daemon.pending_calls), (1, []))

    def test_logged_once(self) -> None:
        """The log names a view once, however many of its runs are dropped."""

        async def view(request: Request) -> None:
            request.websocket.accept()
            while True:
                with contextlib.suppress(CancelledError):
                    await deferLater(request.clock, 1000)

        daemon = self.serve(view)
        with capturedLogs() as events:
            for _ in range(2):
                daemon.connect("/view/").leave()
            daemon.advance(*[5] * 101)
        dropped = [event for event in events if event.get("event") == "view_dropped"]
        self.assertEqual((len(dropped), daemon.pending_calls), (1, []))

    def test_helpers(self) -> None:
        """Loops of tasks beside the view leave the reactor free as well."""

        async def read(websocket: WebSocket) -> None:
            await websocket.wait()
            while len(self.record) < most:
                with contextlib.suppress(Exception):
                    self.record.append("read")
                    if await websocket.wait() is None:
                        raise ValueError

        async def write(websocket: WebSocket) -> None:
            await websocket.wait()
            while len(self.record) < most:
                self.record.append("sent")
                await websocket.send("tick")

        for helper in (read, write):
            self.record, most = [], 100_000

            async def view(request: Request, helper: Callable[..., Any] = helper) -> None:
                await Deferred.fromCoroutine(helper(request.websocket))

            browser = self.open(view)
            browser.leave()
            self.daemon.advance(*[0.1] * 50)
            self.assertLess(len(self.record), 60_000)
            most = 0
            self.daemon.advance(1000)


class DeferredViewTests(DaemonTestCase):
    """Views that return a Deferred follow the same rules, as far as can be known of them."""

    def test_inline_callbacks(self) -> None:
        """A view with inlineCallbacks converses, is notified of the end, and answers HTTP."""

        @inlineCallbacks
        def view(request: Request) -> Generator[Deferred[Any], Any, str | None]:
            if not request.is_websocket():
                yield deferLater(request.clock, 1)
                return "page"
            while (message := (yield request.websocket.wait())) is not None:
                yield request.websocket.send(message)
            self.record.append("notified")
            return None

        browser = self.open(view)
        browser.send("a")
        browser.send(b"b")
        self.assertEqual(browser.messages, ["a", b"b".decode()])
        browser.leave()
        self.assertEqual(self.record, ["notified"])
        wire = self.daemon.open_connection()
        wire.send(b"GET /view/ HTTP/1.1\r\nHost: localhost:8080\r\nConnection: close\r\n\r\n")
        self.daemon.advance(1)
        answer = wire.answer()
        assert answer is not None
        self.assertEqual(answer.text, "page")

    def test_inline_callbacks_cancelled(self) -> None:
        """A view with inlineCallbacks that waits for something else is cancelled there."""

        @inlineCallbacks
        def view(request: Request) -> Generator[Deferred[Any], Any, None]:
            yield request.websocket.wait()
            try:
                yield deferLater(request.clock, 1000)
            except CancelledError:
                self.record.append("cancelled")
                raise

        browser = self.open(view)
        browser.send("go")
        browser.leave()
        self.daemon.advance(5)
        self.assertEqual(self.record, ["cancelled"])
        self.assertEqual(self.daemon.pending_calls, [])

    def test_inline_callbacks_closes(self) -> None:
        """A view with inlineCallbacks that closes goes on after its close()."""

        @inlineCallbacks
        def view(request: Request) -> Generator[Deferred[Any], Any, None]:
            yield request.websocket.wait()
            yield request.websocket.close(4000)
            yield deferLater(request.clock, 1)
            self.record.append("finished")

        browser = self.open(view)
        browser.send("go")
        self.assertEqual(browser.closing, Closing(4000))
        self.daemon.advance(1)
        self.assertEqual(self.record, ["finished"])

    def test_closes_at_once(self) -> None:
        """A view that returns the Deferred of its close() ends when the connection is closed."""

        def view(request: Request) -> Deferred[None]:
            closing: Deferred[None] = request.websocket.close(4000)
            return closing.addCallback(lambda _: self.record.append("gone"))

        browser = self.open(view)
        self.assertEqual((browser.closing, self.record), (Closing(4000), ["gone"]))

    def test_inline_callbacks_ignores_end(self) -> None:
        """A view with inlineCallbacks that waits and sends after the end is ended."""

        @inlineCallbacks
        def view(request: Request) -> Generator[Deferred[Any], Any, None]:
            while len(self.record) < 10_000:
                self.record.append((yield request.websocket.wait(1)))
                yield request.websocket.send("tick")

        browser = self.open(view)
        browser.send("go")
        browser.leave()
        self.assertLess(len(self.record), 200)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_annotated(self) -> None:
        """A function annotated with a Deferred runs on the reactor, and ends with its Deferred."""

        def view(request: Request) -> Deferred[None]:
            waiting: Deferred[str] = request.websocket.wait()
            return waiting.addCallback(request.websocket.send)

        browser = self.open(view)
        browser.send("hello")
        self.assertEqual((browser.messages, browser.closing), (["hello"], NORMAL))

    def test_annotated_cancelled(self) -> None:
        """The Deferred of such a function is cancelled after the grace."""

        def view(request: Request) -> Deferred[None]:
            request.websocket.accept()
            return deferLater(request.clock, 1000)

        self.open(view).leave()
        self.daemon.advance(5)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_annotated_raises(self) -> None:
        """Such a function that raises before it returns its Deferred has failed."""

        def view(request: Request) -> Deferred[None]:
            request.websocket.accept()
            raise ZeroDivisionError

        self.assertEqual(self.open(view).closing, INTERNAL_ERROR)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class BlockedTests(DaemonTestCase):
    """A view that blocks the reactor causes one warning with its name."""

    def block(self, seconds: float) -> None:
        """Advance the clock as a long computation would."""
        self.daemon.clock.advance(seconds)

    def blocked(self, events: Sequence[LogEvent]) -> list[str]:
        """Return the warnings about blocking."""
        return [line for line in warnings(events) if "blocked the reactor" in line]

    def test_named(self) -> None:
        """More than half a second causes a warning with the view's name and the time."""

        async def view(request: Request) -> None:
            request.websocket.accept()
            self.block(0.75)

        with capturedLogs() as events:
            self.open(view)
        [line] = self.blocked(events)
        self.assertTrue(line.startswith("tests.views.test_runner.BlockedTests.test_named.<locals>"))
        self.assertIn("blocked the reactor for 0.750 s", line)

    def test_half_a_second(self) -> None:
        """Half a second causes none."""

        async def view(request: Request) -> None:
            request.websocket.accept()
            self.block(0.5)

        with capturedLogs() as events:
            self.open(view)
        self.assertEqual(self.blocked(events), [])

    def test_once(self) -> None:
        """There is one warning per view, however often it blocks."""

        async def one(request: Request) -> str:
            self.block(1)
            return "one"

        async def two(request: Request) -> str:
            self.block(1)
            return "two"

        with capturedLogs() as events, Daemon({"/1": one, "/2": two}) as self.daemon:
            for path in ("/1", "/1", "/2", "/1", "/2"):
                self.daemon.get(path)
        names = [line.split()[0].rpartition(".")[2] for line in self.blocked(events)]
        self.assertEqual(names, ["one", "two"])

    def test_partials(self) -> None:
        """Two partials are two views, named after their functions."""

        async def one(number: int, request: Request) -> str:
            self.block(1)
            return "one"

        async def two(number: int, request: Request) -> str:
            self.block(1)
            return "two"

        views = {"/1": partial(one, 1), "/2": partial(two, 2)}
        with capturedLogs() as events, Daemon(views) as self.daemon:
            for path in views:
                self.daemon.get(path)
        self.assertEqual(len(self.blocked(events)), 2)

    def test_any_step(self) -> None:
        """Each step is measured, after a message, a pause or an exception."""

        async def view(request: Request) -> None:
            await request.websocket.wait()
            self.block(0.3)
            await deferLater(request.clock, 1)
            self.block(0.3)
            try:
                await request.websocket.wait(timeout=1)
            except TimeoutError:
                self.block(0.6)

        with capturedLogs() as events:
            browser = self.open(view)
            browser.send("go")
            self.daemon.advance(1)
            self.assertEqual(self.blocked(events), [])
            self.daemon.advance(1)
        self.assertIn("0.600 s", self.blocked(events)[0])

    def test_waiting(self) -> None:
        """Time in which a view waits does not count."""

        async def view(request: Request) -> None:
            request.websocket.accept()
            await deferLater(request.clock, 100)

        with capturedLogs() as events:
            self.open(view)
            self.daemon.advance(100)
        self.assertEqual(self.blocked(events), [])

    def test_raises(self) -> None:
        """A step that ends with an exception is measured as well."""

        async def view(request: Request) -> None:
            self.block(1)
            raise ZeroDivisionError

        with capturedLogs() as events:
            self.open(view)
        self.assertEqual(len(self.blocked(events)), 1)
        self.flushLoggedErrors(ZeroDivisionError)

    def test_deferred(self) -> None:
        """Of a view that returns a Deferred, the time before it returns is measured."""

        def view(request: Request) -> Deferred[str]:
            self.block(float(request.query["seconds"]))
            return succeed("page")

        daemon = self.serve(view)
        daemon.advance(100)
        with capturedLogs() as events:
            daemon.get("/view/?seconds=0.5")
            self.assertEqual(self.blocked(events), [])
            daemon.get("/view/?seconds=0.75")
        [line] = self.blocked(events)
        self.assertIn("for 0.750 s", line)


# Classes whose objects live as long as a conversation.
KINDS = (WebSocket, PushProtocol, ViewRun, Request, Channel)


def kind_of(one: object) -> type:
    """Return an object's class; PushProtocol for the subclass that its factory makes."""
    kind = type(one)
    return PushProtocol if PushProtocol in kind.__mro__ else kind


def living() -> list[object]:
    """Return all living objects that belong to a conversation."""
    gc.collect()
    return [one for one in gc.get_objects() if kind_of(one) in KINDS]


@accept_websocket
async def modern(request: Request) -> None:
    """Do what the browser says, as a coroutine."""
    async for message in request.websocket:
        match message:
            case "return":
                return
            case "raise":
                raise ZeroDivisionError
            case "close":
                await request.websocket.close(4000)
            case "sleep":
                await deferLater(request.clock, 1000)
            case "flood":
                while True:
                    await request.websocket.send(bytes(10_000), binary=True)


@accept_websocket
@inlineCallbacks
def classic(request: Request) -> Generator[Deferred[Any], Any, None]:
    """Do what the browser says, as a generator."""
    while (message := (yield request.websocket.wait())) is not None:
        match message:
            case "return":
                return
            case "raise":
                raise ZeroDivisionError
            case "close":
                yield request.websocket.close(4000)
            case "sleep":
                yield deferLater(request.clock, 1000)
            case "flood":
                while True:
                    yield request.websocket.send(bytes(10_000), binary=True)


@accept_websocket
def chained(request: Request) -> Deferred[Any]:
    """Do what the browser says, with callbacks."""

    def act(message: str | None) -> Any:
        match message:
            case None | "return":
                return None
            case "raise":
                raise ZeroDivisionError
            case "close":
                return request.websocket.close(4000)
            case "sleep":
                return deferLater(request.clock, 1000)
        return request.websocket.send(bytes(100_000), binary=True).addCallback(
            lambda _: act("flood")
        )

    waiting: Deferred[Any] = request.websocket.wait()
    return waiting.addCallback(act)


class NothingLeftTests(SynchronousTestCase):
    """After a conversation no delayed call and none of its objects is left, however it ends."""

    def setUp(self) -> None:
        """Look at new objects only."""
        gc.collect()
        gc.freeze()

    def check(self, view: View, command: str, end: Callable[[Browser], object]) -> None:
        """Have a conversation and end it; all of its objects must be gone."""
        with Daemon({"/view/": view}, limits=Limits(compression=False)) as daemon:
            browser = daemon.connect("/view/")
            found = living()
            # The HTTP channel is gone already.
            self.assertEqual({kind_of(one) for one in found}, {*KINDS} - {Channel})
            traces = [ref(one) for one in found]
            del found
            if command == "flood":
                browser.stall()
            if command:
                browser.send(command)
            end(browser)
            if command == "sleep":
                daemon.advance(5)
            for failure in self.flushLoggedErrors(ZeroDivisionError):
                # The log keeps the failure, whose traceback refers to everything.
                failure.value.__traceback__ = failure.tb = None
            self.assertTrue(browser.gone)
            self.assertEqual(daemon.pending_calls, [], (view, command))
            del browser
            gc.collect()
            left = [trace() for trace in traces if trace() is not None]
            self.assertEqual(left, [], (view, command))

    def test_ends_itself(self) -> None:
        """A view that returns, raises or closes leaves nothing."""
        for view in (modern, classic, chained):
            for command in ("return", "raise", "close"):
                self.check(view, command, lambda browser: None)

    def test_browser_closes(self) -> None:
        """A browser that closes leaves nothing, whatever the view does."""
        for view in (modern, classic, chained):
            for command in ("", "sleep"):
                self.check(view, command, lambda browser: browser.close(1000))

    def test_browser_leaves(self) -> None:
        """A browser that vanishes leaves nothing, whatever the view does."""
        for view in (modern, classic, chained):
            for command in ("", "sleep", "flood"):
                self.check(view, command, lambda browser: browser.leave())

    def test_protocol_error(self) -> None:
        """A browser that violates the protocol leaves nothing."""
        for view in (modern, classic, chained):
            for command in ("", "sleep"):
                self.check(
                    view, command, lambda browser: browser.send_bytes(b"\x83\x80" + bytes(4))
                )

    def test_many(self) -> None:
        """A thousand conversations leave nothing."""
        with Daemon({"/view/": modern}) as daemon:
            for _ in range(1000):
                daemon.connect("/view/").leave()
            self.assertEqual(daemon.pending_calls, [])
            self.assertEqual(living(), [])

    def test_plain_http(self) -> None:
        """An HTTP request that was answered, or whose client left, leaves nothing."""

        async def view(request: Request) -> str:
            if request.query_string:
                await deferLater(request.clock, 1000)
            return "page"

        with Daemon({"/view/": view}) as daemon:
            daemon.get("/view/")
            wire = daemon.open_connection()
            wire.send(b"GET /view/?later HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
            self.assertEqual({kind_of(one) for one in living()}, {Request, ViewRun, Channel})
            wire.leave()
            del wire
            self.assertEqual(daemon.pending_calls, [])
            self.assertEqual(living(), [])

    def test_refused(self) -> None:
        """A handshake that the view refuses leaves nothing."""

        @accept_websocket
        async def view(request: Request) -> str:
            return "no"

        with Daemon({"/view/": view}) as daemon:
            browser = daemon.connect("/view/")
            self.assertIsNotNone(browser.refused)
            browser.leave()
            del browser
            self.assertEqual(daemon.pending_calls, [])
            self.assertEqual(living(), [])

    def test_stop(self) -> None:
        """A daemon that stops closes with 1001, and nothing is left."""
        for view in (modern, classic, chained):
            daemon = Daemon({"/view/": view})
            browsers = [daemon.connect("/view/") for _ in range(3)]
            browsers[1].send("sleep")
            daemon.begin_stop()
            self.assertEqual([browser.closing for browser in browsers], [GOING_AWAY] * 3)
            daemon.advance(5)
            self.assertEqual(daemon.pending_calls, [])
            del browsers
            self.assertEqual(living(), [])


class FakeThreads:
    """Threads for one view, which never runs."""

    def __init__(self) -> None:
        self.views: list[View] = []
        self.finished: Deferred[Any] = Deferred()

    def run(self, view: View, request: Request) -> Deferred[Any]:
        """Accept the first view only."""
        if self.views:
            raise ThreadsBusy
        self.views.append(view)
        return self.finished

    def abandon(self, finished: Deferred[Any]) -> bool:
        """Keep its place."""
        return False

    def stop(self) -> None:
        """Do nothing."""


class ViewRunTests(SynchronousTestCase):
    """Where a view runs, and how its result is passed on."""

    def setUp(self) -> None:
        """Make a runner with one thread."""
        self.clock = Clock()
        self.threads = FakeThreads()
        self.runner = ViewRunner(self.clock, self.threads)
        self.request = Request(
            method="GET", path="/", scheme="http", host="a", peer="b", clock=self.clock
        )

    def start(self, view: View) -> ViewRun:
        """Run a view."""
        self.finished: Deferred[Any] = Deferred()
        run = ViewRun(self.runner, view, self.request, self.finished.callback)
        run.start()
        return run

    def test_coroutine(self) -> None:
        """An async def runs on the reactor at once, and its result is passed on."""

        async def view(request: Request) -> str:
            await deferLater(request.clock, 1)
            return "done"

        self.start(view)
        self.assertNoResult(self.finished)
        self.clock.advance(1)
        self.assertEqual(self.successResultOf(self.finished), "done")
        self.assertEqual(self.threads.views, [])

    def test_unhashable(self) -> None:
        """A view need not be hashable."""

        class View(dict[str, str]):
            async def __call__(self, request: Request) -> str:
                return "done"

        for _ in range(2):
            self.start(View())
            self.assertEqual(self.successResultOf(self.finished), "done")

    def test_failure(self) -> None:
        """A view's exception is passed on as a Failure."""

        async def view(request: Request) -> str:
            raise ZeroDivisionError

        self.start(view)
        self.failureResultOf(self.finished, ZeroDivisionError)

    def test_no_deferred(self) -> None:
        """A view that is annotated with a Deferred and returns something else has ended."""

        def view(request: Request) -> Deferred[str]:
            return cast(Deferred[str], "done")

        self.start(view)
        self.assertEqual(self.successResultOf(self.finished), "done")
        self.assertEqual(self.threads.views, [])

    def test_thread(self) -> None:
        """Any other view runs in a thread, and its result is passed on."""

        def view(request: Request) -> str:
            return "done"

        self.start(view)
        self.assertEqual(self.threads.views, [view])
        self.threads.finished.callback("done")
        self.assertEqual(self.successResultOf(self.finished), "done")

    def test_busy(self) -> None:
        """Without a free thread, starting a run raises ThreadsBusy."""
        self.start(lambda request: None)
        self.assertRaises(ThreadsBusy, self.start, lambda request: None)

    def test_thread_is_not_ended(self) -> None:
        """A view in a thread cannot be cancelled: the end of its request does nothing to it."""
        run = self.start(lambda request: None)
        run.end()
        self.assertNoResult(self.finished)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_end_after_end(self) -> None:
        """Ending a run that has finished does nothing."""

        async def view(request: Request) -> str:
            return "done"

        run = self.start(view)
        run.end()
        self.assertEqual(self.successResultOf(self.finished), "done")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_calling(self) -> None:
        """A run is not calling while it waits, or when it has finished."""
        seen: list[bool | None] = []

        async def view(request: Request) -> None:
            await deferLater(self.clock, 1)
            seen.append(run.is_calling)

        run = self.start(view)
        seen.append(run.is_calling)
        self.clock.advance(1)
        seen.append(run.is_calling)
        self.assertEqual(seen, [False, True, False])

    def test_calling_unknown(self) -> None:
        """Whether a run calls is unknown while a Deferred is awaited, outside of all views."""
        waiting: Deferred[None] = Deferred()

        def view(request: Request) -> Deferred[None]:
            return waiting

        run = self.start(view)
        self.assertIsNone(run.is_calling)
        waiting.callback(None)
        self.assertIs(run.is_calling, False)

    def test_calling_from_a_view(self) -> None:
        """What one run with a Deferred calls is not taken for the call of another."""
        seen: list[bool | None] = []
        waiting: list[Deferred[None]] = [Deferred(), Deferred()]

        @inlineCallbacks
        def view(request: Request) -> Generator[Deferred[Any], Any, None]:
            yield waiting[len(runs)]
            seen.extend(run.is_calling for run in runs)
            yield Deferred()

        runs: list[ViewRun] = []
        for _ in range(2):
            runs.append(self.start(view))
        waiting[0].callback(None)
        waiting[1].callback(None)
        self.assertEqual(seen, [True, False, False, True])

    def test_calling_nested(self) -> None:
        """A step of one view that resumes another is not taken for a call of the first."""
        seen: list[bool | None] = []
        start: Deferred[None] = Deferred()
        news: Deferred[None] = Deferred()

        async def first(request: Request) -> None:
            await start
            news.callback(None)
            seen.append(one.is_calling)

        async def second(request: Request) -> None:
            await news
            seen.extend((one.is_calling, other.is_calling))

        one, other = self.start(first), self.start(second)
        start.callback(None)
        self.assertEqual(seen, [False, True, True])


async def coroutine(request: Request) -> None:
    """Be a coroutine."""


def blocking(request: Request) -> None:
    """Possibly block."""


def annotated(request: Request) -> Deferred[None]:
    """Return a Deferred."""
    return succeed(None)


def bare(request):  # type: ignore[no-untyped-def]
    """Have no annotations."""


def wrapped(inner: View) -> View:
    """Decorate with functools.wraps."""

    @wraps(inner)
    def outer(request: Request) -> Any:
        return inner(request)

    return outer


class Views:
    """Views that are methods."""

    async def coroutine(self, request: Request) -> None:
        """Be a coroutine."""

    def annotated(self, request: Request) -> Deferred[None]:
        """Return a Deferred."""
        return succeed(None)

    @inlineCallbacks
    def inline(self, request: Request) -> Generator[Deferred[Any], Any, None]:
        """Be a generator."""
        yield succeed(None)

    def blocking(self, request: Request) -> None:
        """Possibly block."""

    @staticmethod
    async def static(request: Request) -> None:
        """Be a coroutine."""


class AsyncObject:
    """A callable object that is async."""

    async def __call__(self, request: Request) -> None:
        """Be a coroutine."""


class DeferredObject:
    """A callable object that returns a Deferred."""

    def __call__(self, request: Request) -> Deferred[None]:
        """Return a Deferred."""
        return succeed(None)


class BlockingObject:
    """A callable object that may block."""

    def __call__(self, request: Request) -> None:
        """Possibly block."""


class RunsOnReactorTests(SynchronousTestCase):
    """Which views run on the reactor, and which in a thread."""

    def test_reactor(self) -> None:
        """Coroutines, inlineCallbacks and views annotated with a Deferred run on the reactor."""

        @inlineCallbacks
        def inline(request: Request) -> Generator[Deferred[Any], Any, None]:
            yield succeed(None)

        def evaluated(request: Request) -> None: ...

        evaluated.__annotations__["return"] = Deferred[None]

        def evaluated_bare(request: Request) -> None: ...

        evaluated_bare.__annotations__["return"] = Deferred

        def qualified(request: Request) -> None: ...

        qualified.__annotations__["return"] = "defer.Deferred[defer.Deferred[int]]"

        views: list[View] = [
            coroutine,
            annotated,
            inline,
            evaluated,
            evaluated_bare,
            qualified,
            wrapped(coroutine),
            wrapped(inline),
            wrapped(annotated),
            partial(coroutine),
            partial(partial(wrapped(annotated))),
            wrapped(partial(inline)),
            Views().coroutine,
            Views().annotated,
            Views().inline,
            Views.static,
            AsyncObject(),
            DeferredObject(),
            partial(AsyncObject()),
            accept_websocket(wrapped(coroutine)),
        ]
        for view in views:
            self.assertTrue(runs_on_reactor(view), view)

    def test_thread(self) -> None:
        """All other views run in a thread."""

        def list_of(request: Request) -> list[Deferred[None]]:
            return []

        def alike(request: Request) -> None: ...

        alike.__annotations__["return"] = "DeferredAnswer"

        views: list[View] = [
            blocking,
            bare,
            list_of,
            alike,
            wrapped(blocking),
            partial(blocking),
            Views().blocking,
            BlockingObject(),
            partial(BlockingObject()),
            lambda request: None,
            print,
            dict,
        ]
        for view in views:
            self.assertFalse(runs_on_reactor(view), view)


class CancellationTests(SynchronousTestCase):
    """Which exceptions of a view are cancellations."""

    def test_kinds(self) -> None:
        """CancelledError and ConversationOver are cancellations, and nothing else is."""
        for error, expected in (
            (CancelledError(), True),
            (ConversationOver(), True),
            (FirstError(Failure(CancelledError()), 0), True),
            (FirstError(Failure(FirstError(Failure(CancelledError()), 0)), 1), True),
            (FirstError(Failure(ZeroDivisionError()), 0), False),
            (ZeroDivisionError(), False),
            (TimeoutError(), False),
            (SystemExit(), False),
        ):
            self.assertIs(is_cancellation(Failure(error)), expected)

    def test_no_exception(self) -> None:
        """ConversationOver is not an Exception, so ``except Exception`` does not catch it."""
        self.assertFalse(issubclass(ConversationOver, Exception))
