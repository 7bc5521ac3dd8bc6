"""Views that block: each in a thread, with a WebSocket that blocks as well."""

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

# How often a view may look for messages and find none after the end of its conversation.
_PATIENCE = 100


class Bridge(Protocol):
    """The way from a view's thread to the reactor's and back."""

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function on the reactor's thread; wait for what its Deferred fires with."""


class BlockingWebSocket:
    """A WebSocket for views in threads: the names of ``WebSocket``, and each call waits.

    After the end of the conversation the view is told once, with None, and then ended: by
    ConversationOver, at its next ``wait`` or ``send``. In other threads nothing happens then.
    """

    def __init__(self, websocket: WebSocket, bridge: Bridge) -> None:
        self._websocket = websocket
        self._bridge = bridge
        # The thread that this is made in is the view's own: it is ended, others are not bothered.
        self._owner = get_ident()
        self._told = False
        self._looked_in_vain = 0

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was agreed on, or None."""
        return self._websocket.subprotocol

    def accept(self, subprotocol: str | None = None) -> None:
        """Open the connection now; see ``WebSocket.accept``."""
        self._bridge.call(partial(self._websocket.accept, subprotocol))

    def wait(self, timeout: float | None = None) -> str | bytes | None:
        """Wait for the next message; None when the conversation is over."""
        if self._told:
            self._end_owner()
        message: str | bytes | None = self._bridge.call(partial(self._websocket.wait, timeout))
        self._told = message is None
        return message

    def read(self, fallback: str | bytes | None = None) -> str | bytes | None:
        """Give the next message if one is here, else the fallback; never wait for one."""
        message: str | bytes | None = self._bridge.call(self._websocket.read)
        if message is None:
            self._look_in_vain()
            return fallback
        return message

    def count_messages(self) -> int:
        """How many messages wait to be read."""
        count: int = self._bridge.call(self._websocket.count_messages)
        if count == 0:
            self._look_in_vain()
        return count

    def has_messages(self) -> bool:
        """Whether a message waits to be read."""
        return self.count_messages() > 0

    def send(self, data: str | bytes, *, binary: bool = False) -> None:
        """Send one message; return once the connection can take more."""
        if self._websocket.is_closed():
            self._end_owner()
        self._bridge.call(partial(self._websocket.send, data, binary=binary))

    def close(self, code: int = NORMAL.code, reason: str = "") -> None:
        """Close the conversation; return when the connection is gone."""
        self._bridge.call(partial(self._websocket.close, code, reason))

    def subscribe(self, topic: str, after: str | None = None) -> bool:
        """Let the browser have what is published to a topic; see ``WebSocket.subscribe``."""
        recovered: bool = self._bridge.call(partial(self._websocket.subscribe, topic, after))
        return recovered

    def unsubscribe(self, topic: str) -> None:
        """Let the browser have no more of a topic."""
        self._bridge.call(partial(self._websocket.unsubscribe, topic))

    def is_closed(self) -> bool:
        """Whether either side has closed or vanished."""
        return self._websocket.is_closed()

    def __iter__(self) -> BlockingWebSocket:
        return self

    def __next__(self) -> str | bytes:
        message = self.wait()
        if message is None:
            raise StopIteration
        return message

    def _look_in_vain(self) -> None:
        """End a view that goes on looking for messages after the end of its conversation."""
        if self._websocket.is_closed():
            self._looked_in_vain += 1
            if self._looked_in_vain > _PATIENCE:
                self._end_owner()

    def _end_owner(self) -> None:
        if get_ident() == self._owner:
            raise ConversationOver


class BlockingScheduledPublication:
    """A timed push for views in threads."""

    def __init__(self, push: ScheduledPublication, bridge: Bridge) -> None:
        self._push = push
        self._bridge = bridge

    @property
    def id(self) -> str:
        """Its name in ``/schedules``."""
        return self._push.id

    @property
    def done(self) -> int:
        """How many of its publications are made."""
        return self._push.done

    def cancel(self) -> None:
        """End it."""
        self._bridge.call(self._push.cancel)


class BlockingPublisher:
    """A publisher for views in threads: each call waits."""

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
    """A pool of threads that do not keep the process from ending, even while they sleep.

    :param limit: how many there may be.
    """

    def __init__(self, limit: int, name: str) -> None:
        super().__init__(minthreads=0, maxthreads=limit, name=name)
        self.threadFactory = cast(Any, partial(Thread, daemon=True))

    @property
    def busy(self) -> int:
        """How many are at work just now."""
        return len(self.working)

    @property
    def limit(self) -> int:
        """How many there may be."""
        return self.max

    @property
    def waiting(self) -> int:
        """How much work waits for one."""
        # What Twisted has for those who ask, by the name that it had when there was a queue.
        return self._queue.qsize()


class ViewThreads:
    """A pool of threads for views that block.

    :param reactor: whose thread the WebSockets live on.
    :param limit: how many views may block at once.
    """

    def __init__(self, reactor: IReactorFromThreads, limit: int) -> None:
        self._reactor = reactor
        self._limit = limit
        self._busy = 0
        self._pool = DaemonThreads(limit, "views")
        self._others: dict[str, DaemonThreads] = {}

    @property
    def busy(self) -> int:
        """How many threads run a view just now."""
        return self._busy

    @property
    def limit(self) -> int:
        """How many may."""
        return self._limit

    #: Views beyond the limit are refused; none waits.
    waiting = 0

    @property
    def pools(self) -> dict[str, ViewThreads | DaemonThreads]:
        """All threads that there may be, by what they do."""
        return {"view": self, **self._others}

    def run(self, view: View, request: Request) -> Deferred[Any]:
        """Call the view in a thread; the Deferred fires with what it returns or raises.

        Raises ThreadsBusy when there is no thread to be had.
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
        """Call a function on the reactor's thread; wait for what its Deferred fires with.

        Raises RuntimeError on the reactor's own thread, which would wait for itself for ever.
        """
        if isInIOThread():
            raise RuntimeError(
                "a blocking WebSocket, used on the reactor's thread: make the view async def, "
                "and what is around it as well, or use functools.wraps there"
            )
        return blockingCallFromThread(self._reactor, function)

    def make_page_pool(self, limit: int) -> DaemonThreads:
        """Make a pool of so many more threads, for pages, which may wait until one has time."""
        pool = self._others["page"] = DaemonThreads(limit, "pages")
        pool.start()
        return pool

    def stop(self) -> None:
        """Let go of the threads that have nothing to do, and of the others once they have not."""
        self._limit = 0  # Who comes now would wait for a thread for ever.
        for pool in (self._pool, *self._others.values()):
            if pool.started:
                pool.adjustPoolsize(0, 0)

    def _finish(self, finished: Deferred[Any], success: bool, result: Any) -> None:
        self._busy -= 1
        # What it returned may have to be waited for.
        maybeDeferred(lambda: result).chainDeferred(finished)


def blocking(request: Request, bridge: Bridge) -> Request:
    """The same request for a view in a thread."""
    if request.websocket is None and request.publisher is None:
        return request
    websocket = request.websocket and BlockingWebSocket(request.websocket, bridge)
    publisher = request.publisher and BlockingPublisher(request.publisher, bridge)
    return replace(request, websocket=websocket, publisher=publisher)
