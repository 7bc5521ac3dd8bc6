"""LifespanService: starts an ASGI application before the first request."""

from __future__ import annotations

from asyncio import AbstractEventLoop, Future
from typing import Any

from twisted.application.service import Service
from twisted.logger import Logger

from pushd.errors import StartFailed
from pushd.gateways.asgi.lifespan import Lifespan

_log = Logger(namespace="pushd.service")


class LifespanService(Service):
    """Starts an application, and waits for it: until then no request is read.

    Ends the process with one line if the application says that it cannot start.
    """

    def __init__(self, lifespan: Lifespan, loop: AbstractEventLoop) -> None:
        self._lifespan = lifespan
        self._loop = loop

    def startService(self) -> None:
        """Start the application."""
        super().startService()
        started = self._lifespan.start()
        if self._loop.is_running():
            started.add_done_callback(self._log_failure)
            return
        try:
            self._loop.run_until_complete(started)
        except StartFailed as error:
            raise SystemExit(f"pushd: --asgi: {error}") from None

    def _log_failure(self, started: Future[Any]) -> None:
        if error := started.exception():
            _log.error("{error}", event="lifespan_failed", error=error)
