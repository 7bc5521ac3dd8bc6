"""Serves a WSGI application: its pages, and the WebSockets that it accepts (PEP 3333)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from pushd.access.limits import Limits
from pushd.gateways.application import (
    Application,
    HandshakeView,
    Head,
    call_application,
    check_head,
)
from pushd.gateways.body_length import BodyLength
from pushd.gateways.environ import make_environ
from pushd.gateways.files import ApplicationFiles
from pushd.gateways.whole_response import write_whole
from pushd.protocols.http.request import path_of
from pushd.protocols.http.response import refusal, write_failure, write_response
from pushd.protocols.twisted_internals import unsent
from pushd.views.decorators import Handshakes
from pushd.views.exchange import ViewDependencies
from pushd.views.request import Request
from pushd.views.resource import ViewResource
from pushd.views.routes import Match
from pushd.views.threads import Bridge, blocking

_log = Logger(namespace="pushd.gateways")

# How much is handed to the reactor at a time, in bytes: more of a large piece than that waits in
# the application's own memory.
_PART = 1 << 18

# How many bodies may be on their way from a thread to the reactor; further threads wait for it.
_MAX_OUTBOX = 64

# What a part takes in the transport's buffer beside its own bytes: three objects of a list.
_OVERHEAD = 128


_QUEUE_FULL = refusal(
    503, "too many requests wait for the application: try again later", {"Retry-After": "1"}
)


class Pool(Protocol):
    """A thread pool with a queue."""

    @property
    def waiting(self) -> int:
        """The number of functions in the queue."""

    def callInThread(self, function: Callable[..., Any], /) -> object:
        """Call a function in a thread, once one is free."""


class WsgiGateway:
    """Serves an application: finds what answers a request, and holds what all its responses share.

    :param threads: how to get from an application's thread to the reactor.
    :param pool: the threads that produce its pages.
    :param files: files that take precedence over the application's URLs.
    :param limits: ``max_buffered`` bounds how much of a page waits for a slow reader, and
        ``max_connections`` how many requests wait for a thread, those included whose clients left.
    """

    def __init__(
        self,
        application: Application,
        views: ViewDependencies,
        *,
        threads: Bridge,
        pool: Pool,
        files: ApplicationFiles,
        limits: Limits,
    ) -> None:
        self.application = application
        self.views = views
        self.threads = threads
        self.pool = pool
        self.limits = limits
        self.handshakes = Match(HandshakeView(application), {}, Handshakes.ACCEPTED)
        #: Bodies on their way from a thread to the reactor.
        self.outbox: deque[bytes] = deque()
        self._files = files

    def find(self, request: Any, path: str) -> IResource:
        """Return the resource for a path that pushd itself does not serve."""
        return self._files.find(request, path) or ApplicationResource(self, path)


class ApplicationResource(ViewResource):
    """An application at a URL. Handshakes are served by a view, all else by ``WsgiResponse``."""

    def __init__(self, gateway: WsgiGateway, path: str) -> None:
        super().__init__(gateway.views, gateway.handshakes, path)
        self._gateway = gateway

    def render(self, request: Any) -> int:
        """Call the application, in a thread."""
        if request.wants_websocket:
            return super().render(request)
        gateway = self._gateway
        if gateway.pool.waiting >= gateway.limits.max_connections:
            request.site.count_refusal(503)
            request.why_refused = "too many requests wait for a thread, see --wsgi-threads"
            write_response(request, _QUEUE_FULL)
            return NOT_DONE_YET
        asked = Request(body=request.content.read(), **self._request_fields(request))
        environ = make_environ(blocking(asked, gateway.threads))
        response = WsgiResponse(
            request,
            threads=gateway.threads,
            limits=gateway.limits,
            failed=gateway.views.counters.view_errors.inc,
            outbox=gateway.outbox,
        )
        response.start(gateway.pool, gateway.application, environ)
        return NOT_DONE_YET


@implementer(IPushProducer)
class WsgiResponse:
    """One response of an application, sent piece by piece (PEP 3333).

    The application calls ``start_response`` and ``write`` in its thread; the request is touched on
    the reactor only. If the client reads slowly, the thread waits as soon as more than
    ``max_buffered`` bytes are unsent; it goes on when they are sent, or the client is gone.

    :param threads: how to get from the application's thread to the reactor.
    :param limits: read at each piece, as a reload may change them.
    A body that comes in one piece leaves with its head in one write, and the thread does not wait
    for that. Each time that a thread waits for the reactor takes two changes of threads.

    :param failed: counts an application that raises or answers 500.
    :param outbox: bodies on their way to the reactor, of all responses.
    """

    def __init__(
        self,
        request: Any,
        *,
        threads: Bridge,
        limits: Limits,
        failed: Callable[[], object],
        outbox: deque[bytes],
    ) -> None:
        self._request = request
        self._threads = threads
        self._limits = limits
        self._failed = failed
        self._outbox = outbox
        # What start_response was given last, and what may follow as the body.
        self._head: Head | None = None
        self._body = BodyLength(None)
        # True from the first byte of the body on; then the head can't be replaced any more.
        self._head_sent = False
        # The call of the application, until it begins or the client leaves.
        self._waiting: list[Callable[[], None]] = []
        # Whether the client has left. (Set on the reactor, read in both threads.)
        self._gone = False
        # Whether the transport has asked us to pause, and how many parts it was given since it was
        # last empty, for all we know.
        self._paused = False
        self._parts = 0
        # Fires when the application may go on, if it has to wait.
        self._room: Deferred[None] | None = None
        request.sets_own_headers = True
        request.defaultContentType = None
        request.notifyFinish().addErrback(lambda _: self.stopProducing())

    def start(self, pool: Pool, application: Application, environ: dict[str, Any]) -> None:
        """Call the application once a thread is free, unless the client has left by then.

        Its request is dropped then: the queue must not keep bodies of clients that have left.
        """
        self._waiting.append(partial(self.run, application, environ))
        pool.callInThread(self._run_if_waiting)

    # What is called in the application's thread

    def _run_if_waiting(self) -> None:
        try:
            run = self._waiting.pop()
        except IndexError:
            return
        run()

    def run(self, application: Application, environ: dict[str, Any]) -> None:
        """Call the application, and send what it returns."""
        try:
            pieces = call_application(application, environ, self.start_response)
            with closing(pieces):
                for piece in pieces:
                    if self._head is None:
                        break
                    self.write(piece)
                    if self._gone:
                        return
            if self._head is None:
                raise RuntimeError("the application did not call start_response")
            self._body.check(ended=True)
        except BaseException:  # SystemExit, too, ends nothing but the response.
            self._threads.send(partial(self._fail, Failure()))
        else:
            self._threads.send(self._finish)

    def start_response(
        self, status: str, headers: Any, exc_info: Any = None
    ) -> Callable[[bytes], object]:
        """Take the head of the response, which is sent with the first byte of the body.

        Until then it may be replaced. Raises ValueError or TypeError for a head that can't be sent,
        and after the head is sent the exception in ``exc_info``, or RuntimeError without one.
        """
        if self._head_sent:
            late = RuntimeError("start_response was called after a part of the body was sent")
            raise exc_info[1] if exc_info else late
        head = self._head = check_head(status, headers)
        # By the request's own method: the application may have changed the one in its environ.
        has_body = self._request.method != b"HEAD" and head.status not in (204, 304)
        self._body = BodyLength(head.length if has_body else None)
        return self.write

    def write(self, data: bytes) -> None:
        """Send a piece of the body; return when the connection can take more.

        Raises ValueError if the body becomes longer than its Content-Length.
        """
        if not isinstance(data, bytes):
            raise TypeError(f"a body consists of bytes, not {type(data).__name__}")
        data = self._body.take(data)
        if self._is_whole(data):
            self._head_sent = True
            self._outbox.append(data)
            self._threads.send(self._send_whole)
            return
        for start in range(0, len(data), _PART):
            self._head_sent = True
            self._threads.call(partial(self._send, data[start : start + _PART]))
        self._body.check()

    def _is_whole(self, data: bytes) -> bool:
        """Return whether a piece is the whole body, and can be sent without waiting for that."""
        limit = min(_PART, self._limits.max_buffered)
        return (
            data != b""
            and not self._head_sent
            and self._body.length == len(data) <= limit
            and self._request.clientproto == b"HTTP/1.1"
            and len(self._outbox) < _MAX_OUTBOX
        )

    # What is called on the reactor

    def _send_whole(self) -> None:
        """Write a body that comes in one piece, with its head."""
        data = self._outbox.popleft()
        if self._gone:
            return
        head = self._head
        assert head is not None
        own = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head.headers]
        write_whole(self._request, head.status, head.phrase.encode("latin-1"), own, data)

    def _send(self, data: bytes) -> Deferred[None] | None:
        """Write to the connection; the Deferred fires when the application may go on."""
        if self._gone:
            return None
        request = self._request
        if not request.startedWriting:
            self._write_head()
            request.registerProducer(self, True)
        request.write(data)
        self._parts += 1
        waiting = unsent(request.transport) + self._parts * _OVERHEAD
        # A transport that has not asked for a pause would not say when it has sent everything.
        if self._paused and waiting > self._limits.max_buffered:
            self._room = self._room or Deferred()
        return self._room

    def _finish(self) -> None:
        """End a response that is complete."""
        request = self._request
        assert self._head is not None
        if self._head.status == 500:
            self._failed()
            _log.error(
                "the application answered 500 at {path} for {peer}: its own log has the reason",
                event="application_failed",
                **self._log_fields(),
            )
        if self._gone:
            return
        if request.producer is not None:
            request.unregisterProducer()
        elif not request.startedWriting:
            self._write_head()
        request.finish()

    def _fail(self, failure: Failure) -> None:
        """Log a failure, and answer 500 or, if it is too late for that, break off."""
        self._failed()
        _log.failure(
            "the application failed at {path} for {peer}",
            failure=failure,
            event="view_failed",
            **self._log_fields(),
        )
        if not self._gone:
            write_failure(self._request)

    def _write_head(self) -> None:
        assert self._head is not None
        request = self._request
        request.setResponseCode(self._head.status, self._head.phrase.encode("latin-1"))
        for name, value in self._head.headers:
            request.responseHeaders.addRawHeader(name.encode("latin-1"), value.encode("latin-1"))

    def _log_fields(self) -> dict[str, Any]:
        return {"path": path_of(self._request), "peer": self._request.peer}

    # What the transport calls

    def pauseProducing(self) -> None:
        """Note that the transport's buffer is full; it says so at each write until it is empty."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Let the application go on."""
        self._paused, self._parts = False, 0
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)

    def stopProducing(self) -> None:
        """Let the application go on, to its end: the client has left."""
        self._gone = True
        self._waiting.clear()
        self.resumeProducing()
