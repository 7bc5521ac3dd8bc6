"""Blocking views: their threads, and the WebSocket and publisher that block with them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextvars import ContextVar, copy_context
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, Literal, Protocol, cast

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import blockingCallFromThread
from twisted.python import log
from twisted.python.threadable import isInIOThread
from twisted.python.threadpool import ThreadPool

from pushd.access.closing import NORMAL
from pushd.access.limits import Quota
from pushd.errors import ConversationOver, NoMoreMessages, ThreadsBusy
from pushd.protocols.websocket.grace import TELLING_COST, Grace
from pushd.protocols.websocket.socket import WebSocket
from pushd.topics.presence import PresenceList
from pushd.topics.publisher import Publisher
from pushd.topics.scheduled import ScheduledPublication
from pushd.views.request import Request, View

# Seconds that each further call after the end takes, so that a thread that ignores its error cannot
# keep a core busy.
_THROTTLE = 0.05

# The WebSocket of the view whose run the code belongs to. Helper threads have none.
_own_websocket: ContextVar[BlockingWebSocket | None] = ContextVar("own_websocket", default=None)


class Bridge(Protocol):
    """Lets code in other threads call functions on the reactor's thread."""

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function on the reactor's thread; return its result, or that of its Deferred."""

    def send(self, function: Callable[[], object]) -> None:
        """Let a function be called on the reactor's thread, and go on. It must not raise."""


class BlockingWebSocket:
    """The WebSocket of a view in a thread: the methods of ``WebSocket``, each of which blocks.

    After the end of the conversation ``wait`` gives the messages that arrived before it, then None,
    and ``send``, ``close`` and ``subscribe`` do nothing. When its grace is over, the view is ended
    by ConversationOver at its next call; calls of other views and threads are not.
    """

    def __init__(self, websocket: WebSocket, bridge: Bridge) -> None:
        self._websocket = websocket
        websocket.used_by_threads = True
        self._bridge = bridge
        # The calls of other threads are counted apart, and have no time-out.
        self._grace_of_others = Grace()

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was negotiated, or None."""
        return self._websocket.subprotocol

    @property
    def close_code(self) -> int | None:
        """How the conversation ended; see ``WebSocket.close_code``."""
        return self._websocket.close_code

    @property
    def close_reason(self) -> str:
        """The reason that the side gave that closed first, or an empty text."""
        return self._websocket.close_reason

    def accept(self, subprotocol: str | None = None) -> None:
        """Accept the handshake now; see ``WebSocket.accept``."""
        self._call(partial(self._websocket.accept, subprotocol))

    def wait(self, timeout: float | None = None) -> str | bytes | None:
        """Wait for the next message; return None at the end of the conversation."""
        message: str | bytes | None = self._call(partial(self._websocket.wait, timeout))
        if message is None:
            self._count_telling_call()
        return message

    def read(self, fallback: str | bytes | None = None) -> str | bytes | None:
        """Return the next message if one has arrived, else the fallback; never wait."""
        message: str | bytes | None = self._call(self._websocket.read)
        if message is None:
            self._count_telling_call()
            return fallback
        return message

    def count_messages(self) -> int:
        """Return the number of unread messages."""
        count: int = self._call(self._websocket.count_messages)
        if count == 0:
            self._count_telling_call()
        return count

    def has_messages(self) -> bool:
        """Whether there are unread messages."""
        return self.count_messages() > 0

    def send(self, data: str | bytes | bytearray | memoryview, *, binary: bool = False) -> None:
        """Send one message; return when the connection can take more."""
        self._call(partial(self._websocket.send, data, binary=binary))
        self._count_call()

    def close(self, code: int = NORMAL.code, reason: str = "") -> None:
        """Close the WebSocket; return when the connection is closed."""
        self._call(partial(self._websocket.close, code, reason))

    def subscribe(
        self, topic: str, after: str | None = None, *, format: Literal["json"] | None = None
    ) -> bool:
        """Subscribe the browser to a topic; see ``WebSocket.subscribe``."""
        recovered: bool = self._call(
            partial(self._websocket.subscribe, topic, after, format=format)
        )
        self._count_call()
        return recovered

    def presence(self, topic: str) -> PresenceList:
        """Return who is present at a topic; see ``WebSocket.presence``."""
        listed: PresenceList = self._call(partial(self._websocket.presence, topic))
        return listed

    def unsubscribe(self, topic: str) -> None:
        """End the browser's subscription to a topic."""
        self._call(partial(self._websocket.unsubscribe, topic))

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

    def _count_call(self, cost: int = 1) -> None:
        """Count a call of the view after the end; end the view if it goes on with that.

        Calls of other threads are let pass: a loop over many WebSockets comes to its end.
        """
        grace = self._websocket.grace
        if grace is not None and self._is_own and (not grace.allows(cost) or grace.is_over):
            Event().wait(_THROTTLE)
            raise ConversationOver

    def _count_telling_call(self) -> None:
        """Count a call that told of the end, if that has come; end its loop in any thread."""
        self._count_call(TELLING_COST)
        if self._websocket.grace is None or self._is_own:
            return
        if not self._grace_of_others.allows(TELLING_COST):
            Event().wait(_THROTTLE)
            raise NoMoreMessages("the conversation is over")

    @property
    def _is_own(self) -> bool:
        """Whether the call comes from the view that this WebSocket was made for."""
        return _own_websocket.get() is self

    def _call(self, function: Callable[[], Any]) -> Any:
        """Call a method of the WebSocket; end its view if that has had its grace."""
        grace = self._websocket.grace
        if grace is not None and grace.is_over and self._is_own:
            Event().wait(_THROTTLE)
            raise ConversationOver
        return self._bridge.call(function)


