"""PyPI's centrifuge-python, in JSON and in Protobuf, and over two nodes on one Redis."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from centrifuge import Client, StreamPosition, SubscriptionState

from tests.sdk.daemon import SdkDaemon, make_token
from tests.support.redis_server import RedisServer

# The SDK leaves sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)

FORMATS = (False, True)

# Seconds that an event may take.
_PATIENCE = 20


@pytest.fixture(autouse=True)
def collect() -> Iterator[None]:
    """Collect the garbage of the SDK within the test that made it."""
    yield
    gc.collect()


@asynccontextmanager
async def connected(daemon: SdkDaemon, *, use_protobuf: bool, **options: Any) -> AsyncIterator[Any]:
    """Connect a client, and disconnect it at the end."""
    client = Client(
        daemon.websocket, use_protobuf=use_protobuf, min_reconnect_delay=0.05, **options
    )
    await client.connect()
    await client.ready(_PATIENCE)
    try:
        yield client
    finally:
        await client.disconnect()


def queue_of(events: Any, name: str) -> asyncio.Queue[Any]:
    """Return a queue of the contexts of an event."""
    queue: asyncio.Queue[Any] = asyncio.Queue()
    setattr(events, name, queue.put)
    return queue


async def following(queue: asyncio.Queue[Any]) -> Any:
    """Return the next context."""
    return await asyncio.wait_for(queue.get(), _PATIENCE)


def codec(*, use_protobuf: bool) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return how data are written and read: in Protobuf they are bytes."""
    if use_protobuf:
        return lambda value: json.dumps(value).encode(), json.loads
    return lambda value: value, lambda value: value


@pytest.mark.parametrize("use_protobuf", FORMATS)
def test_conversation(tmp_path: Path, use_protobuf: bool) -> None:
    """A client subscribes, publishes, reads the history, and sees who is there."""
    encode, decode = codec(use_protobuf=use_protobuf)

    async def talk(daemon: SdkDaemon) -> None:
        async with connected(daemon, use_protobuf=use_protobuf) as client:
            channel = client.new_subscription("chat:1")
            published, joined = (
                queue_of(channel.events, f"on_{name}") for name in ("publication", "join")
            )
            await channel.subscribe()
            await channel.ready(_PATIENCE)
            assert (await following(joined)).info.client
            await channel.publish(encode({"text": "é"}))
            made = (await following(published)).pub
            assert (decode(made.data), made.info.client) == ({"text": "é"}, client.client_id)
            daemon.call("publish", channel="chat:1", data=[1], tags={"a": "b"})
            made = (await following(published)).pub
            assert (decode(made.data), made.tags) == ([1], {"a": "b"})
            page = await channel.history(limit=-1, reverse=True)
            assert [decode(one.data) for one in page.publications] == [[1], {"text": "é"}]
            since = StreamPosition(offset=1, epoch=page.epoch)
            page = await channel.history(limit=5, since=since)
            assert [one.offset for one in page.publications] == [2]
            assert len((await channel.presence()).clients) == 1
            assert (await channel.presence_stats()).num_users == 1
            await channel.unsubscribe()
            assert channel.state == SubscriptionState.UNSUBSCRIBED

    with SdkDaemon(tmp_path) as daemon:
        asyncio.run(talk(daemon))


@pytest.mark.parametrize("use_protobuf", FORMATS)
def test_recovery(tmp_path: Path, use_protobuf: bool) -> None:
    """A connection that breaks loses nothing, on channels of the client and of the server."""
    _, decode = codec(use_protobuf=use_protobuf)

    async def give_token() -> str:
        return make_token(sub="ann")

    async def talk(daemon: SdkDaemon) -> None:
        async with connected(daemon, use_protobuf=use_protobuf, get_token=give_token) as client:
            channel = client.new_subscription("news")
            published, began = (
                queue_of(channel.events, f"on_{name}") for name in ("publication", "subscribed")
            )
            personal = queue_of(client.events, "on_publication")
            await channel.subscribe()
            assert not (await following(began)).recovered
            client._conn.transport.abort()
            daemon.call("publish", channel="news", data=1)
            daemon.call("publish", channel="users/ann", data=2)
            assert (await following(began)).recovered
            assert decode((await following(published)).pub.data) == 1
            missed = await following(personal)
            assert (missed.channel, decode(missed.pub.data)) == ("#ann", 2)

    with SdkDaemon(tmp_path) as daemon:
        asyncio.run(talk(daemon))


