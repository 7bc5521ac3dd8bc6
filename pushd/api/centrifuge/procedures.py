"""Remote procedure calls of Centrifuge clients: the operator's function, and what it answers."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from asyncio import CancelledError as CancelledByLoop
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pushd.access.tokens import Identity
from pushd.api.centrifuge.codes import ErrorCode
from pushd.errors import CommandRefused, Denied
from pushd.protocols.http.headers import decode_path
from pushd.topics.publisher import Publisher
from pushd.views.calls import TIMEOUT, FunctionCalls, Pool
from pushd.views.request import Request, fields_of, name_of
from pushd.views.threads import Bridge

_log = Logger(namespace="pushd.api")


class Procedures:
    """Calls the operator's function with the request of the client, a method and its data.

    :param publisher: what its requests publish with.
    :param threads: how to get from a thread to the reactor.
    :param pool: the threads in which it runs, unless it is ``async def`` or returns a Deferred.
    :param limit: how many of them it may use at a time.
    :param failed: counts a function that raises.
    :param loop: asyncio's event loop, if the reactor runs on one.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        clock: IReactorTime,
        *,
        publisher: Publisher,
        threads: Bridge,
        pool: Pool,
        limit: int,
        failed: Callable[[], object],
        loop: AbstractEventLoop | None,
    ) -> None:
        self._function = function
        self._clock = clock
        self._publisher = publisher
        self._failed = failed
        self._calls = FunctionCalls(
            function, clock, threads=threads, pool=pool, limit=limit, loop=loop
        )

    def make_request(self, http: Any) -> Request:
        """Return the request of a view for the handshake of a client."""
        return Request(
            path=decode_path(http.path).decode(errors="replace"),
            clock=self._clock,
            publisher=self._publisher,
            **fields_of(http),
        )

    async def call(
        self, request: Request, identity: Identity | None, method: str | None, data: Any
    ) -> Any:
        """Return what the function returns.

        :param identity: of the client.
        :param method: None for a message, which has none.

        Raises CommandRefused: as the function says, or because it fails or is late.
        """
        call = self._calls.start(replace(request, identity=identity), method, data)
        try:
            outcome = await call.answered
        except (CommandRefused, Denied):
            raise
        except (Exception, CancelledByLoop, SystemExit):
            if call.is_cancelled:
                raise
            if not call.is_late:
                raise self._fail(request, method) from None
        if call.is_late:
            raise self._expire(request, method)
        return outcome

    def _fail(self, request: Request, method: str | None) -> CommandRefused:
        """Log the exception that is being handled; return what the client is told."""
        self._failed()
        _log.failure(
            "{function} failed to answer {method} for {peer}",
            event="procedure_failed",
            **self._fields(request, method),
        )
        return CommandRefused(ErrorCode.INTERNAL_ERROR, "the procedure failed", temporary=True)

    def _expire(self, request: Request, method: str | None) -> CommandRefused:
        """Log that the function is late; return what the client is told."""
        _log.warn(
            "{function} took longer than {seconds} s to answer {method} for {peer}",
            event="procedure_late",
            seconds=TIMEOUT,
            **self._fields(request, method),
        )
        line = "the procedure took too long"
        return CommandRefused(ErrorCode.INTERNAL_ERROR, line, temporary=True)

    def _fields(self, request: Request, method: str | None) -> dict[str, Any]:
        return {"function": name_of(self._function), "method": method, "peer": request.peer}
