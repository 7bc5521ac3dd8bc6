"""A WSGI application behind the public port: its pages through Twisted's WSGIResource."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from enum import Enum
from functools import partial
from typing import Any, Protocol

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET
from twisted.web.wsgi import WSGIResource
from zope.interface import implementer

from pushd.access.limits import Limits
from pushd.gateways.environ import Application, HandshakeView, ask, check_head, make_environ
from pushd.protocols.http.request import path_of
from pushd.protocols.http.response import FAILURE
from pushd.protocols.http.static import StaticFiles
from pushd.views.exchange import ViewContext
from pushd.views.request import Handshakes, Request
from pushd.views.resource import ViewResource
from pushd.views.routes import Match
from pushd.views.threads import Bridge, blocking

_log = Logger(namespace="pushd.gateways")

# Where the client that pushd ships is, as all other paths are the application's.
_SHIPPED = "/pushd/"

_HTML = ("Content-Type", "text/html; charset=utf-8")


class Pool(Protocol):
    """Threads that take one piece of work after another."""

    def callInThread(self, function: Callable[..., Any], /) -> object:
        """Call a function in a thread, once one has time."""


class ApplicationContext:
    """What it takes to serve an application.

    :param pool: the threads that its pages are made in.
    :param files: the files that are served before it.
    :param shipped: those of the client that pushd ships.
    :param limits: how much of a page may wait for a slow reader, before the application has to
        as well.
    """

    def __init__(
        self,
        application: Application,
        views: ViewContext,
        *,
        threads: Bridge,
        pool: Pool,
        files: StaticFiles,
        shipped: StaticFiles,
        limits: Limits,
    ) -> None:
        self.application = application
        self.views = views
        self.threads = threads
        self.pool = pool
        self.limits = limits
        self.handshakes = Match(HandshakeView(application), {}, Handshakes.ACCEPTED)
        self._files = files
        self._shipped = shipped

    def find(self, request: Any, path: str) -> IResource:
        """What answers at a path that pushd itself does not have."""
        if not request.wants_websocket:
            file = self._files.find(path)
            # Scripts and styles only: its pages belong to a demo that is not served.
            if file is None and path.startswith(_SHIPPED) and not path.endswith(("/", ".html")):
                file = self._shipped.find(path.removeprefix(_SHIPPED))
            if file is not None:
                return file
        return ApplicationResource(self, path)


class ApplicationResource(ViewResource):
    """An application at a URL: handshakes are a view's business, all else is WSGIResource's."""

    def __init__(self, door: ApplicationContext, path: str) -> None:
        super().__init__(door.views, door.handshakes, path)
        self._application_door = door

    def render(self, request: Any) -> int:
        """Ask the application."""
        if request.wants_websocket:
            return super().render(request)
        door = self._application_door
        asked = Request(body=request.content.read(), **self._request_fields(request))
        environ = make_environ(blocking(asked, door.threads))
        page = _Page(request, door.limits.max_buffered)
        failed = door.views.metrics.view_errors.inc
        # The application is called with our own environ; Twisted's knows no proxies.
        call = partial(_call, door.application, environ, page, door.threads, failed)
        WSGIResource(_Reactor(door.threads), door.pool, call).render(page)
        return NOT_DONE_YET


class _Reactor:
    """The one thing that WSGIResource wants of a reactor."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def callFromThread(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._bridge.call(partial(function, *arguments))


@implementer(IPushProducer)
class _Page:
    """A request as WSGIResource sees it, which takes no more than its connection can.

    It may be answered whatever has become of it: when the client has left, nothing happens.
    """

    # WSGIResource makes an environ of these, which is not used.
    prepath = postpath = ()

    def __init__(self, request: Any, max_buffered: int) -> None:
        self._request = request
        self._max_buffered = max_buffered
        # Bytes that were written since the connection had enough; None while it has not.
        self._waiting: int | None = None
        self._started = False
        #: Whether nobody reads any more.
        self.gone = False
        #: Fires once the application may go on; None while it may. (Its thread reads both of
        #: these. It goes on for a while after the connection has enough: most pages fit in
        #: there, and threads are few.)
        self.room: Deferred[None] | None = None
        request.foreign = True
        request.defaultContentType = None
        request.notifyFinish().addErrback(lambda _: self.stopProducing())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)

    def getClientAddress(self) -> IPv4Address:
        return IPv4Address("TCP", "", 0)

    getHost = getClientAddress

    def write(self, data: bytes) -> None:
        """Write a piece of the answer."""
        if self.gone:
            return
        if not self._started:
            self._started = True
            self._request.registerProducer(self, True)
        self._request.write(data)
        if self._waiting is not None:
            self._waiting += len(data)
            if self._waiting > self._max_buffered:
                self.room = self.room or Deferred()

    def finish(self) -> None:
        """End the answer."""
        if self.gone:
            return
        if self._started:
            self._request.unregisterProducer()
        self._request.finish()

    def loseConnection(self) -> None:
        """Break off, so that nobody takes what came for the whole."""
        if not self.gone:
            self.gone = True
            self._request.loseConnection()

    def pauseProducing(self) -> None:
        """Count what is written from now on."""
        self._waiting = 0

    def resumeProducing(self) -> None:
        """Let the application go on."""
        self._waiting = None
        room, self.room = self.room, None
        if room is not None:
            room.callback(None)

    def stopProducing(self) -> None:
        """Take note that the client has left."""
        self.gone = True
        self.resumeProducing()


