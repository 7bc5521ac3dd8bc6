"""Signals, and the limit of open files."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from threading import Thread
from typing import Any

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.service.process.process import Signals, allow_connections, resident_bytes
from tests.support.folder import make_folder
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


INFINITY = resource.RLIM_INFINITY


class AllowConnectionsTests(SynchronousTestCase):
    """With a fake of the kernel's limits."""

    def limit(self, soft: int, hard: int) -> None:
        """Set the limits that the fake has."""
        self.limits = (soft, hard)
        self.patch(resource, "getrlimit", lambda kind: self.limits)
        self.patch(resource, "setrlimit", self.set_limits)

    def set_limits(self, kind: int, limits: tuple[int, int]) -> None:
        """Set the limits, as the kernel does."""
        self.assertEqual(kind, resource.RLIMIT_NOFILE)
        self.assertEqual(limits[1], self.limits[1], "the hard limit must not be changed")
        self.limits = limits

    def test_enough(self) -> None:
        """If the limit is high enough, it is not changed."""
        self.limit(20_000, 50_000)
        self.assertEqual(allow_connections(10_000), 10_000)
        self.assertEqual(self.limits, (20_000, 50_000))

    def test_raised(self) -> None:
        """The soft limit is raised as far as needed, with a reserve for other descriptors."""
        self.limit(1024, 1 << 20)
        self.assertEqual(allow_connections(10_000), 10_000)
        self.assertEqual(self.limits, (10_192, 1 << 20))
        self.assertEqual(allow_connections(10_000), 10_000)
        self.assertEqual(self.limits, (10_192, 1 << 20))

    def test_hard_limit(self) -> None:
        """The soft limit is raised to the hard limit at most, which then limits the connections."""
        self.limit(1024, 4096)
        self.assertEqual(allow_connections(10_000), 4096 - 192)
        self.assertEqual(self.limits, (4096, 4096))

    def test_hard_limit_infinite(self) -> None:
        """An infinite hard limit does not limit the connections."""
        self.limit(1024, INFINITY)
        self.assertEqual(allow_connections(10_000), 10_000)
        self.assertEqual(self.limits, (10_192, INFINITY))

    def test_infinite(self) -> None:
        """An infinite soft limit is not changed."""
        self.limit(INFINITY, INFINITY)
        self.assertEqual(allow_connections(10_000), 10_000)
        self.assertEqual(self.limits, (INFINITY, INFINITY))

    def test_tiny(self) -> None:
        """At least one connection is allowed, however low the limit."""
        self.limit(64, 64)
        self.assertEqual(allow_connections(10_000), 1)

    def test_logged(self) -> None:
        """The limit is logged; if it is lower than wanted, a warning names the remedy."""
        self.limit(1000, 1000)
        with capturedLogs() as events:
            allow_connections(10)
            allow_connections(10_000)
        self.assertEqual(
            said(events),
            [
                "connection limit is 10",
                "connection limit is 808, not 10000: raise the limit of open files "
                "(LimitNOFILE=, ulimit -n)",
            ],
        )
        self.assertEqual([event["log_level"].name for event in events], ["info", "warn"])


class ResidentTests(SynchronousTestCase):
    """The memory of the process."""

    def test_linux(self) -> None:
        """The kernel's number of pages, in bytes."""
        file = make_folder(self) / "statm"
        file.write_text("91234 5120 2048 1 0 9000 0\n")
        self.assertEqual(resident_bytes(file), 5120 * resource.getpagesize())
        self.assertGreater(resident_bytes(), 1 << 20)

    def test_elsewhere(self) -> None:
        """It is not known on other systems."""
        self.assertEqual(resident_bytes(make_folder(self) / "statm"), 0)


class RealLimitTests(SynchronousTestCase):
    def test_real(self) -> None:
        """The limits are those of a real process, one of its own because it cannot undo them."""
        script = (
            "import resource\n"
            "from pushd.service.process.process import allow_connections\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512))\n"
            "for wanted in (10, 100, 300, 10000):\n"
            "    print(allow_connections(wanted), *resource.getrlimit(resource.RLIMIT_NOFILE))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
        )
        self.assertEqual(
            done.stdout.splitlines(),
            ["10 256 512", "100 292 512", "300 492 512", "320 512 512"],
        )
