"""LifespanService: starts an ASGI application before the first request."""

from __future__ import annotations

from asyncio import AbstractEventLoop, Future
from collections.abc import Sequence
from typing import Protocol

from twisted.application.service import Service
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from pushd.gateways.asgi.lifespan import Lifespan

_log = Logger(namespace="pushd.service")


class Holdable(Protocol):
    """A port that can leave its connections in the kernel's queue."""

    def hold(self) -> None:
        """Accept no connections until ``resume``."""

    def resume(self) -> None:
        """Accept connections."""


class LifespanService(Service):
    """Starts an application, and waits for it: until then no request is read.

    Ends the process with one line if the application says that it cannot start. Meanwhile the
    control port answers, and a signal ends the wait.

    :param public: the ports that accept nothing until the application has started.
    :param stays: whether to wait for a change of the code, instead of ending the process.
    :param threads: the reactor's, which start when it runs; the application may need them sooner.
    """

    def __init__(
        self,
        lifespan: Lifespan,
        loop: AbstractEventLoop,
        *,
        public: Sequence[Holdable] = (),
        threads: ThreadPool | None = None,
        stays: bool = False,
    ) -> None:
        self._lifespan = lifespan
        self._loop = loop
        self._public = public
        self._threads = threads
        self._stays = stays
        # Done when the application has started, or its start is not waited for any more.
        self._waited: Future[None] = loop.create_future()
        self._interrupted = False
        self._fault: str | None = "the application is starting"

    def fault(self) -> str | None:
        """Return why the application can have no requests; None if it can."""
        return self._fault

    def startService(self) -> None:
        """Start the application."""
        super().startService()
        started = self._lifespan.start()
        started.add_done_callback(self._ended)
        if self._loop.is_running():  # In a test.
            started.add_done_callback(_log_failure)
            return
        for port in self._public:
            port.hold()
        if self._threads is not None:
            self._threads.start()
        self._loop.run_until_complete(self._waited)
        # If the daemon stops, no request may reach the application.
        if not self._interrupted:
            self._open(started)

    def interrupt(self) -> None:
        """Do not wait for the application any more: the daemon stops. Cancel its start."""
        if not self._waited.done():
            self._interrupted = True
            self._waited.set_result(None)
            self._lifespan.cancel()

    def _open(self, started: Future[None]) -> None:
        """Let requests in, or end the process."""
        if error := started.exception():
            if self._stays:
                _log.error(
                    "{error}; waiting for a change of the code",
                    event="lifespan_failed",
                    error=error,
                )
                return
            if self._threads is not None:
                self._threads.stop()  # They would keep the process from its end.
            raise SystemExit(f"pushd: --asgi: {error}")
        for port in self._public:
            port.resume()

    def _ended(self, started: Future[None]) -> None:
        if self._interrupted:
            return
        if started.exception():
            self._fault = "the application did not start"
        else:
            self._fault = None
        self._waited.set_result(None)


def _log_failure(started: Future[None]) -> None:
    if error := started.exception():
        _log.error("{error}", event="lifespan_failed", error=error)
