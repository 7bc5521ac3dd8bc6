"""``--reload``: the daemon starts anew when the code of its application has changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Timer
from typing import Any

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from pushd.access.limits import Limits
from pushd.options.code_files import INTERVAL, CodeFiles, CommandLine, find_mistake

_log = Logger(namespace="pushd.service")

# Seconds that connections and views have to end by themselves. Clients come back at once.
_GRACE = 1.0

# Seconds after which the process is replaced, whatever it waits for: a view may block its thread.
_PATIENCE = 5.0


class CodeReload(Service):
    """Watches the code, and ends the daemon in order to start it again.

    Code that Python cannot compile is logged, and the daemon goes on with what it has.

    :param limits: those in force, whose ``drain`` becomes 0.
    :param stop: begins to stop the daemon.
    :param cut: finishes a stop at once.
    :param make_timer: ``threading.Timer``, or a fake of it.
    """

    def __init__(
        self,
        reactor: Any,
        files: CodeFiles,
        command: CommandLine,
        *,
        limits: Limits,
        stop: Callable[[], object],
        cut: Callable[[], object],
        make_timer: Callable[[float, Callable[[], object]], Timer] = Timer,
    ) -> None:
        self._reactor = reactor
        self._files = files
        self._command = command
        self._limits = limits
        self._stop = stop
        self._cut = cut
        self._make_timer = make_timer
        # The lines about files that are not valid, by their paths.
        self._mistakes: dict[str, str] = {}
        self._call: IDelayedCall | None = None

    def startService(self) -> None:
        """Watch the code."""
        super().startService()
        _log.info(
            "--reload: starts anew when one of {count} Python files changes; for development only",
            event="code_watched",
            count=self._files.count,
        )
        self._call = self._reactor.callLater(INTERVAL, self._look)

    def stopService(self) -> None:
        """Watch it no more."""
        super().stopService()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _look(self) -> None:
        self._call = self._reactor.callLater(INTERVAL, self._look)
        changed = self._files.changed()
        for path in changed:
            mistake = find_mistake(path)
            if mistake is None:
                self._mistakes.pop(path, None)
            else:
                self._mistakes[path] = mistake
                _log.error(
                    "{mistake}; the code from before goes on", event="code_invalid", mistake=mistake
                )
        if changed and not self._mistakes:
            self._restart(changed)

    def _restart(self, changed: list[str]) -> None:
        names = ", ".join(os.path.relpath(path) for path in changed)
        _log.info("{names} changed: starting anew", event="code_changed", names=names)
        self.stopService()
        self._limits.drain = 0
        self._reactor.addSystemEventTrigger("after", "shutdown", self._command.start_again)
        self._reactor.callLater(_GRACE, self._cut)
        timer = self._make_timer(_PATIENCE, self._command.start_again)
        timer.daemon = True
        timer.start()
        self._stop()
