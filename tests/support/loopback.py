"""A daemon in memory behind real sockets of this machine, for clients that have their own."""

from __future__ import annotations

import asyncio
from functools import partial
from types import TracebackType

from pushd.testing import Daemon

# Seconds between two looks at what the daemon has sent.
_INTERVAL = 0.001


class Loopback:
    """The two ports of a daemon in memory, open in ``async with``."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        #: URLs of the public port and of the control port.
        self.url = self.control = ""
        #: The heads of the requests so far, and connections that are open.
        self.heads: list[str] = []
        self.open: set[asyncio.StreamWriter] = set()
        #: An answer to all requests in place of the daemon's, and one to those for WebSockets only,
        #: as that of a proxy. If it is empty, there is no answer.
        self.canned: bytes | None = None
        self.no_websockets: bytes | None = None
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def cut(self) -> None:
        """Reset all connections that are open."""
        for writer in list(self.open):
            writer.transport.abort()
        while self.open:
            await asyncio.sleep(_INTERVAL)

    async def __aenter__(self) -> Loopback:
        for control in (False, True):
            server = await asyncio.start_server(partial(self._serve, control), "127.0.0.1", 0)
            self._servers.append(server)
        self.url, self.control = (
            f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in self._servers
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for server in self._servers:
            server.close()
        await self.cut()
        await asyncio.gather(*self._tasks)

    async def _serve(
        self, control: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.open.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = self.daemon.open_connection(control=control)
        try:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = await reader.readline()
                if not line:
                    return
                head += line
            self.heads.append(head.decode())
            is_websocket = b"upgrade: websocket" in head.lower()
            canned = self.no_websockets if is_websocket else None
            if self.canned is not None:
                canned = self.canned
            if canned is not None:
                writer.write(canned)
                if canned:
                    await writer.drain()
                else:
                    await reader.read()
                return
            connection.send(head)
            reading, position = asyncio.ensure_future(reader.read(1 << 16)), 0
            while True:
                received = connection.received
                if len(received) > position:
                    writer.write(received[position:])
                    position = len(received)
                if reading.done():
                    data = reading.result()
                    if not data:
                        return
                    connection.send(data)
                    reading = asyncio.ensure_future(reader.read(1 << 16))
                elif connection.closed:
                    reading.cancel()
                    return
                await asyncio.sleep(_INTERVAL)
        except ConnectionError:
            pass
        finally:
            connection.leave()
            writer.close()
            self.open.discard(writer)
            self._tasks.discard(task)
