"""The process: its signals, and its limit of file descriptors."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable
from functools import partial
from threading import current_thread, main_thread
from typing import Any

from twisted.application.service import Service
from twisted.logger import Logger


class Signals(Service):
    """Answers SIGTERM, SIGINT and SIGHUP once the reactor runs.

    Twisted's own handlers stop the reactor as well, but then twistd ends the process by the very
    signal: a stop that went well would look like a crash to whoever asked for it.

    :param reactor: where it all happens.
    :param cut: what ends a stop that is under way; the next signal after that kills.
    :param reload: what SIGHUP means.
    :param install: ``signal.signal``, or what stands in for it.
    """

    _log = Logger(namespace="pushd.service")

    def __init__(
        self,
        reactor: Any,
        *,
        cut: Callable[[], object],
        reload: Callable[[], object],
        install: Callable[[int, Any], Any] = signal.signal,
    ) -> None:
        self._reactor = reactor
        self._cut = cut
        self._reload = reload
        self._install = install
        self._stopping = False

    def startService(self) -> None:
        """Take the signals over from the reactor, which takes them when it starts."""
        super().startService()
        self._reactor.callWhenRunning(self._take_over)

    def _take_over(self) -> None:
        if current_thread() is not main_thread():
            return  # Python allows it nowhere else: they belong to whoever runs us in a thread.
        for number, answer in (
            (signal.SIGTERM, self._stop),
            (signal.SIGINT, self._stop),
            (signal.SIGHUP, self._read_again),
        ):
            # What was ignored from the beginning stays so: nohup means it.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._install(number, partial(self._caught, answer))

    def _caught(self, answer: Callable[[str], None], number: int, frame: object) -> None:
        # It comes between any two instructions, so nothing is done here and now.
        self._reactor.callFromThread(answer, signal.Signals(number).name)

    def _stop(self, name: str) -> None:
        if self._stopping:
            self._log.warn("{signal} again: ending now", event="stopping", signal=name)
            for number in (signal.SIGTERM, signal.SIGINT):
                self._install(number, signal.SIG_DFL)
            self._cut()
        else:
            self._stopping = True
            self._log.info("{signal}: stopping", event="stopping", signal=name)
            self._reactor.stop()

    def _read_again(self, name: str) -> None:
        if not self._stopping:
            self._reload()


_log = Logger(namespace="pushd.service")

# What all but the public port's connections take: the reactor, the log, listening ports and open
# files; those who wait to hear that there is no place; and operators, who must get in even then.
_OWN = 192


def allow_connections(wanted: int) -> int:
    """How many connections there may be, of those that are wanted; it is logged as well.

    Each takes a descriptor, so the soft limit is raised as far as that needs and the hard limit
    lets it. Whoever takes more than there are is left to accept() and its errors.
    """
    allowed = _raise_limit(wanted)
    if allowed == wanted:
        _log.info("{allowed} connections at most", event="allowed", allowed=allowed)
    else:
        _log.warn(
            "{allowed} connections at most, not {wanted}: the limit of open files allows no more",
            event="allowed",
            allowed=allowed,
            wanted=wanted,
        )
    return allowed


def _raise_limit(wanted: int) -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OWN
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, soft - _OWN))
