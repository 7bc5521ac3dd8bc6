"""The built-in demo view: ten messages, half a second apart, then a Close."""

from __future__ import annotations

import json
from collections.abc import Callable

from twisted.logger import Logger

from pushd.protocols.http.response import Page, page
from pushd.protocols.websocket.socket import WebSocket
from pushd.schedule.ticks import PushSchedule
from pushd.views.decorators import accept_websocket
from pushd.views.request import Request

# Seconds that the demo waits for a client's first message.
FIRST_MESSAGE_TIMEOUT = 60

# Characters of the first message that are logged.
_LOGGED = 200

# One function for each log of this process, which says whether that log writes debug lines; a log
# adds its own (style_log_of_twistd). A line that no log writes would still pass every observer.
debug_hooks: list[Callable[[], bool]] = []

_log = Logger(namespace="pushd.views")


@accept_websocket
async def ticker(request: Request) -> Page | None:
    """Serve the page over HTTP, and answer a WebSocket's first message with ten messages."""
    if not request.is_websocket():
        return page("test.html")
    websocket: WebSocket = request.websocket
    try:
        message = await websocket.wait(timeout=FIRST_MESSAGE_TIMEOUT)
    except TimeoutError:
        await websocket.close(1008, f"no message came within {FIRST_MESSAGE_TIMEOUT} s")
        return None
    if message is None:
        return None
    # Contents of messages are logged at level debug only.
    if is_debug_written():
        _log.debug(
            "{peer} sent {raw}, which is {decoded}",
            peer=request.peer,
            raw=_Excerpt(message, repr),
            decoded=_Excerpt(message, _decode),
        )
    async for number in PushSchedule(request.clock, count=10, interval=0.5):
        while websocket.has_messages():
            websocket.read()  # Discard further messages.
        websocket.send(f"service message: {number}".encode())
    return None


def is_debug_written() -> bool:
    """Whether any log of this process writes debug lines; True as long as that is unknown."""
    return not debug_hooks or any(hook() for hook in debug_hooks)


class _Excerpt:
    """A message as it is logged; formatted only if a log writes the line."""

    __slots__ = ("_describe", "_message")

    def __init__(self, message: str | bytes, describe: Callable[[str | bytes], str]) -> None:
        self._message = message
        self._describe = describe

    def __str__(self) -> str:
        return _shorten(self._describe(self._message))


def _decode(message: str | bytes) -> str:
    try:
        return repr(json.loads(message))
    except (ValueError, RecursionError) as error:
        return f"not JSON ({type(error).__name__})"


def _shorten(text: str) -> str:
    return text if len(text) <= _LOGGED else f"{text[:_LOGGED]}… ({len(text)} characters)"
