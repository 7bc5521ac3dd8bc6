"""A network between a browser and a daemon that can be as bad as a real one."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Coroutine
from threading import Event, Thread
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

# What stands in the head of a request for each.
WEBSOCKET = b"upgrade: websocket"
EVENT_STREAM = b"accept: text/event-stream"

# How long anything may take, in seconds.
_PATIENCE = 60

_REFUSAL = b"HTTP/1.1 %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Middleman:
    """A TCP proxy in front of a daemon: started on ``with``, it does what a test tells it.

    :param daemon: the daemon's address, as ``http://127.0.0.1:40000/``.
    """

    def __init__(self, daemon: str) -> None:
        #: Where to: it may be changed, as when a daemon is started anew.
        self.daemon = daemon
        #: Whether new connections are broken off at once.
        self.unreachable = False
        #: The requests that are not handed on, by a part of their head, and their answer.
        self.refused: dict[bytes, bytes] = {}
        #: The parts of heads after which a connection stays silent for ever.
        self.silent: set[bytes] = set()
        #: The heads that came, as they came.
        self.heads: list[bytes] = []
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._writers: set[StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._port = 0

    @property
    def url(self) -> str:
        """The address for the browser."""
        return f"http://127.0.0.1:{self._port}/"

    def __enter__(self) -> Middleman:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Break off all connections, without a goodbye."""
        done = Event()

        def cut() -> None:
            for writer in self._writers:
                writer.transport.abort()
            done.set()

        self._loop.call_soon_threadsafe(cut)
        assert done.wait(_PATIENCE)

    def count(self, part: bytes) -> int:
        """How many requests came that have this in their head."""
        return sum(part in head.lower() for head in self.heads)

    def _run(self, doing: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(doing, self._loop).result(_PATIENCE)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _connected(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._relay(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _relay(self, reader: StreamReader, writer: StreamWriter) -> None:
        if self.unreachable:
            return
        address = urlsplit(self.daemon)
        there, onward = await asyncio.open_connection(address.hostname, address.port)
        self._writers.add(onward)
        back = asyncio.create_task(self._copy(there, writer))
        try:
            while data := await reader.read(1 << 16):
                # A browser's head comes in one piece, on a connection that may have had others.
                lower = data.lower()
                if b"\r\n\r\n" in data and b" http/1.1\r\n" in lower:
                    self.heads.append(data)
                for part, status in self.refused.items():
                    if part in lower:
                        writer.write(_REFUSAL % status)
                        await writer.drain()
                        return
                if not any(part in lower for part in self.silent):
                    onward.write(data)
                    await onward.drain()
        finally:
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
            onward.transport.abort()
            self._writers.discard(onward)

    async def _copy(self, reader: StreamReader, writer: StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.transport.close()
