"""A test case with asyncio's event loop under a clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.schedule.asyncio_task import make_task
from pushd.testing.event_loop import VirtualEventLoop


class EventLoopTestCase(SynchronousTestCase):
    """Has a clock and a loop, whose tasks may await Deferreds, and whose errors are kept."""

    def setUp(self) -> None:
        """Make both."""
        self.clock = Clock()
        self.loop = VirtualEventLoop(self.clock)
        self.loop.set_task_factory(make_task)
        self.errors: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self.addCleanup(self.loop.close)

    def run_loop(self, function: Callable[[], Any] = int) -> Any:
        """Call a function within the loop, and run what can go on without time to pass."""
        result = self.loop.run(function)
        self.loop.run_ready()
        return result

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.run_loop(lambda: self.clock.advance(seconds))
