"""`websockets` as its documentation says: `serve`, `broadcast` for fan-out, its keepalive."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

from websockets.asyncio.server import ServerConnection, broadcast, serve

PING_INTERVAL = 25

subscribers: set[ServerConnection] = set()


async def demo(websocket: ServerConnection) -> None:
    """Ten pushes, half a second apart, then a Close."""
    await websocket.recv()
    for number in range(10):
        await websocket.send(f"service message: {number}")
        await asyncio.sleep(0.5)


async def subscribe(websocket: ServerConnection) -> None:
    """Receives every publication."""
    subscribers.add(websocket)
    try:
        await websocket.wait_closed()
    finally:
        subscribers.discard(websocket)


async def publish(websocket: ServerConnection) -> None:
    """Publishes each message to every subscriber."""
    async for message in websocket:
        broadcast(subscribers, message)


async def echo(websocket: ServerConnection) -> None:
    """Sends each message back."""
    async for message in websocket:
        await websocket.send(message)


VIEWS: dict[str, Callable[[ServerConnection], Awaitable[None]]] = {
    "/test/": demo,
    "/subscribe/": subscribe,
    "/publish/": publish,
    "/echo/": echo,
}


async def view(websocket: ServerConnection) -> None:
    """Run the view for the path."""
    assert websocket.request is not None
    await VIEWS[websocket.request.path](websocket)


async def main() -> None:
    """Listen, and print the port."""
    server = await serve(
        view,
        "127.0.0.1",
        0,
        backlog=4096,
        ping_interval=PING_INTERVAL,
        ping_timeout=PING_INTERVAL,
    )
    [socket] = server.sockets
    sys.stdout.write(f"listening on {socket.getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


asyncio.run(main())
