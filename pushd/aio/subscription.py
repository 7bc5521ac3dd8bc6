"""A subscription: reconnects after each break, resumes, and changes its transport if it must."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from random import uniform
from typing import Any, Protocol

from pushd.aio.messages import Began, Broken, Message, read_message
from pushd.errors import PushdError, Refused, Unreachable

# Seconds before a subscription is reconnected: the longest pause after the first break, and the
# longest of all.
_SHORTEST = 0.5
_LONGEST = 20.0

# Seconds after which the preferred transport is tried again, at a reconnect.
_TRY_AGAIN = 300.0


class Transport(Protocol):
    """A way to subscribe: opens a connection, and yields the JSON values that it receives."""

    def __call__(self, positions: Mapping[str, str | None]) -> AsyncGenerator[Any, None]:
        """Subscribe to topics, each after the id that it has, or from now on.

        Raises Unreachable if the connection cannot be opened or breaks, and Refused if pushd
        refuses it. Returns when the server ends it.
        """


class Subscription:
    """The topics of one subscription, and how far each of them was received.

    :param positions: the topics, each with the last id received; None for new publications only.
    :param transports: the ways to connect, the preferred one first. The next is tried if nothing
        was received over one.
    :param pause: waits for some seconds before a reconnect; returns whether to reconnect.
    :param renews_token: whether a token that was refused is replaced by a fresh one.
    """

    def __init__(
        self,
        positions: dict[str, str | None],
        transports: Sequence[Transport],
        *,
        pause: Callable[[float], Awaitable[bool]],
        renews_token: bool = False,
    ) -> None:
        self._positions = positions
        self._transports = transports
        self._pause = pause
        self._renews_token = renews_token
        # The transport to use, and until when the preferred one is not tried.
        self._current = 0
        self._keep_until = 0.0
        # Whether anything was ever received; how many connections broke since; whether a token was
        # refused since.
        self._connected = False
        self._breaks = 0
        self._refusals = 0

    async def follow(self) -> AsyncGenerator[Began | Broken | Message, None]:
        """Yield what is received, until ``pause`` says to stop.

        Raises Unreachable if the first connection fails, and Refused if pushd refuses the first
        connection or a later one.
        """
        while True:
            try:
                async with aclosing(self._connect()) as events:
                    async for event in events:
                        yield event
                error: PushdError = Unreachable("the connection ended")
            except Unreachable as unreachable:
                error = unreachable
            except Refused as refused:
                self._check(refused)
                error = refused
            if not self._connected and not self._refusals:
                raise error
            # A random pause: the clients of a server that is restarted must not return at once.
            seconds = uniform(0, min(_LONGEST, _SHORTEST * 2**self._breaks))
            seconds = max(seconds, getattr(error, "retry_after", None) or 0)
            self._breaks = min(self._breaks + 1, 10)
            yield Broken(str(error), seconds)
            if not await self._pause(seconds):
                return

    async def _connect(self) -> AsyncGenerator[Began | Message, None]:
        """Connect by the first transport over which something is received."""
        now = asyncio.get_running_loop().time()
        if now >= self._keep_until:
            self._current = 0
        while True:
            received = False
            try:
                async with aclosing(self._receive(self._transports[self._current])) as events:
                    async for event in events:
                        received = True
                        yield event
                return
            except (Unreachable, Refused) as error:
                is_last = self._current + 1 == len(self._transports)
                if received or is_last or _is_about_request(error):
                    raise
            self._current += 1
            self._keep_until = now + _TRY_AGAIN

    async def _receive(self, transport: Transport) -> AsyncGenerator[Began | Message, None]:
        """Yield what one connection receives, and note how far that is."""
        async with aclosing(transport(self._positions)) as values:
            async for value in values:
                try:
                    event = read_message(value)
                except (LookupError, TypeError, ValueError):
                    raise Unreachable("the server does not respond as pushd does") from None
                if event is not None and event.topic in self._positions:
                    self._connected, self._breaks, self._refusals = True, 0, 0
                    self._positions[event.topic] = event.id
                    yield event

    def _check(self, refused: Refused) -> None:
        """Raise a refusal that a later connection would get as well."""
        if refused.status == 401 and self._renews_token and not self._refusals:
            # The token may have expired while the connection was open.
            self._refusals += 1
        elif refused.status < 500 and refused.status != 429:
            raise refused


def _is_about_request(error: PushdError) -> bool:
    """Whether pushd itself refused what was asked for, so that another transport cannot help."""
    # 426: a proxy did not pass the Upgrade on. Proxies do not name what is wrong.
    return isinstance(error, Refused) and error.where is not None and error.status != 426
