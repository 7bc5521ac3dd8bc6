"""An ASGI application for tests: without a framework, and told by its environment how to start."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from pushd.gateways.asgi.scope import Receive, Scope, Send

# How many bytes a download has, in parts.
DOWNLOAD = 64 << 20
_PART = bytes(1 << 16)


async def live(scope: Scope, receive: Receive, send: Send) -> None:
    """Start, as the environment says, and stop."""
    await receive()
    print("the application starts", flush=True)  # noqa: T201 - a sign for the test
    try:
        await asyncio.sleep(float(os.environ.get("START_SECONDS", "0")))
    finally:
        print("its start is over", flush=True)  # noqa: T201 - likewise
    if reason := os.environ.get("START_FAILS"):
        await send({"type": "lifespan.startup.failed", "message": reason})
        return
    scope["state"]["greeting"] = "hello"
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print("the application stops", flush=True)  # noqa: T201 - likewise
    await send({"type": "lifespan.shutdown.complete"})


async def answer(send: Send, body: bytes) -> None:
    """Send a small response."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def upload(receive: Receive, send: Send) -> None:
    """Read slowly at first, then tell how much has come and the largest part."""
    await asyncio.sleep(1)
    size = largest = 0
    more = True
    while more:
        event: dict[str, Any] = await receive()
        size, largest = size + len(event["body"]), max(largest, len(event["body"]))
        more = event["more_body"]
    await answer(send, b"%d %d" % (size, largest))


async def download(send: Send) -> None:
    """Send much, as fast as the client takes it."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(DOWNLOAD // len(_PART)):
        await send({"type": "http.response.body", "body": _PART, "more_body": True})
    await send({"type": "http.response.body"})


async def echo(receive: Receive, send: Send) -> None:
    """Send each message back."""
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})
    print(f"closed with {event['code']}", flush=True)  # noqa: T201 - a sign for the test


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve."""
    if scope["type"] == "lifespan":
        await live(scope, receive, send)
    elif scope["type"] == "websocket":
        await echo(receive, send)
    elif scope["path"] == "/upload":
        await upload(receive, send)
    elif scope["path"] == "/download":
        await download(send)
    elif scope["path"] == "/slow":
        await asyncio.sleep(1)
        await answer(send, b"slow")
    else:
        await answer(send, scope["state"]["greeting"].encode())
