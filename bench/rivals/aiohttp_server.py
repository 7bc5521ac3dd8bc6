"""aiohttp as its documentation says: a handler per path, a loop over sockets, its heartbeat."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter

from aiohttp import WSMsgType, web

PING_INTERVAL = 25

subscribers: set[web.WebSocketResponse] = set()
streams: set[web.StreamResponse] = set()

# The number of posts of each publisher.
posted: Counter[str] = Counter()


async def accept(request: web.Request) -> web.WebSocketResponse:
    """Accept the WebSocket."""
    websocket = web.WebSocketResponse(heartbeat=PING_INTERVAL)
    await websocket.prepare(request)
    return websocket


async def demo(request: web.Request) -> web.WebSocketResponse:
    """Ten pushes, half a second apart, then a Close."""
    websocket = await accept(request)
    await websocket.receive()
    for number in range(10):
        await websocket.send_str(f"service message: {number}")
        await asyncio.sleep(0.5)
    await websocket.close()
    return websocket


async def subscribe(request: web.Request) -> web.WebSocketResponse:
    """Receives every publication."""
    websocket = await accept(request)
    subscribers.add(websocket)
    try:
        async for _ in websocket:
            pass
    finally:
        subscribers.discard(websocket)
    return websocket


async def publish(request: web.Request) -> web.WebSocketResponse:
    """Publishes each message to every subscriber."""
    websocket = await accept(request)
    async for message in websocket:
        if message.type == WSMsgType.TEXT:
            for subscriber in list(subscribers):
                await subscriber.send_str(message.data)
    return websocket


async def echo(request: web.Request) -> web.WebSocketResponse:
    """Sends each message back."""
    websocket = await accept(request)
    async for message in websocket:
        if message.type == WSMsgType.TEXT:
            await websocket.send_str(message.data)
    return websocket


async def post(request: web.Request) -> web.Response:
    """Read a publication, and answer with an id: the plainest handler."""
    number = request.match_info["number"]
    await request.read()
    posted[number] += 1
    return web.json_response({"id": f"bench:{posted[number]}"})


async def stream(request: web.Request) -> web.WebSocketResponse:
    """Read publications, a line of JSON each, and answer each with an id."""
    websocket = await accept(request)
    streamed = 0
    async for message in websocket:
        if message.type == WSMsgType.TEXT:
            json.loads(message.data)
            streamed += 1
            await websocket.send_json({"id": f"bench:{streamed}"})
    return websocket


async def events(request: web.Request) -> web.StreamResponse:
    """Receive every announcement as an event."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    streams.add(response)
    try:
        while True:
            await asyncio.sleep(PING_INTERVAL)
            await response.write(b":\n\n")
    finally:
        streams.discard(response)


async def announce(request: web.Request) -> web.Response:
    """Write an event to every stream."""
    event = b"data: %b\n\n" % await request.read()
    for response in list(streams):
        await response.write(event)
    return web.Response()


async def main() -> None:
    """Listen, and print the port."""
    application = web.Application()
    application.router.add_get("/test/", demo)
    application.router.add_get("/subscribe/", subscribe)
    application.router.add_get("/publish/", publish)
    application.router.add_get("/echo/", echo)
    application.router.add_post("/post/{number}", post)
    application.router.add_get("/stream/", stream)
    application.router.add_get("/events/", events)
    application.router.add_post("/announce/", announce)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    sys.stdout.write(f"listening on {runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


asyncio.run(main())
