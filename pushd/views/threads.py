"""Blocking views: their threads, and the WebSocket and publisher that block with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from threading import Thread, get_ident
from typing import Any, Protocol, cast

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import blockingCallFromThread
from twisted.python.threadable import isInIOThread
from twisted.python.threadpool import ThreadPool

from pushd.access.closing import NORMAL
from pushd.errors import ConversationOver, ThreadsBusy
from pushd.protocols.websocket.socket import WebSocket
from pushd.topics.publisher import Publisher
from pushd.topics.scheduled import ScheduledPublication
from pushd.views.request import Request, View

# How often a view may poll for messages after the end of its conversation.
_MAX_POLLS = 100


class Bridge(Protocol):
    """Lets code in other threads call functions on the reactor's thread."""

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function on the reactor's thread; return its result, or that of its Deferred."""


class BlockingWebSocket:
    """The WebSocket of a view in a thread: the methods of ``WebSocket``, each of which blocks.

    At the end of the conversation ``wait`` returns None once. After that the view is ended by
    ConversationOver at its next ``wait`` or ``send``; in other threads these do nothing.
    """

    def __init__(self, websocket: WebSocket, bridge: Bridge) -> None:
        self._websocket = websocket
        self._bridge = bridge
        # It is made in the view's own thread, the only one in which a call may end the view.
        self._owner = get_ident()
        self._end_seen = False
        self._polls_after_end = 0

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was negotiated, or None."""
        return self._websocket.subprotocol

    def accept(self, subprotocol: str | None = None) -> None:
        """Accept the handshake now; see ``WebSocket.accept``."""
        self._bridge.call(partial(self._websocket.accept, subprotocol))

    def wait(self, timeout: float | None = None) -> str | bytes | None:
        """Wait for the next message; return None at the end of the conversation."""
        if self._end_seen:
            self._end_owner()
        message: str | bytes | None = self._bridge.call(partial(self._websocket.wait, timeout))
        self._end_seen = message is None
        return message

    def read(self, fallback: str | bytes | None = None) -> str | bytes | None:
        """Return the next message if one has arrived, else the fallback; never wait."""
        message: str | bytes | None = self._bridge.call(self._websocket.read)
        if message is None:
            self._count_poll()
            return fallback
        return message

    def count_messages(self) -> int:
        """Return the number of unread messages."""
        count: int = self._bridge.call(self._websocket.count_messages)
        if count == 0:
            self._count_poll()
        return count

    def has_messages(self) -> bool:
        """Whether there are unread messages."""
        return self.count_messages() > 0

    def send(self, data: str | bytes, *, binary: bool = False) -> None:
        """Send one message; return when the connection can take more."""
        if self._websocket.is_closed():
            self._end_owner()
        self._bridge.call(partial(self._websocket.send, data, binary=binary))

    def close(self, code: int = NORMAL.code, reason: str = "") -> None:
        """Close the WebSocket; return when the connection is closed."""
        self._bridge.call(partial(self._websocket.close, code, reason))

    def subscribe(self, topic: str, after: str | None = None) -> bool:
        """Subscribe the browser to a topic; see ``WebSocket.subscribe``."""
        recovered: bool = self._bridge.call(partial(self._websocket.subscribe, topic, after))
        return recovered

    def unsubscribe(self, topic: str) -> None:
        """End the browser's subscription to a topic."""
        self._bridge.call(partial(self._websocket.unsubscribe, topic))

    def is_closed(self) -> bool:
        """Whether either side has closed, or the connection is lost."""
        return self._websocket.is_closed()

    def __iter__(self) -> BlockingWebSocket:
        return self

    def __next__(self) -> str | bytes:
        message = self.wait()
        if message is None:
            raise StopIteration
        return message

    def _count_poll(self) -> None:
        """End a view that keeps polling for messages after the end of its conversation."""
        if self._websocket.is_closed():
            self._polls_after_end += 1
            if self._polls_after_end > _MAX_POLLS:
                self._end_owner()

    def _end_owner(self) -> None:
        if get_ident() == self._owner:
            raise ConversationOver


class BlockingScheduledPublication:
    """The handle of a scheduled publication, for views in threads."""

    def __init__(self, push: ScheduledPublication, bridge: Bridge) -> None:
        self._push = push
        self._bridge = bridge

    @property
    def id(self) -> str:
        """Its id in ``/schedules``."""
        return self._push.id

    @property
    def done(self) -> int:
        """The number of publications made so far."""
        return self._push.done

    def cancel(self) -> None:
        """Cancel it."""
        self._bridge.call(self._push.cancel)


