"""HTTP requests of an ASGI application: ``receive`` and ``send`` over one request."""

from __future__ import annotations

from asyncio import AbstractEventLoop, Future
from enum import Enum
from typing import Any

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from pushd.errors import ClientDisconnected
from pushd.gateways.asgi.headers import Headers, check_headers, check_status, read_length
from pushd.gateways.asgi.scope import Application, Message, Scope
from pushd.gateways.body_length import BodyLength
from pushd.gateways.whole_response import write_whole
from pushd.protocols.http.body import BodyStream
from pushd.protocols.http.response import MAX_WHOLE, phrase_of


class _State(Enum):
    """How far the response has come."""

    NEW = "it has not begun"
    STARTED = "its head has been given"
    SENDING = "a part of its body has been sent"
    COMPLETE = "it is complete"
    GONE = "the client has left"


@implementer(IPushProducer)
class HttpConversation:
    """One HTTP request and one call of the application, which answers it.

    ``send`` returns when the transport has room for more, so that a slow client holds the
    application, and a response does not fill the memory.

    :param request: the request as twisted.web has it.
    """

    __slots__ = (
        *("_body", "_has_body", "_headers", "_length", "_loop", "_paused", "_receivers"),
        *("_request", "_senders", "_state", "_status", "_whole"),
    )

    def __init__(self, request: Any, loop: AbstractEventLoop) -> None:
        self._request = request
        self._loop = loop
        self._state = _State.NEW
        # The head of the response, until it is sent.
        self._status = 500
        self._headers: Headers = []
        self._has_body = True
        self._length = BodyLength(None)
        # The request's body, until the application has been told all of it.
        self._body: BodyStream | None = request.body
        # A body that had arrived as a whole.
        self._whole: bytes | None = None if request.body else request.content.read()
        # Wakes the tasks that receive, and those that wait for room.
        self._receivers: list[Future[None]] = []
        self._senders: list[Future[None]] = []
        self._paused = False
        request.sets_own_headers = True
        request.defaultContentType = None
        request.broken_off = self._client_left

    @property
    def is_gone(self) -> bool:
        """Whether the client has left."""
        return self._state is _State.GONE

    async def run(self, application: Application, scope: Scope) -> None:
        """Call the application.

        Raises what the application raises, and RuntimeError if its response is not complete.
        """
        await application(scope, self.receive, self.send)
        if self._state not in (_State.COMPLETE, _State.GONE):
            raise RuntimeError(f"the application returned; its response: {self._state.value}")

    async def receive(self) -> dict[str, Any]:
        """Return the next part of the request's body; after the last one, wait for the end."""
        while self._state not in (_State.COMPLETE, _State.GONE):
            if self._whole is not None:
                data, self._whole = self._whole, None
                return {"type": "http.request", "body": data, "more_body": False}
            if self._body is not None and self._body.has_news:
                data, more = self._body.take()
                if not more:
                    self._body = None
                return {"type": "http.request", "body": data, "more_body": more}
            if self._body is not None:
                self._body.on_news(self._wake_receivers)
            await self._wait(self._receivers)
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take the start or a part of the response; return when there is room for more.

        Raises ValueError or TypeError for an event that cannot be sent, RuntimeError for one that
        cannot come now, and ClientDisconnected.
        """
        kind = message["type"]
        if self._state is _State.GONE:
            raise ClientDisconnected("the client has left")
        if kind == "http.response.start" and self._state is _State.NEW:
            self._start(message)
        elif kind == "http.response.body" and self._state in (_State.STARTED, _State.SENDING):
            self._write(message.get("body", b""), more=bool(message.get("more_body", False)))
            while self._paused and self._state is _State.SENDING:
                await self._wait(self._senders)
        elif kind != "http.response.trailers":  # They are ignored.
            raise RuntimeError(f"the application sent {kind!r}; its response: {self._state.value}")

    # What the transport calls

    def pauseProducing(self) -> None:
        """Hold the application: the transport's buffer is full."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Let the application go on."""
        self._paused = False
        _wake(self._senders)

    def stopProducing(self) -> None:
        """Let the application go on, to its end: the client has left."""
        self._client_left()

    # Private

    def _start(self, message: Message) -> None:
        """Take the head of the response, which is sent with the first part of its body."""
        self._status = check_status(message["status"])
        self._headers = check_headers(message.get("headers", ()))
        self._has_body = self._request.method != b"HEAD" and self._status not in (204, 304)
        self._length = BodyLength(read_length(self._headers) if self._has_body else None)
        self._state = _State.STARTED

    def _write(self, data: bytes | bytearray | memoryview, *, more: bool) -> None:
        """Send a part of the body. Raises ValueError if it has not its Content-Length."""
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"a body consists of bytes, not {type(data).__name__}")
        request, data = self._request, bytes(data)
        is_first = self._state is _State.STARTED
        self._state = _State.SENDING
        if is_first and not more and self._is_whole(len(data)):
            self._write_whole(data)
        else:
            if is_first:
                self._set_head(len(data), more=more)
            request.write(self._length.take(data))
            self._length.check(ended=not more)
        if not more and self._state is _State.SENDING:
            self._state = _State.COMPLETE
            if request.producer is not None:
                request.unregisterProducer()
            del request.broken_off  # It refers to this: a cycle.
            request.finish()
            self._wake_receivers()

    def _is_whole(self, length: int) -> bool:
        """Return whether a response in one part can leave in one write."""
        return (
            self._has_body
            and length <= MAX_WHOLE
            and self._length.length in (None, length)
            and self._request.clientproto == b"HTTP/1.1"
        )

    def _write_whole(self, data: bytes) -> None:
        phrase, headers = phrase_of(self._status).encode(), self._headers
        if self._length.length is None:
            headers = [*headers, (b"content-length", b"%d" % len(data))]
        write_whole(self._request, self._status, phrase, headers, data)

    def _set_head(self, length: int, *, more: bool) -> None:
        """Give the head to the request, which writes it with the first part of the body."""
        request = self._request
        request.setResponseCode(self._status, phrase_of(self._status).encode())
        for name, value in self._headers:
            request.responseHeaders.addRawHeader(name, value)
        if more:
            request.registerProducer(self, True)
        elif not request.responseHeaders.hasHeader(b"content-length"):
            request.responseHeaders.setRawHeaders(b"content-length", [b"%d" % length])

    def _client_left(self) -> None:
        """Tell the application that its client has left."""
        self._state = _State.GONE
        self._wake_receivers()
        _wake(self._senders)

    def _wake_receivers(self) -> None:
        _wake(self._receivers)

    async def _wait(self, waiting: list[Future[None]]) -> None:
        future = self._loop.create_future()
        waiting.append(future)
        await future


def _wake(waiting: list[Future[None]]) -> None:
    """Let the tasks go on that wait; some may have been cancelled."""
    while waiting:
        future = waiting.pop()
        if not future.done():
            future.set_result(None)
