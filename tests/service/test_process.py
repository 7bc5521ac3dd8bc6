"""Signals: the first stops, the second ends it now, SIGHUP reads again."""


from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pushd.service.process import Signals, allow_connections
from tests.peer import said
from threading import Thread
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from typing import Any

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


INFINITY = resource.RLIM_INFINITY


class AllowConnectionsTests(SynchronousTestCase):
    """Limits of a made-up kernel."""

    def limit(self, soft: int, hard: int) -> None:
        """Set the limits, and note what they are changed to."""
        self.limits = (soft, hard)
        self.patch(resource, "getrlimit", lambda kind: self.limits)
        self.patch(resource, "setrlimit", self.set_limits)

    def set_limits(self, kind: int, limits: tuple[int, int]) -> None:
        """Do as the kernel does."""
        self.assertEqual(kind, resource.RLIMIT_NOFILE)
        self.assertEqual(limits[1], self.limits[1], "the hard limit must not be changed")
        self.limits = limits

    def test_enough(self) -> None:
        """Where there is room enough all are allowed, and nothing is changed."""
        self.limit(20_000, 50_000)
        self.assertEqual(allow_connections(10_000), 10_000)
        self.assertEqual(self.limits, (20_000, 50_000))

    def test_raised(self) -> None:
        """The soft limit is raised as far as needed, with some for other than connections."""
        self.limit(1024, 1 << 20)
        self.assertEqual(allow_connections(10_000), 10_000)
        self.assertEqual(self.limits, (10_192, 1 << 20))
        self.assertEqual(allow_connections(10_000), 10_000)
        self.assertEqual(self.limits, (10_192, 1 << 20))

    def test_hard_limit(self) -> None:
        """It is raised to the hard limit at most, and what that leaves is allowed."""
        self.limit(1024, 4096)
        self.assertEqual(allow_connections(10_000), 4096 - 192)
        self.assertEqual(self.limits, (4096, 4096))

    def test_hard_limit_infinite(self) -> None:
        """A hard limit that is none does not bound it."""
        self.limit(1024, INFINITY)
        self.assertEqual(allow_connections(10_000), 10_000)
        self.assertEqual(self.limits, (10_192, INFINITY))

    def test_infinite(self) -> None:
        """Where there is no limit at all there is nothing to do."""
        self.limit(INFINITY, INFINITY)
        self.assertEqual(allow_connections(10_000), 10_000)
        self.assertEqual(self.limits, (INFINITY, INFINITY))

    def test_tiny(self) -> None:
        """However little there is, one connection is allowed."""
        self.limit(64, 64)
        self.assertEqual(allow_connections(10_000), 1)

    def test_logged(self) -> None:
        """It is logged how many, and why where they are fewer than asked for."""
        self.limit(1000, 1000)
        with capturedLogs() as events:
            allow_connections(10)
            allow_connections(10_000)
        self.assertEqual(
            said(events),
            [
                "10 connections at most",
                "808 connections at most, not 10000: the limit of open files allows no more",
            ],
        )
        self.assertEqual([event["log_level"].name for event in events], ["info", "warn"])


class RealLimitTests(SynchronousTestCase):
    def test_real(self) -> None:
        """The kernel takes what is asked of it; in another process, as there is no way back."""
        script = (
            "import resource\n"
            "from pushd.service.process import allow_connections\n"
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