class BlockingPublisher:
    """The publisher of a view in a thread, which blocks."""

    def __init__(self, publisher: Publisher, bridge: Bridge) -> None:
        self._publisher = publisher
        self._bridge = bridge

    def publish(self, topic: str, data: str | bytes, **times: Any) -> Any:
        """Publish; see ``Publisher.publish``."""
        done = self._bridge.call(partial(self._publisher.publish, topic, data, **times))
        return (
            BlockingScheduledPublication(done, self._bridge)
            if isinstance(done, ScheduledPublication)
            else done
        )


class DaemonThreads(ThreadPool):
    """A thread pool of daemon threads, which do not keep the process from exiting.

    :param limit: the maximum number of threads.
    """

    def __init__(self, limit: int, name: str) -> None:
        super().__init__(minthreads=0, maxthreads=limit, name=name)
        self.threadFactory = cast(Any, partial(Thread, daemon=True))

    @property
    def busy(self) -> int:
        """The number of threads at work."""
        return len(self.working)

    @property
    def limit(self) -> int:
        """The maximum number of threads."""
        return self.max

    @property
    def waiting(self) -> int:
        """The number of calls that wait for a thread."""
        # Twisted still has a queue object by this name, for its size alone.
        return self.q.qsize()


class ViewThreads:
    """The threads of blocking views.

    :param reactor: whose thread WebSockets are used on.
    :param limit: how many blocking views may run at a time.
    """

    def __init__(self, reactor: IReactorFromThreads, limit: int) -> None:
        self._reactor = reactor
        self._limit = limit
        self._busy = 0
        self._pool = DaemonThreads(limit, "views")
        self._others: dict[str, DaemonThreads] = {}

    @property
    def busy(self) -> int:
        """The number of views that run."""
        return self._busy

    @property
    def limit(self) -> int:
        """How many views may run at a time."""
        return self._limit

    #: Views beyond the limit are refused, so none waits.
    waiting = 0

    @property
    def pools(self) -> dict[str, ViewThreads | DaemonThreads]:
        """All thread pools, by the kind of work."""
        return {"view": self, **self._others}

    def run(self, view: View, request: Request) -> Deferred[Any]:
        """Call the view in a thread; the Deferred fires with its result or its Failure.

        Raises ThreadsBusy if no thread is free.
        """
        if self._busy >= self._limit:
            raise ThreadsBusy
        self._busy += 1
        if not self._pool.started:
            self._pool.start()
        finished: Deferred[Any] = Deferred()
        self._pool.callInThreadWithCallback(
            partial(self._reactor.callFromThread, self._finish, finished),
            lambda: view(blocking(request, self)),
        )
        return finished

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function on the reactor's thread; return its result, or that of its Deferred.

        Raises RuntimeError on the reactor's own thread, which would wait for itself forever.
        """
        if isInIOThread():
            raise RuntimeError(
                "a blocking WebSocket was used on the reactor's thread: make the view and the "
                "decorators around it async def, or let these use functools.wraps"
            )
        return blockingCallFromThread(self._reactor, function)

    def make_page_pool(self, limit: int) -> DaemonThreads:
        """Make a pool of threads for an application's pages, which wait if none is free."""
        pool = self._others["page"] = DaemonThreads(limit, "pages")
        pool.start()
        return pool

    def stop(self) -> None:
        """Accept no more views, and end each thread when it has nothing to do."""
        self._limit = 0  # A view that came now would wait for a thread forever.
        for pool in (self._pool, *self._others.values()):
            if pool.started:
                pool.adjustPoolsize(0, 0)

    def _finish(self, finished: Deferred[Any], success: bool, result: Any) -> None:
        self._busy -= 1
        # The view may have returned a Deferred or a coroutine.
        maybeDeferred(lambda: result).chainDeferred(finished)


def blocking(request: Request, bridge: Bridge) -> Request:
    """Return a request whose WebSocket and publisher block, for a view in a thread."""
    if request.websocket is None and request.publisher is None:
        return request
    websocket = request.websocket and BlockingWebSocket(request.websocket, bridge)
    publisher = request.publisher and BlockingPublisher(request.publisher, bridge)
    return replace(request, websocket=websocket, publisher=publisher)
