"""SIGHUP that comes while the daemon is imported."""

from __future__ import annotations

import os
import signal
from threading import Thread
from typing import Any

from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase

from pushd.service.process.early_signals import note_hangups, noted
from pushd.service.process.signals import Signals
from tests.support.recording_reactor import RecordingReactor


class EarlySignalsTests(SynchronousTestCase):
    """The signals of this process, which are restored after each test."""

    def setUp(self) -> None:
        """Let SIGHUP do what it does by default."""
        before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
        self.addCleanup(signal.signal, signal.SIGHUP, before)
        self.addCleanup(noted.clear)

    def test_noted(self) -> None:
        """From when twistd asks for the options SIGHUP is noted; it reloads them once they run."""
        self.assertTrue(namedAny("twisted.plugins.pushd_plugin.pushd").options)
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual(noted, [signal.SIGHUP])
        events: list[str] = []
        reactor: Any = RecordingReactor()
        calls: list[tuple[Any, ...]] = []
        reactor.callFromThread = lambda *call: calls.append(call)
        signals = Signals(
            reactor,
            interrupt=lambda: None,
            cut=lambda: None,
            reload=lambda: events.append("reload"),
            install=lambda number, handler: None,
        )
        signals.handle_early()
        for function, *arguments in calls:
            function(*arguments)
        self.assertEqual((events, noted), (["reload"], []))

    def test_not_noted(self) -> None:
        """A SIGHUP that is ignored or handled stays so, and threads change no handler."""
        for handler in (signal.SIG_IGN, lambda number, frame: None):
            signal.signal(signal.SIGHUP, handler)
            note_hangups()
            self.assertIs(signal.getsignal(signal.SIGHUP), handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        thread = Thread(target=note_hangups)
        thread.start()
        thread.join()
        self.assertIs(signal.getsignal(signal.SIGHUP), signal.SIG_DFL)