def test_two_nodes(tmp_path: Path) -> None:
    """A client that comes back to another node of the same Redis recovers there."""

    async def talk(one: SdkDaemon, other: SdkDaemon) -> None:
        async with connected(one, use_protobuf=False) as client:
            channel = client.new_subscription("news")
            published, began = (
                queue_of(channel.events, f"on_{name}") for name in ("publication", "subscribed")
            )
            joined = queue_of(channel.events, "on_join")
            await channel.subscribe()
            await following(began)
            await following(joined)
            other.call("publish", channel="news", data=1, tags={"a": "b"})
            made = (await following(published)).pub
            assert (made.data, made.tags) == (1, {"a": "b"})
            [kept] = (await channel.history(limit=-1)).publications
            assert kept.tags == {"a": "b"}
            async with connected(other, use_protobuf=False) as second:
                far = second.new_subscription("news")
                await far.subscribe()
                await far.ready(_PATIENCE)
                assert (await following(joined)).info.client
                assert (await channel.presence_stats()).num_clients == 2
            client._address = other.websocket
            client._conn.transport.abort()
            one.call("publish", channel="news", data=2)
            assert (await following(began)).recovered
            assert (await following(published)).pub.data == 2

    with two_nodes(tmp_path) as nodes:
        asyncio.run(talk(*nodes))


def test_api_of_two_nodes(tmp_path: Path) -> None:
    """The HTTP API of each node reaches the clients of both, and counts them."""

    async def give_token() -> str:
        return make_token(sub="ann")

    async def talk(one: SdkDaemon, other: SdkDaemon) -> None:
        options: Any = {"use_protobuf": False, "get_token": give_token}
        async with connected(one, **options) as near, connected(other, **options) as far:
            gone = [queue_of(client.events, "on_disconnected") for client in (near, far)]
            channels = [client.new_subscription("news") for client in (near, far)]
            ended = queue_of(channels[1].events, "on_unsubscribed")
            for channel in channels:
                await channel.subscribe()
                await channel.ready(_PATIENCE)
            for daemon in (one, other):
                nodes = daemon.call("info")["nodes"]
                assert [node["num_clients"] for node in nodes] == [1, 1]
                assert daemon.call("channels")["channels"]["news"] == {"num_clients": 2}
            presence = await channels[0].presence()
            [client] = [name for name in presence.clients if name != near.client_id]
            one.call("unsubscribe", user="ann", channel="news", client=client)
            assert (await following(ended)).code == 2000
            other.call("disconnect", user="ann", whitelist=[client])
            assert (await following(gone[0])).code == 3503
            one.call("disconnect", user="ann", client=client)
            assert (await following(gone[1])).code == 3503

    with two_nodes(tmp_path) as nodes:
        asyncio.run(talk(*nodes))


@contextmanager
def two_nodes(folder: Path) -> Iterator[tuple[SdkDaemon, SdkDaemon]]:
    """Run two daemons on one Redis."""
    folders = [folder / name for name in ("one", "other")]
    for path in folders:
        path.mkdir()
    with RedisServer() as redis:
        broker = ("--broker", redis.url)
        with SdkDaemon(folders[0], *broker) as one, SdkDaemon(folders[1], *broker) as other:
            for daemon in (one, other):
                daemon.wait_for("connected to Redis at")
            yield one, other
