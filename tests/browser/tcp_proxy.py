"""A TCP proxy between browser and daemon that simulates a bad network."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Coroutine
from threading import Event, Thread
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

# A part of the request's head, in lower case, that tells the transports apart.
WEBSOCKET = b"upgrade: websocket"
EVENT_STREAM = b"accept: text/event-stream"

# The timeout of each step, in seconds.
_TIMEOUT = 60

_ERROR = b"HTTP/1.1 %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class TcpProxy:
    """A TCP proxy in front of a daemon: runs in a thread, within ``with``; tests change its faults.

    :param daemon: the daemon's URL, such as ``http://127.0.0.1:40000/``.
    """

    def __init__(self, daemon: str) -> None:
        #: The daemon's URL; a test that restarts the daemon changes it.
        self.daemon = daemon
        #: Whether new connections are closed at once.
        self.unreachable = False
        #: Requests to answer with an error: a part of their head, and the status.
        self.refused: dict[bytes, bytes] = {}
        #: Requests to swallow: a part of their head.
        self.silent: set[bytes] = set()
        #: The heads of all requests.
        self.heads: list[bytes] = []
        # The last head on each open connection from the browser, in lower case; and connections
        # that have died without a word: they stay open, and nothing goes through them any more.
        self._last: dict[StreamWriter, bytes] = {}
        self._dead: set[StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._writers: set[StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._port = 0

    @property
    def url(self) -> str:
        """The URL for the browser."""
        return f"http://127.0.0.1:{self._port}/"

    def __enter__(self) -> TcpProxy:
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
        """Abort all connections, on both sides."""
        done = Event()

        def cut() -> None:
            for writer in self._writers:
                writer.transport.abort()
            done.set()

        self._loop.call_soon_threadsafe(cut)
        assert done.wait(_TIMEOUT)

    def let_die(self, part: bytes) -> None:
        """Let the connections with such a request die without a word; later ones work."""
        self._dead = {writer for writer, head in list(self._last.items()) if part in head}

    def count(self, part: bytes) -> int:
        """Count the requests with this in their head."""
        return sum(part in head.lower() for head in self.heads)

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_TIMEOUT)

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
            self._last.pop(writer, None)
            self._tasks.discard(task)

    async def _relay(self, reader: StreamReader, writer: StreamWriter) -> None:
        if self.unreachable:
            return
        address = urlsplit(self.daemon)
        from_daemon, to_daemon = await asyncio.open_connection(address.hostname, address.port)
        self._writers.add(to_daemon)
        responses = asyncio.create_task(self._copy(from_daemon, writer))
        try:
            while data := await reader.read(1 << 16):
                # Chromium writes a request's head in one piece; a connection may carry several.
                lower = data.lower()
                if b"\r\n\r\n" in data and b" http/1.1\r\n" in lower:
                    self.heads.append(data)
                    self._last[writer] = lower
                for part, status in self.refused.items():
                    if part in lower:
                        writer.write(_ERROR % status)
                        await writer.drain()
                        return
                is_silent = any(part in lower for part in self.silent)
                if not is_silent and writer not in self._dead:
                    to_daemon.write(data)
                    await to_daemon.drain()
        finally:
            responses.cancel()
            await asyncio.gather(responses, return_exceptions=True)
            to_daemon.transport.abort()
            self._writers.discard(to_daemon)

    async def _copy(self, reader: StreamReader, writer: StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            if writer not in self._dead:
                writer.write(data)
                await writer.drain()
        if writer not in self._dead:
            writer.transport.close()
