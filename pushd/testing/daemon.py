"""Daemon in memory, with a clock that the test controls: for tests of pushd and of views.

    daemon = Daemon({"/echo/": echo})
    browser = daemon.connect("/echo/")
    browser.send("hello")
    assert browser.messages == ["hello"]

Time passes only when the test lets it: ``daemon.advance(0.5)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import datetime
from functools import partial
from threading import Event, RLock
from types import TracebackType
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from pushd.access.limits import Limits
from pushd.options.event_loop import ASYNCIO
from pushd.options.parsers import parse_folder
from pushd.options.settings import Settings
from pushd.schedule.asyncio_task import call_on_loop
from pushd.schedule.coalescing import CoalescingClock
from pushd.service.build import Runtime, build
from pushd.service.process.event_loop import EventLoopService
from pushd.testing.alternating_threads import AlternatingThreads
from pushd.testing.browser import Browser, make_protocol
from pushd.testing.connection import Answer, RawConnection, RecordingProtocol
from pushd.testing.event_loop import VirtualEventLoop
from pushd.testing.memory_network import MemoryNetwork
from pushd.views.inprocess import InProcess
from pushd.views.request import View
from pushd.views.routes import Routes
from pushd.views.threads import BlockingPublisher

# Host of all requests, unless a test chooses another.
_HOST = "localhost:8080"

# Seconds between two looks at a condition that is waited for, and how many looks are taken.
_POLL = 0.005
_POLLS = 2000

_LIMITS = [one for one in fields(Limits) if one.init]


class Daemon:
    """A daemon without ports; everything above the sockets is real.

    When a call of it or of its browsers returns, all effects of the call have happened. Blocking
    views take turns with the test, in threads.

    :param views: the mapping of views; None for the demo's.
    :param host: the ``Host`` of all requests to the public port, and that of the pages' origin.
    :param settings: other settings, by the names of ``pushd.options.settings.Settings``, and limits
        by those of ``pushd.access.limits.Limits``, such as ``max_message=1000``. A folder may be
        given as text: ``web="web"``. A stop closes all connections at once unless ``drain`` is
        given. With ``loop="asyncio"``, views may await what is asyncio's.
    """

    def __init__(
        self, views: Mapping[str, View] | None = None, *, host: str = _HOST, **settings: Any
    ) -> None:
        if views is not None:
            settings["routes"] = views if isinstance(views, Routes) else Routes(views)
        if isinstance(settings.get("web"), str):
            settings["web"] = parse_folder(settings["web"])
        limits = {one.name: settings.pop(one.name) for one in _LIMITS if one.name in settings}
        settings["limits"] = replace(settings.get("limits", Limits()), **{"drain": 0, **limits})
        self.settings = Settings(**settings)
        #: The ``Host`` of all requests to the public port.
        self.host = host
        #: The clock that views see; a memory reactor for everything else.
        self.clock = MemoryReactorClock()
        uses_asyncio = self.settings.loop == ASYNCIO or self.settings.asgi is not None
        self._loop = VirtualEventLoop(self.clock) if uses_asyncio else None
        self._network = MemoryNetwork()
        # Whether the daemon runs at the moment, in the thread that has the lock: the test's, or one
        # that publishes. (The body of an async test of Django's has a thread of its own.)
        self._running, self._lock = False, RLock()
        self._service = build(
            self.settings,
            Runtime(
                reactor=self.clock,
                threads=AlternatingThreads(
                    self.settings.threads,
                    self.settings.straggler_limit,
                    self._call_for_test,
                    partial(call_on_loop, self.clock, self._loop),
                ),
                wall=self.clock.seconds,
                random=lambda: 0.5,
                loop=self._loop,
            ),
        )
        if self._loop is not None:
            self._service.addService(EventLoopService(self._loop))
        self._service.privilegedStartService()
        self._service.startService()
        self._sites = [server[1] for server in self.clock.tcpServers]
        self._stopped: Deferred[Any] | None = None

    def connect(
        self,
        path: str,
        *,
        subprotocols: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        origin: str | None = "",
    ) -> Browser:
        """Ask for a WebSocket as a browser does; the ``Browser`` says whether it was opened.

        :param origin: the page's origin; by default that of the daemon itself, None for a client
            that is no browser.
        """
        client = make_protocol(
            f"ws://{self.host}{path}",
            self.clock,
            subprotocols=subprotocols,
            headers=headers,
            origin=f"http://{self.host}" if origin == "" else origin,
        )
        transport = self._network.connect(self._sites[0], client)
        self.settle()
        return Browser(self.settle, client, transport, path)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer | None:
        """Send a GET; see ``request``."""
        return self.request("GET", path, headers)

    def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        control: bool = False,
    ) -> Answer | None:
        """Send a plain HTTP request; return the response, or None if it is not complete yet.

        :param control: send it to the control port, as for ``/metrics`` and ``/connections``.
        """
        host = _HOST if control else self.host  # The control port is called localhost.
        fields = {"Host": host, "Connection": "close", **(headers or {})}
        if body:
            fields.setdefault("Content-Length", str(len(body)))
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        connection = self.open_connection(control=control)
        connection.send(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        return connection.answer(method)

    def open_connection(
        self, *, control: bool = False, address: str | None = None
    ) -> RawConnection:
        """Open a connection to send any bytes.

        :param control: open it to the control port.
        :param address: the client's IPv4 address; None for loopback, which some limits exempt.
        """
        client = RecordingProtocol()
        site = self._sites[len(self.settings.listen) if control else 0]
        peer = None if address is None else IPv4Address("TCP", address, 50_000)
        transport = self._network.connect(site, client, peer)
        self.settle()
        return RawConnection(self.settle, client, transport)

    def publish(
        self,
        topic: str,
        data: str | bytes | dict[str, Any] | list[Any],
        *,
        event: str | None = None,
        delay: float | None = None,
        at: datetime | None = None,
        every: float | None = None,
        count: int | None = None,
    ) -> Any:
        """Publish to a topic, and deliver it; see ``pushd.views.publish``.

        ``pushd.views.publish`` itself can be called by the test as well, and reaches the daemon
        that was started last.
        """
        return self._publisher.publish(
            topic, data, event=event, delay=delay, at=at, every=every, count=count
        )

    def last_id(self, topic: str) -> str:
        """Return a topic's last id; see ``pushd.views.last_id``."""
        return self._publisher.last_id(topic)

    def advance(self, *seconds: float) -> None:
        """Let time pass step by step, each with all of its effects."""
        for step in seconds:
            with self._run():
                self._call_in_loop(partial(self.clock.advance, step))
            self.settle()

    def settle(self) -> None:
        """Deliver everything under way, and run the calls that are due."""
        with self._run():
            self._call_in_loop(self._network.run)
            while self._run_ready() or any(
                call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()
            ):
                self._call_in_loop(partial(self.clock.advance, 0))
                self._call_in_loop(self._network.run)

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Let real time pass until a condition holds, but none of the clock's.

        That is for views that wait for real sockets or for threads of their own, as libraries for
        databases have. Raises AssertionError after 10 seconds.
        """
        for _ in range(_POLLS):
            self.settle()
            if condition():
                return
            Event().wait(_POLL)
        raise AssertionError(f"{condition} does not hold after {_POLL * _POLLS:g} s")

    @property
    def pending_calls(self) -> list[IDelayedCall]:
        """The delayed calls still scheduled; an idle daemon has none."""
        calls: list[IDelayedCall] = []
        for call in self.clock.getDelayedCalls():
            owner = getattr(getattr(call, "func", None), "__self__", None)
            calls += owner.getDelayedCalls() if isinstance(owner, CoalescingClock) else [call]
        return calls

    def begin_stop(self) -> Deferred[Any]:
        """Start to stop, as SIGTERM does; the Deferred fires when the process would exit."""
        if self._stopped is None:
            self._stopped = self._call_in_loop(partial(maybeDeferred, self._service.stopService))
            self.settle()
        return self._stopped

    def stop(self) -> None:
        """Stop, and let the time pass that this takes."""
        self.begin_stop()
        self.advance(5, 5)
        # The exit of a process closes the connections that are still open.
        self._network.cut()
        self.settle()
        if self._loop is not None:
            self._loop.close()

    @property
    def _publisher(self) -> BlockingPublisher:
        [here] = [service for service in self._service if isinstance(service, InProcess)]
        return here.publisher

    @contextmanager
    def _run(self) -> Iterator[None]:
        """Note that the code inside is the daemon's, not the test's."""
        with self._lock:
            before, self._running = self._running, True
            try:
                yield
            finally:
                self._running = before

    def _run_ready(self) -> bool:
        """Run what asyncio has to do without time to pass; return whether there was something."""
        return self._loop is not None and not self._loop.is_closed() and self._loop.run_ready()

    def _call_in_loop(self, function: Callable[[], Any]) -> Any:
        """Call a function of the daemon's, within its event loop if it has one."""
        if self._loop is None or self._loop.is_closed():
            return function()
        return self._loop.run(function)

    def _call_for_test(self, function: Callable[[], Any]) -> Any:
        """Call a function for the test's own code, as for that of a thread; deliver its effects."""
        if not self._lock.acquire(blocking=False):
            raise _outside()
        try:
            return self._call(function)
        finally:
            self._lock.release()

    def _call(self, function: Callable[[], Any]) -> Any:
        if self._running:
            raise _outside()
        done = self._call_in_loop(partial(maybeDeferred, function))
        self.settle()
        if not done.called:
            done.cancel()
            done.addErrback(lambda _: None)
            raise RuntimeError("this would wait for ever: only a view's thread can wait")
        outcome: list[Any] = []
        done.addBoth(outcome.append)
        if isinstance(outcome[0], Failure):
            outcome[0].raiseException()
        return outcome[0]

    def __enter__(self) -> Daemon:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def _outside() -> RuntimeError:
    return RuntimeError(
        "a blocking WebSocket was used outside its view's thread, or something was published by "
        "another thread or an async view while the daemon ran"
    )
