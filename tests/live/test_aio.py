"""``pushd.aio`` and ``pushd.publish`` with a real daemon: another process, a cut, and a restart."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import pushd
from pushd.aio import Began, Broken, Client, Message, Refused, Unreachable
from pushd.client import Client as BlockingClient
from tests.support.daemon_process import DaemonProcess
from tests.support.held_port import held_port

# Seconds that any test may take.
PATIENCE = 60.0

TRANSPORTS = ("websocket", "sse")


class Ports:
    """Two ports at which daemons can be started, one after the other."""

    def __init__(self, folder: Path, public: int, control: int) -> None:
        self._folder = folder
        self._args = [
            *("--listen", f"tcp:{public}:interface=127.0.0.1"),
            *("--control", f"tcp:{control}:interface=127.0.0.1"),
        ]
        #: The URLs.
        self.url = f"http://127.0.0.1:{public}"
        self.control = f"http://127.0.0.1:{control}"

    def daemon(self) -> DaemonProcess:
        """Return a daemon for ``with``."""
        return DaemonProcess(self._args, directory=self._folder)

    def client(self, **options: Any) -> Client:
        """Return a client."""
        return Client(self.url, control=self.control, **options)


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[Ports]:
    """Hold two ports."""
    with held_port() as public, held_port() as control:
        yield Ports(tmp_path, public, control)


async def take(events: AsyncGenerator[Any, None], count: int) -> list[Any]:
    """Return the next events of a subscription."""
    async with asyncio.timeout(PATIENCE):
        return [await anext(events) for _ in range(count)]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_unix_sockets(tmp_path: Path, transport: str) -> None:
    """Both ports can be on Unix sockets; errors name them as they were given."""
    public, control = tmp_path / "public.sock", tmp_path / "control.sock"
    listen = ("--listen", "tcp:0:interface=127.0.0.1", "--listen", f"unix:{public}")
    args = (*listen, "--control", f"unix:{control}")

    async def run() -> list[Any]:
        async with Client(
            f"unix:{public}", control=f"unix:{control}", transports=[transport]
        ) as client:
            after = await client.last_id("t")
            await client.publish("t", "x")
            return await take(client.subscribe("t", after=after), 1)

    with DaemonProcess(args, directory=tmp_path) as daemon:
        daemon.wait_for("control port listening")
        [message] = asyncio.run(run())
    assert message.data == "x"
    with pytest.raises(Unreachable, match=f"^unix:{control} does not respond: "):
        asyncio.run(run())


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_cut(ports: Ports, transport: str) -> None:
    """A subscriber whose connection is cut gets everything, in order and once."""

    async def run() -> list[Any]:
        async with ports.client(transports=[transport]) as client:
            after = await client.last_id("t")
            events, got = client.subscribe("t", after=after), list[Message]()
            for round in range(5):
                await client.publish_all(
                    [{"topic": "t", "data": f"{round} {number}"} for number in range(20)]
                )
                got += await take(events, 10)
                for connection in BlockingClient(ports.control).connections():
                    BlockingClient(ports.control).close(connection["id"], code=1001)
                got += await take(events, 10)
            await events.aclose()
            return [message.data for message in got]

    with ports.daemon():
        data = asyncio.run(run())
    assert data == [f"{round} {number}" for round in range(5) for number in range(20)]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_many_topics(ports: Ports, transport: str) -> None:
    """Several topics on one connection lose and repeat nothing through a cut."""

    async def run() -> dict[str, list[str | bytes]]:
        topics = ["a", "b/c", "d"]
        got: dict[str, list[str | bytes]] = {topic: [] for topic in topics}
        async with ports.client(transports=[transport]) as client:
            after = {topic: await client.last_id(topic) for topic in topics}
            events = client.subscribe(topics, after=after)
            for round in range(4):
                batch = [{"topic": topic, "data": f"{round}"} for topic in topics for _ in "xy"]
                await client.publish_all(batch)
                messages: list[Message] = await take(events, 4)
                [connection] = BlockingClient(ports.control).connections()
                assert (connection["path"], connection["topics"]) == ("/topics", 3)
                BlockingClient(ports.control).close(connection["id"], code=1001)
                messages += await take(events, 2)
                for message in messages:
                    got[message.topic].append(message.data)
            await events.aclose()
        return got

    with ports.daemon():
        got = asyncio.run(run())
    expected = [f"{round}" for round in range(4) for _ in "xy"]
    assert got == dict.fromkeys(("a", "b/c", "d"), expected)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_restart(ports: Ports, transport: str) -> None:
    """After a restart, which forgets the history, a subscriber hears of the gap, and goes on."""

    async def run() -> None:
        with ExitStack() as first:
            first.enter_context(ports.daemon())
            async with ports.client(transports=[transport]) as client:
                events = client.follow("t")
                [began] = await take(events, 1)
                assert began == Began("t", began.id, False)
                said = await client.publish("t", {"n": 1}, event="first")
                assert await take(events, 1) == [Message("t", said["id"], '{"n":1}', "first")]
                first.close()
                [broken] = await take(events, 1)
                assert isinstance(broken, Broken)
                with ports.daemon():
                    [event] = await take(events, 1)
                    while isinstance(event, Broken):
                        [event] = await take(events, 1)
                    assert event == Began("t", event.id, False)
                    said = await client.publish("t", b"\xff")
                    assert await take(events, 1) == [Message("t", said["id"], b"\xff")]
                    await events.aclose()

    asyncio.run(run())


def test_first_topic_refused(ports: Ports) -> None:
    """A request that pushd refuses raises Refused, with either transport."""

    async def run() -> None:
        for transport in TRANSPORTS:
            async with ports.client(transports=[transport]) as client:
                with pytest.raises(Refused, match="topic must be"):
                    await anext(client.subscribe("a b"))

    with ports.daemon():
        asyncio.run(run())


def test_anywhere(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any process publishes, and a page that has the last id misses nothing."""
    script = "import pushd; print(pushd.publish('news', {'n': 1}, event='e'))"
    with ports.daemon():
        monkeypatch.setenv("PUSHD_CONTROL_URL", ports.control)
        # A test before this one may have left a daemon in this process, which would be asked.
        monkeypatch.setattr("pushd.views.inprocess._running", [])
        last = pushd.last_id("news")
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=dict(os.environ),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        assert done.stdout.strip() == pushd.last_id("news")

        async def run() -> Any:
            async with ports.client() as client:
                events = client.subscribe("news", after=last, json=True)
                [message] = await take(events, 1)
                await events.aclose()
                return message

        message = asyncio.run(run())
    assert message == Message("news", done.stdout.strip(), {"n": 1}, "e")
