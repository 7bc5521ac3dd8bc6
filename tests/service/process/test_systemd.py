"""Notifications to systemd, received on a real socket."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from socket import AF_UNIX, SOCK_DGRAM, socket

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from pushd.service.process.systemd import Notifier, read_address, read_watchdog


class EnvironmentTests(SynchronousTestCase):
    def test_address(self) -> None:
        """The socket is a path or an abstract name; others are ignored."""
        for given, address in (
            ({}, None),
            ({"NOTIFY_SOCKET": ""}, None),
            ({"NOTIFY_SOCKET": "/run/systemd/notify"}, "/run/systemd/notify"),
            ({"NOTIFY_SOCKET": "@abstract"}, "\0abstract"),
            ({"NOTIFY_SOCKET": "vsock:2:1234"}, None),
        ):
            self.assertEqual(read_address(given), address)

    def test_watchdog(self) -> None:
        """The watchdog applies to the process that it names, or to any if it names none."""
        for given, seconds in (
            ({}, None),
            ({"WATCHDOG_USEC": "3000000"}, 3.0),
            ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, 3.0),
            ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, None),
            ({"WATCHDOG_PID": "7"}, None),
            ({"WATCHDOG_USEC": "0"}, None),
            ({"WATCHDOG_USEC": "soon"}, None),
            ({"WATCHDOG_USEC": "-1"}, None),
            ({"WATCHDOG_USEC": "²"}, None),
        ):
            self.assertEqual(read_watchdog(given, 7), seconds, given)


class NotifierTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Listen as systemd does."""
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        self.path = str(folder / "notify")
        self.socket = socket(AF_UNIX, SOCK_DGRAM)
        self.addCleanup(self.socket.close)
        self.socket.bind(self.path)
        self.socket.setblocking(False)
        self.reactor = MemoryReactorClock()
        self.count = 0

    def received(self) -> list[list[str]]:
        """Return the lines of each notification since the last call."""
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(4096).decode().split("\n"))
            except BlockingIOError:
                return messages

    def make(self, **environ: str) -> Notifier:
        """Make a notifier, start it, then the reactor."""
        notifier = Notifier(
            self.reactor,
            environ={"NOTIFY_SOCKET": self.path, **environ},
            count=lambda: self.count,
            monotonic=lambda: 12.5,
        )
        notifier.startService()
        self.assertEqual(self.received(), [])
        for call, arguments, keywords in self.reactor.whenRunningHooks:
            call(*arguments, **keywords)
        return notifier

    def test_ready(self) -> None:
        """READY is sent once the reactor runs."""
        self.make()
        self.assertEqual(self.received()[0], ["READY=1", "STATUS=serving 0 connections"])

    def test_status(self) -> None:
        """The number of connections is sent every ten seconds."""
        self.make()
        self.received()
        for count, words in ((1, "1 connection"), (2, "2 connections")):
            self.count = count
            self.reactor.advance(9)
            self.assertEqual(self.received(), [])
            self.reactor.advance(1)
            self.assertEqual(self.received(), [[f"STATUS=serving {words}"]])

    def test_refused_reload(self) -> None:
        """After a reload that was refused the status says so, until one is not."""
        notifier = self.make()
        notifier.ready(refused=True)
        self.reactor.advance(10)
        refused = "STATUS=serving 0 connections; the last reload was refused"
        self.assertEqual(self.received()[-2:], [["READY=1", refused], [refused]])
        notifier.ready()
        self.assertEqual(self.received(), [["READY=1", "STATUS=serving 0 connections"]])

    def test_watchdog(self) -> None:
        """The watchdog is notified at half of its time-out."""
        self.make(WATCHDOG_USEC="6000000", WATCHDOG_PID=str(os.getpid()))
        self.assertIn("WATCHDOG=1", self.received()[1])
        for _ in range(3):
            self.reactor.advance(2.9)
            self.assertEqual(self.received(), [])
            self.reactor.advance(0.1)
            self.assertEqual(self.received(), [["WATCHDOG=1", "STATUS=serving 0 connections"]])

    def test_patient_watchdog(self) -> None:
        """With a long time-out of the watchdog, the status is still sent every ten seconds."""
        self.make(WATCHDOG_USEC="600000000")
        self.received()
        self.reactor.advance(10)
        self.assertEqual(len(self.received()), 1)

    def test_watchdog_of_another(self) -> None:
        """The watchdog of another process is not notified."""
        self.make(WATCHDOG_USEC="6000000", WATCHDOG_PID="1")
        self.reactor.advance(60)
        self.assertFalse([lines for lines in self.received() if "WATCHDOG=1" in lines])

    def test_reload(self) -> None:
        """A reload is announced with its time, and ends with READY."""
        notifier = self.make()
        self.received()
        notifier.reloading()
        notifier.ready()
        self.assertEqual(
            self.received(),
            [
                ["RELOADING=1", "MONOTONIC_USEC=12500000"],
                ["READY=1", "STATUS=serving 0 connections"],
            ],
        )

    def test_stop(self) -> None:
        """A stop is announced with the time it may take; the watchdog is notified until the end."""
        notifier = self.make(WATCHDOG_USEC="6000000")
        self.received()
        self.count = 3
        notifier.stopping(35)
        self.assertEqual(
            self.received(),
            [["STOPPING=1", "EXTEND_TIMEOUT_USEC=35000000", "STATUS=draining 3 connections"]],
        )
        self.reactor.advance(3)
        self.assertEqual(self.received(), [["WATCHDOG=1", "STATUS=draining 3 connections"]])
        notifier.stopService()
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertFalse(notifier.running)

    def test_abstract(self) -> None:
        """An abstract socket works as well."""
        with socket(AF_UNIX, SOCK_DGRAM) as abstract:
            abstract.bind(f"\0pushd-test-{os.getpid()}")
            self.make(NOTIFY_SOCKET=f"@pushd-test-{os.getpid()}")
            self.assertTrue(abstract.recv(4096).startswith(b"READY=1"))

    def test_nobody_there(self) -> None:
        """If nothing listens on systemd's socket, notifications are dropped."""
        self.make(NOTIFY_SOCKET=f"{self.path}-gone").stopping(1)

    def test_silent(self) -> None:
        """Without a socket there is no notification and no timer."""
        notifier = self.make(NOTIFY_SOCKET="", WATCHDOG_USEC="6000000")
        self.assertEqual(self.reactor.whenRunningHooks, [])
        notifier.ready()
        notifier.reloading()
        notifier.stopping(1)
        self.assertEqual(self.received(), [])
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        notifier.stopService()
