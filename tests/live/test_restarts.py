"""A restart that nobody notices: hundreds of subscribers, a publisher, and ten new processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import cycle
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

# How often the daemon is restarted, and how long it runs each time, in seconds.
RESTARTS = 10
RUN = 2.0

# Seconds over which connections are closed, and the longest pause of a client before it comes back
# the first time; and what starts of processes may take on a machine that is busy.
DRAIN = 1.0
BACKOFF = 0.5
PATIENCE = 60.0
ALL = 270.0

TRANSPORTS = ("websocket", "sse", "longpoll")

# The clients over which the subscribers of a transport are spread.
CLIENTS = 4


class Watch:
    """What goes on: when the daemon was last ready, and what went wrong."""

    def __init__(self) -> None:
        #: What was refused, or came twice or not at all.
        self.faults: list[str] = []
        #: When the last daemon was ready, and how long after that the last subscriber was back.
        self.ready = 0.0
        self.latest = 0.0
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
        if "50" in reason or "refused" in reason:
            self.watch.faults.append(f"{self.transport}: {reason}")
        self.watch.lost[self.transport] += 1
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
        last = ""
        while True:
            try:
                async with connection(place) as ask:
                    while True:
                        status, found = await ask("GET", f"/topics/{self.topic}?wait=20{last}", b"")
                        if status != 200:
                            self.is_lost(f"{status}")
                            break
                        self.has_begun(found["recovered"])
                        for publication in found["publications"]:
                            self.receive(publication["data"])
                        last = f"&after={found['id']}"
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
                while not watch.ended:
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


async def start(watch: Watch, ports: Ports, folder: Path, args: Sequence[str]) -> DaemonProcess:
    """Start a daemon, with further options."""
    daemon = ports.daemon(folder, "--drain", f"{DRAIN:g}", *args)
    await asyncio.to_thread(daemon.__enter__)
    watch.ready = asyncio.get_running_loop().time()
    return daemon


def cycle_places(nodes: Sequence[Ports], name: str) -> Iterator[str]:
    """Yield the places of a socket of the nodes in turn, without an end."""
    return cycle([ports.place(name) for ports in nodes])


async def end(daemon: DaemonProcess, number: signal.Signals) -> None:
    """End a daemon by a signal."""
    os.kill(daemon.pid, number)
    code = await asyncio.to_thread(daemon.wait)
    assert code == (0 if number == signal.SIGTERM else -number)


async def live_through(
    nodes: Sequence[Ports], folder: Path, number: signal.Signals, *args: str
) -> Watch:
    """Let subscribers and publishers live through the restarts; return what happened.

    :param nodes: the ports of each daemon, which are restarted one after the other.
    :param args: options of the daemons that let them lose nothing, whatever happens to them.
    """
    watch = Watch()
    publics, controls = cycle_places(nodes, "public"), cycle_places(nodes, "control")
    listeners = [
        Listener(watch, TRANSPORTS[one % 3], f"{one % TOPICS}") for one in range(SUBSCRIBERS)
    ]
    numbers = dict.fromkeys(range(TOPICS), 0)
    async with AsyncExitStack() as stack:
        # A client has a hundred event streams at most.
        clients = [
            await stack.enter_async_context(
                Client(f"http://{next(publics)}", timeout=PATIENCE, transports=[transport])
            )
            for transport in ("websocket", "sse")
            for _ in range(CLIENTS)
        ]
        daemons: list[DaemonProcess] = []
        # If something fails, none must be left behind.
        stack.callback(lambda: [one.stop() for one in daemons])
        for ports in nodes:
            daemons.append(await start(watch, ports, folder, args))
        tasks = [
            asyncio.create_task(
                one.poll(next(publics))
                if one.transport == "longpoll"
                else one.follow(clients[TRANSPORTS.index(one.transport) * CLIENTS + at % CLIENTS])
            )
            for at, one in enumerate(listeners)
        ]
        await asyncio.gather(*(one.began.wait() for one in listeners))
        share = TOPICS // PUBLISHERS
        publishing = [
            asyncio.create_task(publish(watch, next(controls), range(at, at + share), numbers))
            for at in range(0, TOPICS, share)
        ]
        for restart in range(RESTARTS):
            await asyncio.sleep(RUN)
            # A handshake that is under way at a SIGTERM is told to come back later (503).
            while not all(one.is_connected for one in listeners):
                await asyncio.sleep(0.05)
            which = restart % len(nodes)
            await end(daemons[which], number)
            daemons[which] = await start(watch, nodes[which], folder, args)
        await asyncio.sleep(RUN)
        watch.ended = True
        await asyncio.gather(*publishing)
        while any(one.number < numbers[int(one.topic)] for one in listeners):
            await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for daemon in daemons:
            await end(daemon, signal.SIGTERM)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
    assert all(one.number == numbers[int(one.topic)] for one in listeners)
    assert sum(numbers.values()) > RATE
    return watch


async def in_time(living: Coroutine[Any, Any, Watch]) -> Watch:
    """Fail if it takes too long."""
    return await asyncio.wait_for(living, ALL)


SIGNALS = pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"]
)


@SIGNALS
def test_unnoticed(tmp_path: Path, number: signal.Signals) -> None:
    """No request is refused, and nothing is lost or comes twice, through ten restarts.

    Each subscriber is back soon after the next daemon is ready: within its own pause.
    """
    with Ports() as ports:
        living = live_through([ports], tmp_path, number, "--state-sync", "always")
        watch = asyncio.run(in_time(living))
    assert watch.faults == []
    assert all(count > RESTARTS * SUBSCRIBERS // 6 for count in watch.lost.values())
    assert watch.latest < DRAIN + BACKOFF + 5.0


@SIGNALS
def test_two_nodes(tmp_path: Path, number: signal.Signals) -> None:
    """The same holds for two nodes with a Redis, which are restarted in turn."""
    with RedisServer() as redis, Ports() as one, Ports() as other:
        living = live_through([one, other], tmp_path, number, "--broker", redis.url)
        watch = asyncio.run(in_time(living))
    assert watch.faults == []
    assert all(count > RESTARTS * SUBSCRIBERS // 12 for count in watch.lost.values())
    assert watch.latest < DRAIN + BACKOFF + 5.0