class BlockingScheduledPublication:
    """The handle of a scheduled publication, for views in threads."""

    def __init__(self, push: ScheduledPublication, bridge: Bridge) -> None:
        self._push = push
        self._bridge = bridge

    @property
    def id(self) -> str:
        """Its id in ``/schedules``."""
        return self._push.id

    def cancel(self) -> bool:
        """Cancel it; return False if it had ended before."""
        cancelled: bool = self._bridge.call(self._push.cancel)
        return cancelled


class BlockingPublisher:
    """The publisher of a view in a thread, which blocks."""

    def __init__(self, publisher: Publisher, bridge: Bridge) -> None:
        self._publisher = publisher
        self._bridge = bridge

    def publish(self, topic: str, data: Any, **options: Any) -> Any:
        """Publish; see ``Publisher.publish``. Wait until what is scheduled is kept."""
        done = self._bridge.call(partial(self._publisher.publish, topic, data, **options))
        if not isinstance(done, ScheduledPublication):
            return done
        self._bridge.call(done.kept)
        return BlockingScheduledPublication(done, self._bridge)

    def last_id(self, topic: str) -> str:
        """Return a topic's last id; see ``Publisher.last_id``."""
        id: str = self._bridge.call(partial(self._publisher.last_id, topic))
        return id

    def presence(self, topic: str) -> PresenceList:
        """Return who is present at a topic; see ``Publisher.presence``."""
        listed: PresenceList = self._bridge.call(partial(self._publisher.presence, topic))
        return listed

    def revoke(self, topic: str | None = None, subject: str | None = None) -> int:
        """End subscriptions; see ``Publisher.revoke``."""
        ended: int = self._bridge.call(partial(self._publisher.revoke, topic, subject))
        return ended


class DaemonThreads(ThreadPool):
    """A thread pool of daemon threads, which do not keep the process from exiting.

    :param limit: the maximum number of threads.
    """

    def __init__(self, limit: int, name: str) -> None:
        super().__init__(minthreads=0, maxthreads=limit, name=name)
        self.threadFactory = cast(Any, partial(Thread, daemon=True))


class PageThreads:
    """Daemon threads with one queue, for the pages of an application.

    A thread is started when a call would wait, up to the limit. Twisted's pool takes ten times as
    long to pass on a call: a page of an application takes a tenth less CPU without it.

    :param limit: the maximum number of threads.
    """

    def __init__(self, limit: int, name: str) -> None:
        #: The maximum number of threads.
        self.limit = limit
        self._name = name
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._threads = 0
        # The number of calls that are not done, and what guards it.
        self._open = 0
        self._lock = Lock()

    @property
    def busy(self) -> int:
        """The number of threads at work."""
        return min(self._open, self._threads)

    @property
    def waiting(self) -> int:
        """The number of calls that wait for a thread."""
        return max(0, self._open - self._threads)

    def callInThread(self, function: Callable[[], object]) -> None:
        """Call a function in a thread, once one is free. Called on the reactor's thread only."""
        with self._lock:
            self._open += 1
        if self._threads < min(self._open, self.limit):
            Thread(target=self._work, name=self._name, daemon=True).start()
            self._threads += 1
        self._calls.put(function)

    def stop(self) -> None:
        """End each thread when it has nothing to do, and start no more."""
        self.limit = 0
        for _ in range(self._threads):
            self._calls.put(None)

    def _work(self) -> None:
        while (function := self._calls.get()) is not None:
            try:
                function()
            except BaseException:  # Not even SystemExit ends a thread that others wait for.
                log.err()
            # An idle thread must not keep what its last call refers to.
            del function
            with self._lock:
                self._open -= 1


