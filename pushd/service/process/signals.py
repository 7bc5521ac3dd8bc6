"""Signals of the process: SIGTERM and SIGINT stop the daemon, SIGHUP reloads it."""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Callable
from functools import partial
from threading import current_thread, main_thread
from typing import Any

from twisted.application.service import Service
from twisted.logger import Logger

from pushd.service.process.early_signals import noted
from pushd.service.process.reactor import keep_signal_handler

_log = Logger(namespace="pushd.service")


class Signals(Service):
    """Handles SIGTERM, SIGINT and SIGHUP, from before the ports open until the process is gone.

    With Twisted's own handlers, twistd ends itself by the signal that it received, so that a clean
    stop looks like a crash to systemd. They also come too late: a signal between the opening of the
    ports and the start of the reactor would kill the process, or as pid 1 of a container be lost.

    :param interrupt: ends what the start waits for: on a signal before the reactor runs.
    :param cut: finishes a stop at once: on the second signal. The third kills the process.
    :param reload: called on SIGHUP.
    :param install: ``signal.signal``, or a fake of it.
    :param at_exit: ``atexit.register``, or a fake of it.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        interrupt: Callable[[], object],
        cut: Callable[[], object],
        reload: Callable[[], object],
        install: Callable[[int, Any], Any] = signal.signal,
        at_exit: Callable[[Callable[[], object]], object] = atexit.register,
    ) -> None:
        self._reactor = reactor
        self._interrupt = interrupt
        self._cut = cut
        self._reload = reload
        self._install = install
        self._at_exit = at_exit
        self._stopping = False
        # Whether the reactor has stopped, so that the handlers cannot leave anything to it.
        self._ended = False

    def handle_early(self) -> None:
        """Handle signals from now on; the reactor acts on them as soon as it runs."""
        self._install_handlers()
        while noted:
            self._received(self._hang_up, noted.pop(), None)
        keep_signal_handler(self._reactor, partial(self._received, self._stop))

    def stop(self) -> None:
        """Stop the reactor without a signal; one that comes later counts as the second."""
        self._stopping = True
        self._reactor.stop()

    def startService(self) -> None:
        """Install the handlers once the reactor runs, and see its end."""
        super().startService()
        self._reactor.callWhenRunning(self._install_handlers)
        self._reactor.addSystemEventTrigger("after", "shutdown", self._end)

    def _install_handlers(self) -> None:
        if current_thread() is not main_thread():
            return  # Python allows it in the main thread only; its owner handles signals there.
        for number, handler in (
            (signal.SIGTERM, self._stop),
            (signal.SIGINT, self._stop),
            (signal.SIGHUP, self._hang_up),
        ):
            # A signal that was ignored when the process started stays ignored: nohup relies on it.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._install(number, partial(self._received, handler))

    def _received(self, handler: Callable[[str], None], number: int, frame: object) -> None:
        if self._ended:
            # Threads of views may keep the process from its end: the next signal kills it.
            self._let_die()
        else:
            # Called between any two instructions: leave the work to the reactor.
            self._reactor.callFromThread(handler, signal.Signals(number).name)

    def _stop(self, name: str) -> None:
        if self._stopping:
            _log.warn("{signal} again: closing all connections now", event="stopping", signal=name)
            self._let_die()
            self._cut()
        else:
            self._stopping = True
            _log.info(
                "{signal}: shutting down; a second signal closes all connections at once",
                event="stopping",
                signal=name,
            )
            if self._reactor.running:
                self._reactor.stop()
            else:  # Its event loop runs by itself while an application starts.
                self._reactor.callWhenRunning(self._reactor.stop)
                self._interrupt()

    def _hang_up(self, name: str) -> None:
        if not self._stopping:
            self._reload()

    def _let_die(self) -> None:
        """Let the next SIGTERM or SIGINT kill the process."""
        # The first process of a container is not killed by what has no handler.
        handler = _exit_at_once if os.getpid() == 1 else signal.SIG_DFL
        for number in (signal.SIGTERM, signal.SIGINT):
            self._install(number, handler)

    def _end(self) -> None:
        self._ended = True
        if current_thread() is main_thread():
            self._at_exit(self._ignore)

    def _ignore(self) -> None:
        """Ignore signals: Python restores what they do by default, and then still has to end."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._install(number, signal.SIG_IGN)


def _exit_at_once(number: int, frame: object) -> None:
    os._exit(128 + number)  # The status that a shell gives for a signal.