def _call(
    application: Application,
    environ: dict[str, Any],
    page: _Page,
    bridge: Bridge,
    failed: Callable[[], object],
    theirs: object,
    start_response: Callable[..., Any],
) -> Iterator[bytes]:
    """Call an application for WSGIResource, which hangs or falls over much that one may do.

    :param failed: counts that it raised; as all here, it is called in a thread.
    """
    state, answered = _State.SILENT, 0
    body = _Body(None)

    def wait_for_room() -> None:
        room = page.room
        if room is not None:
            bridge.call(lambda: room)

    def start(status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], Any]:
        nonlocal state, answered, body
        if state is _State.SENT:
            # PEP 3333: it is too late for another head.
            late = RuntimeError("start_response was called behind a piece of the answer")
            raise exc_info[1] if exc_info else late
        head = check_head(status, headers)
        write = start_response(f"{head.status} {head.phrase or '-'}", head.headers, exc_info)
        state, answered = _State.BEGUN, head.status
        # The method of the request itself: what the application has may be another by now.
        has_body = page.method != b"HEAD" and head.status not in (204, 304)
        body = _Body(head.length if has_body else None)

        def write_piece(data: bytes) -> None:
            nonlocal state
            if taken := body.take(data):
                state = _State.SENT
                write(taken)
                wait_for_room()
            body.check()

        return write_piece

    try:
        with closing(ask(application, environ, start)) as pieces:
            for piece in pieces:
                if state is _State.SILENT:
                    break
                if taken := body.take(piece):
                    state = _State.SENT
                    yield taken
                    wait_for_room()
                if page.gone:
                    return
                body.check()
        if state is _State.SILENT:
            raise RuntimeError("the application did not call start_response")
        body.check(ended=True)
    except Exception:
        failed()
        _log.failure(
            "the application failed at {path} for {peer}",
            event="view_failed",
            **_who(page),
        )
        if state is _State.SENT:
            bridge.call(page.loseConnection)
        else:
            start_response("500 Internal Server Error", [_HTML], sys.exc_info())
            yield str(FAILURE.body).encode()
    else:
        if answered == 500:
            failed()
            _log.error(
                "the application answered 500 at {path} for {peer}: its own log has the reason",
                event="application_failed",
                **_who(page),
            )


def _who(page: _Page) -> dict[str, Any]:
    """Of whom the log speaks."""
    return {"path": path_of(page), "peer": page.peer}


class _Body:
    """What comes of an answer's body, and what of it was announced.

    What is too little or too much would be taken for the next answer on this connection.

    :param length: what Content-Length says, in bytes; None where it is silent.
    """

    def __init__(self, length: int | None) -> None:
        self._length = length
        self._given = 0

    def take(self, piece: bytes) -> bytes:
        """What is sent of a piece: no more than was announced."""
        before = self._given
        self._given += len(piece)
        return piece if self._length is None else piece[: max(0, self._length - before)]

    def check(self, *, ended: bool = False) -> None:
        """Raise ValueError where it is more than was announced, or has ended and is less."""
        if self._length is None or self._given == self._length:
            return
        if ended or self._given > self._length:
            raise ValueError(f"Content-Length is {self._length}, the body has {self._given} bytes")


class _State(Enum):
    """How far an application's answer has come."""

    SILENT = "start_response has not been called"
    BEGUN = "it may still be replaced"
    SENT = "a part of it is on its way"