class ThreadPlaces:
    """The places for blocking views: one for each that runs, and more for those that do not end.

    One client may have half of the places, counting its views that do not end, so that it cannot
    keep all others out.

    :param limit: how many blocking views may run at a time.
    :param max_stragglers: how many more may go on after their conversation and its grace.
    """

    #: Views beyond the limit are refused, so none waits.
    waiting = 0

    def __init__(self, limit: int, max_stragglers: int) -> None:
        self._limit = limit
        self._max_stragglers = max_stragglers
        self._share = (limit + 1) // 2
        # Of the views that run, and of those whose grace is over: what fires at their end. With the
        # former, the client.
        self._running: dict[Deferred[Any], Hashable] = {}
        self._abandoned: set[Deferred[Any]] = set()
        self._clients = Quota()

    @property
    def busy(self) -> int:
        """The number of places in use."""
        return len(self._running) - self.stragglers

    @property
    def limit(self) -> int:
        """How many views may run at a time."""
        return self._limit

    @property
    def stragglers(self) -> int:
        """The number of views that go on without a place."""
        return min(len(self._abandoned), self._max_stragglers)

    @property
    def max_stragglers(self) -> int:
        """How many views may go on without a place; more than that keep theirs."""
        return self._max_stragglers

    def take(self, finished: Deferred[Any], client: Hashable = None) -> None:
        """Take a place for a view. Raises ThreadsBusy if none is free, or none for this client.

        :param finished: fires when the view has ended.
        :param client: what the places of a client are counted by; None if they are not.
        """
        if self.busy >= self._limit:
            kept = len(self._abandoned) - self.stragglers
            raise ThreadsBusy(
                f"all {self._limit} threads for blocking views are in use, {kept} of them by views "
                "whose conversation is over"
            )
        if client is not None and not self._clients.take(client, self._share):
            raise ThreadsBusy(f"{client} has {self._share} threads, as many as one client may")
        self._running[finished] = client

    def abandon(self, finished: Deferred[Any]) -> bool:
        """Free the place of a view whose grace is over, now or when another straggler ends.

        Return whether it is free now.
        """
        if finished in self._running:
            self._abandoned.add(finished)
        return len(self._abandoned) <= self._max_stragglers

    def release(self, finished: Deferred[Any]) -> None:
        """Free the place of a view that ends."""
        client = self._running.pop(finished, None)
        if client is not None:
            self._clients.release(client)
        self._abandoned.discard(finished)


class ViewThreads(ThreadPlaces):
    """The threads of blocking views.

    :param reactor: whose thread WebSockets are used on.
    :param limit: how many blocking views may run at a time.
    :param max_stragglers: how many more may go on after their conversation and its grace.
    :param client_of: returns what a client is counted by, given the peer of its request; None for
        one that may have all places.
    :param call: calls a function on the reactor; returns a Deferred of its result, which may be
        that of a coroutine.
    """

    def __init__(
        self,
        reactor: IReactorFromThreads,
        limit: int,
        max_stragglers: int = 0,
        client_of: Callable[[str], Hashable] = lambda peer: None,
        call: Callable[[Callable[[], Any]], Deferred[Any]] = maybeDeferred,
    ) -> None:
        super().__init__(limit, max_stragglers)
        self._call = call
        self._reactor = reactor
        self._client_of = client_of
        self._pool = DaemonThreads(limit + max_stragglers, "views")
        self._others: dict[str, PageThreads] = {}

    @property
    def pools(self) -> dict[str, ViewThreads | PageThreads]:
        """All thread pools, by the kind of work."""
        return {"view": self, **self._others}

    def run(self, view: View, request: Request) -> Deferred[Any]:
        """Call the view in a thread; the Deferred fires with its result or its Failure.

        Raises ThreadsBusy if no thread is free.
        """
        finished: Deferred[Any] = Deferred()
        self.take(finished, self._client_of(request.peer))
        try:
            if not self._pool.started:
                self._pool.start()
            self._pool.callInThreadWithCallback(
                partial(self._reactor.callFromThread, self._finish, finished),
                partial(call_blocking, view, request, self),
            )
        except BaseException:  # The system has no more threads, for example.
            self.release(finished)
            raise
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

    def send(self, function: Callable[[], object]) -> None:
        """Let a function be called on the reactor's thread, and go on."""
        self._reactor.callFromThread(function)

    def make_page_pool(self, limit: int) -> PageThreads:
        """Make a pool of threads for an application's pages, which wait if none is free."""
        pool = self._others["page"] = PageThreads(limit, "pages")
        return pool

    def stop(self) -> None:
        """Accept no more views, and end each thread when it has nothing to do."""
        self._limit = 0  # A view that came now would wait for a thread forever.
        if self._pool.started:
            self._pool.adjustPoolsize(0, 0)
        for pool in self._others.values():
            pool.stop()

    def _finish(self, finished: Deferred[Any], success: bool, result: Any) -> None:
        self.release(finished)
        # The view may have returned a Deferred or a coroutine.
        self._call(lambda: result).chainDeferred(finished)


def call_blocking(view: View, request: Request, bridge: Bridge) -> Any:
    """Call a view in this thread, with a request whose WebSocket and publisher block.

    It has a context of its own, by which its calls of its WebSocket are known: one thread runs
    many views, and a view may call the WebSocket of another.
    """
    request = blocking(request, bridge)

    def call() -> Any:
        _own_websocket.set(request.websocket)
        return view(request)

    return copy_context().run(call)


def blocking(request: Request, bridge: Bridge) -> Request:
    """Return a request whose WebSocket and publisher block, for a view in a thread."""
    if request.websocket is None and request.publisher is None:
        return request
    websocket = request.websocket and BlockingWebSocket(request.websocket, bridge)
    publisher = request.publisher and BlockingPublisher(request.publisher, bridge)
    return replace(request, websocket=websocket, publisher=publisher)
