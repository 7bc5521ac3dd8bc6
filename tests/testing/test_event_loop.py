"""VirtualEventLoop: asyncio's event loop under a clock."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from typing import Any

from twisted.internet.task import Clock

from pushd.testing import event_loop
from pushd.testing.event_loop import VirtualEventLoop
from tests.support.event_loop_case import EventLoopTestCase


class VirtualEventLoopTests(EventLoopTestCase):
    def setUp(self) -> None:
        """Note what is called."""
        super().setUp()
        self.called: list[object] = []

    def test_run(self) -> None:
        """A function is called with the loop running, and its result or exception passed on."""
        self.assertIs(self.loop.run(asyncio.get_running_loop), self.loop)
        with self.assertRaises(ZeroDivisionError):
            self.loop.run(lambda: 1 / 0)
        self.assertFalse(self.loop.is_running())

    def test_within_another(self) -> None:
        """A test that another loop runs can use it, too."""

        async def test() -> tuple[Any, Any]:
            return self.loop.run(asyncio.get_running_loop), asyncio.get_running_loop()

        inner, outer = asyncio.run(test())
        self.assertIs(inner, self.loop)
        self.assertIsNot(outer, self.loop)

    def test_ready(self) -> None:
        """All that follows without time passing is run; nothing else is."""

        def first() -> None:
            self.called.append(1)
            self.loop.call_soon(self.called.append, 2)

        self.loop.call_soon(first)
        self.loop.call_later(1, self.called.append, 3)
        self.assertTrue(self.loop.run_ready())
        self.assertFalse(self.loop.run_ready())
        self.assertEqual(self.called, [1, 2])

    def test_time(self) -> None:
        """Timers are delayed calls of the clock, and called when it says so."""
        self.clock.advance(100)
        self.assertEqual(self.loop.time(), 100)
        self.loop.call_later(2, self.called.append, 2)
        self.loop.call_at(101, self.called.append, 1)
        self.loop.call_at(50, self.called.append, 0)
        self.assertEqual([one.getTime() for one in self.clock.getDelayedCalls()], [100, 101, 102])
        for expected in ([0], [0, 1], [0, 1, 2]):
            self.advance(1 if self.called else 0)
            self.assertEqual(self.called, expected)

    def test_cancel(self) -> None:
        """A timer that is cancelled leaves no call; one that is due, but not called, neither."""
        timer = self.loop.call_later(1, self.called.append, 1)
        timer.cancel()
        timer.cancel()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        timer = self.loop.call_later(1, self.called.append, 2)
        self.clock.advance(1)
        timer.cancel()
        self.loop.run_ready()
        timer = self.loop.call_later(1, self.called.append, 3)
        self.advance(1)
        timer.cancel()
        self.assertEqual(self.called, [3])

    def test_threads(self) -> None:
        """The threads of executors are waited for, also if they call the loop."""

        async def double(number: int) -> int:
            await asyncio.sleep(0)
            return 2 * number

        def work() -> int:
            return asyncio.run_coroutine_threadsafe(double(4), self.loop).result(60)

        future = self.loop.run_in_executor(None, work)
        self.loop.run_ready()
        self.assertEqual(future.result(), 8)

    def test_endless_thread(self) -> None:
        """A thread that does not come back fails the test."""
        self.patch(event_loop, "_LIMIT", 0.01)
        go_on = threading.Event()
        self.addCleanup(go_on.set)
        self.loop.run_in_executor(None, go_on.wait, 60)
        with self.assertRaisesRegex(RuntimeError, "a thread of an executor runs for more than"):
            self.loop.run_ready()

    def test_sockets(self) -> None:
        """Sockets are real: what has arrived is read."""
        here, there = socket.socketpair()
        self.addCleanup(here.close)
        self.addCleanup(there.close)
        here.setblocking(False)
        self.loop.add_reader(here, lambda: self.called.append(here.recv(9)))
        there.send(b"data")
        self.loop.run_ready()
        self.assertEqual(self.called, [b"data"])

    def test_forgotten(self) -> None:
        """A loop that is not closed gives up its sockets without a warning."""
        loop = VirtualEventLoop(Clock())
        del loop
        gc.collect()
