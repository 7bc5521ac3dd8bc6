"""A Quart application: pages, streams in both directions, sessions, and WebSockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from quart import Quart, Response, abort, request, session, websocket

application = Quart(__name__)
application.secret_key = "of a test"
done: list[str] = []


@application.before_serving
async def start() -> None:
    """Start."""
    done.append("started")


@application.after_serving
async def stop() -> None:
    """Stop."""
    print("the application has stopped", flush=True)  # noqa: T201 - a sign for the test


@application.get("/done")
async def what_was_done() -> list[str]:
    """Return what was done."""
    return done


@application.get("/stream")
async def stream() -> Response:
    """Send parts with pauses."""

    async def parts() -> AsyncIterator[bytes]:
        for number in range(5):
            yield b"part %d\n" % number
            await asyncio.sleep(0.01)

    return Response(parts())


@application.put("/upload")
async def upload() -> dict[str, Any]:
    """Read a body part by part."""
    size = 0
    async for part in request.body:
        size += len(part)
    return {"size": size}


@application.get("/count")
async def count() -> dict[str, int]:
    """Count in a session."""
    session["count"] = session.get("count", 0) + 1
    return {"count": session["count"]}


@application.get("/sync")
def in_thread() -> str:
    """Answer in a thread."""
    return "sync"


@application.post("/background")
async def background() -> str:
    """Do something after the response."""
    application.add_background_task(later)
    return "soon"


async def later() -> None:
    """Note that this has run."""
    done.append("background")


@application.websocket("/echo")
async def echo() -> None:
    """Send back from one task what another one receives."""
    await websocket.accept(subprotocol="two", headers={"X-Quart": "yes"})
    queue: asyncio.Queue[str | bytes] = asyncio.Queue(10)

    async def receive() -> None:
        while True:
            await queue.put(await websocket.receive())

    async def send() -> None:
        while True:
            await websocket.send(await queue.get())

    try:
        await asyncio.gather(receive(), send())
    finally:
        done.append("closed")


@application.websocket("/close")
async def close() -> None:
    """Close with a code."""
    await websocket.accept()
    await websocket.close(4002, "enough")


@application.websocket("/deny")
async def deny() -> None:
    """Refuse."""
    abort(401)
