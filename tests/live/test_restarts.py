"""A restart that nobody notices: hundreds of subscribers, a publisher, and new processes.

There are two restarts in each test; ``make restarts`` runs them with ten (``RESTARTS=10``).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pushd.aio import Began, Broken, Client, Message
from tests.live.test_state import Ports
from tests.support.daemon_process import DaemonProcess
from tests.support.redis_server import RedisServer

# Subscribers, their topics, and how many publications a second there are.
SUBSCRIBERS = 500
TOPICS = 50
RATE = 200

# How many connections the publisher uses at the same time: with --state-sync always, each waits for
# the disk.
PUBLISHERS = 10

# How many publications there are on a connection: the next may be accepted by another node.
TURN = 20

# How many restarts there are, and how long all daemons run before each, in seconds.
RESTARTS = int(os.environ.get("RESTARTS", "2"))
RUN = 2.0

# Seconds over which connections are closed, and the longest pause of a client before it comes back
# the first time; and what starts of processes may take on a machine that is busy.
DRAIN = 1.0
BACKOFF = 0.5
PATIENCE = 60.0
ALL = 270.0

TRANSPORTS = ("websocket", "sse", "longpoll")

# What the reason of a loss has if a request was refused: a status of three digits, as the port may
# have any five.
REFUSED = re.compile(r"\b50\d\b|refused")

# The clients over which the subscribers of a transport are spread.
CLIENTS = 4


class Watch:
    """What goes on: when a daemon was last ready again, and what went wrong."""

    def __init__(self) -> None:
        #: What was refused, or came twice or not at all.
        self.faults: list[str] = []
        #: When the last daemon that was restarted was ready. If it is one of two, a connection may
        #: wait for it as well.
        self.ready = 0.0
        #: How long after that, or after its connection was lost, the last subscriber was back.
        self.latest = 0.0
        #: How long the slowest restart took: it shows how busy the machine is.
        self.slowest = 0.0
        #: Connections that were lost, by transport.
        self.lost = dict.fromkeys(TRANSPORTS, 0)
        self.ended = False


class Listener:
    """A subscriber of a topic, which notes what it gets."""

    def __init__(self, watch: Watch, transport: str, topic: str) -> None:
        self.watch = watch
        self.transport = transport
        self.topic = topic
        #: The last number that it has received.
        self.number = 0
        self.began = asyncio.Event()
        self._lost_at: float | None = None

    @property
    def is_connected(self) -> bool:
        """Whether its connection is not lost, or it was back since."""
        return self._lost_at is None

    def has_begun(self, recovered: bool) -> None:
        """Note that it is connected."""
        if self.began.is_set() and not recovered:
            self.watch.faults.append(f"{self.transport}: not recovered")
        self.began.set()
        self.is_back()

    def is_back(self) -> None:
        """Note that it hears from the daemon."""
        if self._lost_at is not None:
            since = max(self._lost_at, self.watch.ready)
            now = asyncio.get_running_loop().time()
            self.watch.latest = max(self.watch.latest, now - since)
            self._lost_at = None

    def is_lost(self, reason: str) -> None:
        """Note that its connection is lost."""
        if REFUSED.search(reason):
            self.watch.faults.append(f"{self.transport}: {reason}")
        self.watch.lost[self.transport] += 1
        if self._lost_at is None:
            self._lost_at = asyncio.get_running_loop().time()

    def receive(self, data: Any) -> None:
        """Check that nothing is missing, and nothing comes twice."""
        if int(data) != self.number + 1:
            self.watch.faults.append(f"{self.transport}: {data} follows {self.number}")
        self.number = int(data)

    async def follow(self, client: Client) -> None:
        """Subscribe over a WebSocket or an event stream."""
        async for event in client.follow(self.topic):
            if isinstance(event, Began):
                self.has_begun(event.recovered)
            elif isinstance(event, Broken):
                self.is_lost(event.reason)
            else:
                assert isinstance(event, Message)
                self.receive(event.data)

    async def poll(self, place: str) -> None:
        """Subscribe by long polls, each on the same connection as long as there is one."""
        # The first is answered at once, with the position from which to go on.
        query = "wait=0"
        while True:
            try:
                async with connection(place) as ask:
                    while True:
                        status, found = await ask("GET", f"/topics/{self.topic}?{query}", b"")
                        if status != 200:
                            self.is_lost(f"{status}")
                            break
                        self.has_begun(found["recovered"])
                        for publication in found["publications"]:
                            self.receive(publication["data"])
                        query = f"wait=20&after={found['id']}"
            except ConnectionResetError:
                self.is_lost("reset")


@asynccontextmanager
async def connection(place: str) -> AsyncIterator[Any]:
    """Open a connection; gives a function that sends a request, and returns status and JSON.

    That raises ConnectionResetError if the connection ends before the response.
    """
    host, _, port = place.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))

    async def ask(method: str, path: str, body: bytes, fields: str = "") -> tuple[int, Any]:
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}{fields}\r\n".encode() + body)
        try:
            answer = (await reader.readuntil(b"\r\n\r\n")).decode()
            lines = answer.lower().splitlines()
            [length] = [line.split(": ")[1] for line in lines if line.startswith("content-length")]
            content = await reader.readexactly(int(length))
        except (asyncio.IncompleteReadError, OSError):
            raise ConnectionResetError from None
        return int(answer.split(" ")[1]), json.loads(content)

    try:
        yield ask
    finally:
        writer.close()


async def publish(watch: Watch, place: str, topics: range, numbers: dict[int, int]) -> None:
    """Publish to some topics in turn, until the watch has ended; repeat what was not answered."""
    loop = asyncio.get_running_loop()
    due, topic = loop.time(), topics[0]
    while not watch.ended:
        try:
            async with connection(place) as ask:
                for _ in range(TURN):
                    due = max(due + PUBLISHERS / RATE, loop.time() - 1)
                    await asyncio.sleep(due - loop.time())
                    topic = topics[(topics.index(topic) + 1) % len(topics)]
                    numbers[topic] += 1
                    await publish_one(ask, watch, topic, numbers[topic])
        except ConnectionResetError:
            # Once more with the same key: it may have been published.
            while not await publish_again(watch, place, topic, numbers[topic]):
                pass


async def publish_one(ask: Any, watch: Watch, topic: int, number: int) -> None:
    """Publish a number."""
    key = f"Idempotency-Key: {topic}-{number}\r\n"
    status, found = await ask("POST", f"/topics/{topic}", f"{number}".encode(), key)
    if status != 200:
        watch.faults.append(f"publisher: {status} {found}")


async def publish_again(watch: Watch, place: str, topic: int, number: int) -> bool:
    """Publish over a new connection; return whether there was an answer."""
    try:
        async with connection(place) as ask:
            await publish_one(ask, watch, topic, number)
    except ConnectionResetError:
        return False
    return True


class Nodes:
    """The daemons that accept connections at the same ports; one after the other is restarted.

    Each function makes one, to be started.
    """

    def __init__(self, watch: Watch, makes: Sequence[Callable[[], DaemonProcess]]) -> None:
        self._watch = watch
        self._makes = makes
        self._running: list[DaemonProcess] = []

    async def start(self) -> None:
        """Start all."""
        for make in self._makes:
            daemon = make()
            await asyncio.to_thread(daemon.__enter__)
            self._running.append(daemon)

    async def restart(self, at: int, number: signal.Signals) -> None:
        """End one by a signal, and start it again."""
        at %= len(self._makes)
        loop = asyncio.get_running_loop()
        began = loop.time()
        os.kill(self._running[at].pid, number)
        code = await asyncio.to_thread(self._running[at].wait)
        assert code == (0 if number == signal.SIGTERM else -number)
        daemon = self._makes[at]()
        await asyncio.to_thread(daemon.__enter__)
        self._running[at] = daemon
        self._watch.ready = loop.time()
        self._watch.slowest = max(self._watch.slowest, loop.time() - began)

    def stop(self) -> list[int]:
        """Stop all, and return their exit codes."""
        return [one.stop() for one in self._running]


async def live_through(
    ports: Ports, makes: Sequence[Callable[[], DaemonProcess]], number: signal.Signals
) -> Watch:
    """Let subscribers and a publisher live through the restarts; return what happened."""
    watch = Watch()
    nodes = Nodes(watch, makes)
    public, control = ports.place("public"), ports.place("control")
    listeners = [
        Listener(watch, TRANSPORTS[one % 3], f"{one % TOPICS}") for one in range(SUBSCRIBERS)
    ]
    numbers = dict.fromkeys(range(TOPICS), 0)
    async with AsyncExitStack() as stack:
        # A client has a hundred event streams at most.
        clients = [
            await stack.enter_async_context(
                Client(f"http://{public}", timeout=PATIENCE, transports=[transport])
            )
            for transport in ("websocket", "sse")
            for _ in range(CLIENTS)
        ]
        # If something fails, none must be left behind.
        stack.callback(nodes.stop)
        await nodes.start()
        tasks = [
            asyncio.create_task(
                one.poll(public)
                if one.transport == "longpoll"
                else one.follow(clients[TRANSPORTS.index(one.transport) * CLIENTS + at % CLIENTS])
            )
            for at, one in enumerate(listeners)
        ]
        await asyncio.gather(*(one.began.wait() for one in listeners))
        share = TOPICS // PUBLISHERS
        publishing = [
            asyncio.create_task(publish(watch, control, range(at, at + share), numbers))
            for at in range(0, TOPICS, share)
        ]
        for at in range(RESTARTS):
            await asyncio.sleep(RUN)
            # A handshake that is under way at a SIGTERM is told to come back later (503).
            while not all(one.is_connected for one in listeners):
                await asyncio.sleep(0.05)
            await nodes.restart(at, number)
        await asyncio.sleep(RUN)
        watch.ended = True
        await asyncio.gather(*publishing)
        while any(one.number < numbers[int(one.topic)] for one in listeners):
            await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not any(await asyncio.to_thread(nodes.stop))
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
    assert all(one.number == numbers[int(one.topic)] for one in listeners)
    assert sum(numbers.values()) > RATE
    return watch


def check(
    ports: Ports, makes: Sequence[Callable[[], DaemonProcess]], number: signal.Signals
) -> None:
    """Check that nobody notices restarts."""
    living: Coroutine[Any, Any, Watch] = live_through(ports, makes, number)
    watch = asyncio.run(asyncio.wait_for(living, ALL))
    assert watch.faults == []
    # At least half of what there is on average: two nodes have half of the subscribers each.
    least = RESTARTS * SUBSCRIBERS // (6 * len(makes))
    assert all(count > least for count in watch.lost.values())
    assert watch.latest < DRAIN + BACKOFF + max(watch.slowest, 5.0)


BY_SIGNAL = pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"]
)


@BY_SIGNAL
def test_unnoticed(tmp_path: Path, number: signal.Signals) -> None:
    """No request is refused, and nothing is lost or comes twice, through restarts of a daemon.

    Each subscriber is back soon after the next daemon is ready: within its own pause.
    """
    with Ports() as ports:
        args = ("--state-sync", "always", "--drain", f"{DRAIN:g}")
        check(ports, [partial(ports.daemon, tmp_path, *args)], number)


@BY_SIGNAL
def test_unnoticed_nodes(tmp_path: Path, number: signal.Signals) -> None:
    """The same holds for two nodes that share a Redis and are restarted one after the other.

    Each has sockets of its own at the same ports. Those of its subscribers that the kernel sends to
    the other node go on at once, and the others when it is ready again.
    """
    with RedisServer() as server, Ports() as one, Ports(beside=one) as other:
        args = ("--broker", server.url, "--drain", f"{DRAIN:g}")
        makes = [partial(each.process, tmp_path, *args) for each in (one, other)]
        check(one, makes, number)
