"""Lifespan: the start and the end of an ASGI application (ASGI lifespan protocol 2.0)."""

from __future__ import annotations

from asyncio import AbstractEventLoop, CancelledError, Future, Task
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.errors import StartFailed
from pushd.gateways.asgi.scope import Application, Message, lifespan_scope

_log = Logger(namespace="pushd.gateways")


class Lifespan:
    """Runs an application from before its first request until after its last one.

    An application that raises an exception before it has said whether it has started serves
    requests all the same, as the protocol has it. Unless it had asked for the event
    ``lifespan.startup``, it does not use the protocol; if it had, the exception is logged.
    """

    def __init__(self, application: Application, loop: AbstractEventLoop) -> None:
        self._application = application
        self._loop = loop
        self._task: Task[None] | None = None
        #: What the application keeps for its requests; None if it does not use the protocol.
        self.state: dict[str, Any] | None = {}
        self._scope = lifespan_scope(self.state)
        # Each is done once the application has said so, or ended.
        self._started: Future[None] = loop.create_future()
        self._stopped: Future[None] = loop.create_future()
        # Done when the application is to stop.
        self._stopping: Future[None] = loop.create_future()
        self._asked_to_start = False

    def start(self) -> Future[None]:
        """Start the application; the future is done when it may get requests.

        It raises StartFailed if the application says that it cannot start.
        """
        if self._task is None:
            self._task = self._loop.create_task(self._run())
        return self._started

    def stop(self) -> Future[None]:
        """Tell the application that no more requests come; the future is done when it has ended."""
        if not self._stopping.done():
            self._stopping.set_result(None)
        if self._task is None or not self._started.done() or self.state is None:
            self._end()
        return self._stopped

    def cancel(self) -> None:
        """End the application by force."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            await self._application(self._scope, self._receive, self._send)
        except CancelledError:
            pass  # By ``cancel``.
        except SystemExit as error:
            if self._started.done():
                _log.failure("the application exited in its lifespan", event="lifespan_failed")
            else:
                self._fail(f"it exited: {error}")
        except BaseException:  # Whatever it is ends the application's life, and nothing else.
            if self._started.done():
                _log.failure("the application failed in its lifespan", event="lifespan_failed")
            elif self._asked_to_start:
                self.state = None
                _log.failure(
                    "the application failed at its start, and serves requests all the same; to "
                    "stop pushd, it must send lifespan.startup.failed",
                    event="lifespan_failed",
                )
            else:
                self.state = None
                _log.debug(
                    "the application does not use the lifespan protocol: {error}",
                    event="no_lifespan",
                    error=Failure().getErrorMessage(),
                )
        if not self._started.done():
            self._started.set_result(None)
        self._end()

    async def _receive(self) -> dict[str, Any]:
        if not self._asked_to_start:
            self._asked_to_start = True
            return {"type": "lifespan.startup"}
        await self._stopping
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        match message["type"]:
            case "lifespan.startup.complete" if not self._started.done():
                self._started.set_result(None)
            case "lifespan.startup.failed" if not self._started.done():
                self._fail(message.get("message") or "it does not say why")
            case "lifespan.shutdown.complete" if self._stopping.done():
                self._end()
            case "lifespan.shutdown.failed" if self._stopping.done():
                _log.error(
                    "the application failed to stop: {reason}",
                    event="lifespan_failed",
                    reason=message.get("message") or "it does not say why",
                )
                self._end()
            case kind:
                raise RuntimeError(f"the application sent {kind!r}, which cannot come now")

    def _fail(self, reason: str) -> None:
        """Note that the application cannot start; the reason may be a traceback as Starlette's."""
        lines = reason.strip().splitlines() or ["it does not say why"]
        if len(lines) > 1:
            _log.error(
                "the application failed to start: {reason}", event="lifespan_failed", reason=reason
            )
        self._started.set_exception(StartFailed(f"the application did not start: {lines[-1]}"))

    def _end(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)
