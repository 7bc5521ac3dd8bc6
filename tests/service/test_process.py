"""Signals: the first stops, the second ends it now, SIGHUP reads again."""

from __future__ import annotations

import signal
from collections.abc import Callable
from threading import Thread
from typing import Any

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.service.process import Signals
from tests.peer import said


class Reactor:
    """A reactor that starts and notes when it is stopped; what comes from a signal waits."""

    def __init__(self, events: list[str]) -> None:
        self._events = events
        self.started: list[Callable[[], object]] = []
        self.calls: list[tuple[Any, ...]] = []

    def callWhenRunning(self, call: Callable[[], object]) -> None:
        self.started.append(call)

    def callFromThread(self, *call: Any) -> None:
        self.calls.append(call)

    def stop(self) -> None:
        self._events.append("stop")


class SignalsTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Have handlers that nobody but us calls."""
        self.events: list[str] = []
        self.handlers: dict[int, Any] = {}
        self.before: dict[int, Any] = {}
        self.reactor = Reactor(self.events)
        self.patch(signal, "getsignal", lambda number: self.before.get(number, signal.SIG_DFL))

    def start(self) -> None:
        """Start the service, and the reactor after it."""
        signals = Signals(
            self.reactor,
            cut=lambda: self.events.append("cut"),
            reload=lambda: self.events.append("reload"),
            install=self.handlers.__setitem__,
        )
        signals.startService()
        self.assertEqual(self.handlers, {})
        for call in self.reactor.started:
            call()

    def send(self, number: int) -> list[str]:
        """Send a signal; give what is logged of it."""
        self.handlers[number](number, None)
        with capturedLogs() as events:
            for call, *arguments in self.reactor.calls:
                call(*arguments)
        del self.reactor.calls[:]
        return said(events)

    def test_stop(self) -> None:
        """Either signal stops the reactor, and by it the daemon."""
        for number, name in ((signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")):
            self.setUp()
            self.start()
            self.assertEqual(self.send(number), [f"{name}: stopping"])
            self.assertEqual(self.events, ["stop"])

    def test_not_in_the_handler(self) -> None:
        """Nothing is done between any two instructions."""
        self.start()
        self.handlers[signal.SIGTERM](signal.SIGTERM, None)
        self.assertEqual(self.events, [])

    def test_second(self) -> None:
        """The second ends it now, whichever of the two it is; a third would kill."""
        self.start()
        self.send(signal.SIGTERM)
        self.assertEqual(self.send(signal.SIGINT), ["SIGINT again: ending now"])
        self.assertEqual(self.events, ["stop", "cut"])
        self.assertIs(self.handlers[signal.SIGTERM], signal.SIG_DFL)
        self.assertIs(self.handlers[signal.SIGINT], signal.SIG_DFL)

    def test_reload(self) -> None:
        """SIGHUP reads the options again, as often as it comes; not while the daemon stops."""
        self.start()
        self.send(signal.SIGHUP)
        self.send(signal.SIGHUP)
        self.send(signal.SIGTERM)
        self.send(signal.SIGHUP)
        self.assertEqual(self.events, ["reload", "reload", "stop"])

    def test_ignored(self) -> None:
        """What is ignored from the beginning stays so."""
        self.before[signal.SIGHUP] = signal.SIG_IGN
        self.start()
        self.assertEqual(set(self.handlers), {signal.SIGTERM, signal.SIGINT})

    def test_thread(self) -> None:
        """A reactor that runs in another thread than the main one leaves signals alone."""
        thread = Thread(target=self.start)
        thread.start()
        thread.join(60)
        self.assertEqual(len(self.reactor.started), 1)
        self.assertEqual(self.handlers, {})
