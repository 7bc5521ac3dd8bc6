"""The signals that stop and reload the daemon."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from threading import Thread
from typing import Any

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.service.process.signals import Signals
from tests.support.peer import said


class FakeReactor:
    """Records calls; the test makes those that come from a signal handler."""

    def __init__(self, events: list[Any]) -> None:
        self._events = events
        self.started: list[Callable[[], object]] = []
        self.triggers: list[tuple[str, str, Callable[[], object]]] = []
        self.running = True
        self.sigInt: Any = None
        self.sigTerm: Any = None
        self.calls: list[tuple[Any, ...]] = []

    def callWhenRunning(self, call: Callable[[], object]) -> None:
        self.started.append(call)

    def addSystemEventTrigger(self, phase: str, event: str, call: Callable[[], object]) -> None:
        self.triggers.append((phase, event, call))

    def callFromThread(self, *call: Any) -> None:
        self.calls.append(call)

    def stop(self) -> None:
        self._events.append("stop")


class SignalsTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Replace the process's signal handlers."""
        self.events: list[Any] = []
        self.handlers: dict[int, Any] = {}
        self.before: dict[int, Any] = {}
        self.exits: list[Callable[[], object]] = []
        self.reactor = FakeReactor(self.events)
        self.patch(signal, "getsignal", lambda number: self.before.get(number, signal.SIG_DFL))

    def make(self) -> Signals:
        """Make the service."""
        return Signals(
            self.reactor,
            interrupt=lambda: self.events.append("interrupt"),
            cut=lambda: self.events.append("cut"),
            reload=lambda: self.events.append("reload"),
            install=self.handlers.__setitem__,
            at_exit=self.exits.append,
        )

    def start(self) -> None:
        """Start the service, then the reactor."""
        self.make().startService()
        self.assertEqual(self.handlers, {})
        for call in self.reactor.started:
            call()

    def end(self) -> None:
        """Stop the reactor, as far as the service sees it."""
        for phase, event, call in self.reactor.triggers:
            self.assertEqual((phase, event), ("after", "shutdown"))
            call()

    def send(self, number: int) -> list[str]:
        """Send a signal, let the reactor handle it, and return the log lines."""
        self.handlers[number](number, None)
        with capturedLogs() as events:
            for call, *arguments in self.reactor.calls:
                call(*arguments)
        del self.reactor.calls[:]
        return said(events)

    def test_stop(self) -> None:
        """SIGTERM and SIGINT stop the reactor, and with it the daemon."""
        for number, name in ((signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")):
            self.setUp()
            self.start()
            [line] = self.send(number)
            self.assertRegex(line, f"^{name}: shutting down; a second signal closes all")
            self.assertEqual(self.events, ["stop"])

    def test_stop_without_a_signal(self) -> None:
        """A signal during a stop that has another reason counts as the second."""
        signals = self.make()
        signals.startService()
        for call in self.reactor.started:
            call()
        signals.stop()
        self.assertEqual(self.events, ["stop"])
        self.send(signal.SIGINT)
        self.assertEqual(self.events, ["stop", "cut"])

    def test_while_starting(self) -> None:
        """A signal before the reactor runs ends what the start waits for, then the reactor."""
        self.start()
        self.reactor.running = False
        self.send(signal.SIGTERM)
        self.assertEqual(self.events, ["interrupt"])
        self.reactor.started[-1]()
        self.assertEqual(self.events, ["interrupt", "stop"])

    def test_not_in_the_handler(self) -> None:
        """The handler itself does nothing: it may run between any two instructions."""
        self.start()
        self.handlers[signal.SIGTERM](signal.SIGTERM, None)
        self.assertEqual(self.events, [])

    def test_second(self) -> None:
        """A second SIGTERM or SIGINT finishes the stop at once; a third would kill the process."""
        self.start()
        self.send(signal.SIGTERM)
        self.assertEqual(self.send(signal.SIGINT), ["SIGINT again: closing all connections now"])
        self.assertEqual(self.events, ["stop", "cut"])
        self.assertIs(self.handlers[signal.SIGTERM], signal.SIG_DFL)
        self.assertIs(self.handlers[signal.SIGINT], signal.SIG_DFL)

    def test_third_as_pid_1(self) -> None:
        """It also ends the first process of a container, to which signals do nothing by default."""
        self.patch(os, "getpid", lambda: 1)
        self.patch(os, "_exit", self.events.append)
        self.start()
        self.send(signal.SIGTERM)
        self.send(signal.SIGTERM)
        self.handlers[signal.SIGINT](signal.SIGINT, None)
        self.assertEqual(self.events, ["stop", "cut", 130])

    def test_early(self) -> None:
        """Signals that come before the reactor runs are handled once it does."""
        signals = self.make()
        signals.handle_early()
        self.handlers[signal.SIGHUP](signal.SIGHUP, None)
        self.handlers[signal.SIGINT](signal.SIGINT, None)
        self.assertEqual(self.events, [])
        for call, *arguments in self.reactor.calls:
            call(*arguments)
        self.assertEqual(self.events, ["reload", "stop"])

    def test_instead_of_the_reactors(self) -> None:
        """The handlers that a reactor would install when it starts are ours."""
        self.make().handle_early()
        for number, handler in (
            (signal.SIGINT, self.reactor.sigInt),
            (signal.SIGTERM, self.reactor.sigTerm),
        ):
            self.handlers[number] = handler
            self.send(number)
        self.assertEqual(self.events, ["stop", "cut"])

    def test_after_the_reactor(self) -> None:
        """A signal between the end of the reactor and that of Python does nothing, once."""
        self.start()
        self.send(signal.SIGTERM)
        self.end()
        self.assertEqual(self.send(signal.SIGTERM), [])
        self.assertEqual(self.events, ["stop"])
        # What keeps the process now can be killed.
        self.assertIs(self.handlers[signal.SIGTERM], signal.SIG_DFL)

    def test_exit(self) -> None:
        """When Python exits, signals are ignored: it would restore what they do by default."""
        self.start()
        self.end()
        [ignore] = self.exits
        ignore()
        self.assertEqual(set(self.handlers.values()), {signal.SIG_IGN})
        self.assertEqual(len(self.handlers), 3)

    def test_reload(self) -> None:
        """Each SIGHUP reloads the options, except while the daemon stops."""
        self.start()
        self.send(signal.SIGHUP)
        self.send(signal.SIGHUP)
        self.send(signal.SIGTERM)
        self.send(signal.SIGHUP)
        self.assertEqual(self.events, ["reload", "reload", "stop"])

    def test_ignored(self) -> None:
        """A signal that was ignored at the start stays ignored."""
        self.before[signal.SIGHUP] = signal.SIG_IGN
        self.start()
        self.assertEqual(set(self.handlers), {signal.SIGTERM, signal.SIGINT})

    def test_thread(self) -> None:
        """In a reactor outside the main thread, no handler is installed."""
        thread = Thread(target=self.start)
        thread.start()
        thread.join(60)
        self.assertEqual(len(self.reactor.started), 1)
        thread = Thread(target=self.end)
        thread.start()
        thread.join(60)
        self.assertEqual(self.handlers, {})
        self.assertEqual(self.exits, [])
