"""A Starlette application with all that it has for HTTP and WebSockets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.endpoints import WebSocketEndpoint
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import (
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

done: list[str] = []


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    """Keep a state for the requests."""
    yield {"number": 7}
    print("the application has stopped", flush=True)  # noqa: T201 - a sign for the test


async def state(request: Request) -> Response:
    """Return what the start has kept."""
    return JSONResponse({"number": request.state.number})


async def stream(request: Request) -> Response:
    """Send parts with pauses."""

    async def parts() -> AsyncIterator[str]:
        for number in range(5):
            yield f"part {number}\n"
            await asyncio.sleep(0.01)

    return StreamingResponse(parts(), media_type="text/plain")


async def endless(request: Request) -> Response:
    """Send until the client leaves."""

    async def parts() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0.01)
        finally:
            done.append("left")

    return StreamingResponse(parts())


async def background(request: Request) -> Response:
    """Do something after the response, in a thread."""
    return PlainTextResponse("soon", background=BackgroundTask(done.append, "background"))


async def what_was_done(request: Request) -> Response:
    """Return what was done after responses."""
    return JSONResponse(done)


async def upload(request: Request) -> Response:
    """Read a form with a file."""
    async with request.form() as form:
        file: Any = form["file"]
        return JSONResponse({"name": file.filename, "size": len(await file.read())})


async def streamed_upload(request: Request) -> Response:
    """Read a body in its parts."""
    size = 0
    async for part in request.stream():
        size += len(part)
    return JSONResponse({"size": size})


async def failing(request: Request) -> Response:
    """Raise what an exception handler answers."""
    raise LookupError("nothing here")


async def answer_failure(request: Request, error: Exception) -> Response:
    """Answer an exception."""
    return PlainTextResponse(str(error), 404)


async def redirect(request: Request) -> Response:
    """Lead to another page, by its name."""
    return RedirectResponse(request.url_for("state"))


class Echo(WebSocketEndpoint):
    """Sends JSON back."""

    encoding = "json"

    async def on_connect(self, websocket: WebSocket) -> None:
        """Choose a subprotocol, and add a header."""
        protocol = next(iter(websocket.scope["subprotocols"]), None)
        await websocket.accept(protocol, headers=[(b"x-number", b"%d" % websocket.state.number)])

    async def on_receive(self, websocket: WebSocket, data: Any) -> None:
        """Send it back."""
        await websocket.send_json({"you": data})

    async def on_disconnect(self, websocket: WebSocket, close_code: int) -> None:
        """Note the code."""
        done.append(f"closed with {close_code}")


async def deny(websocket: WebSocket) -> None:
    """Refuse a handshake with a response."""
    await websocket.send_denial_response(JSONResponse({"error": "no"}, 401))


async def add_header(request: Request, call_next: Any) -> Response:
    """Add a header to each response."""
    response: Response = await call_next(request)
    response.headers["x-middleware"] = "yes"
    return response


application = Starlette(
    routes=[
        Route("/state", state, name="state"),
        Route("/stream", stream),
        Route("/endless", endless),
        Route("/background", background),
        Route("/done", what_was_done),
        Route("/upload", upload, methods=["POST"]),
        Route("/streamed", streamed_upload, methods=["PUT"]),
        Route("/failing", failing),
        Route("/redirect", redirect),
        WebSocketRoute("/echo", Echo),
        WebSocketRoute("/deny", deny),
        Mount("/static", StaticFiles(directory=os.environ.get("STATIC", "."))),
    ],
    middleware=[
        Middleware(BaseHTTPMiddleware, dispatch=add_header),
        Middleware(GZipMiddleware, minimum_size=1000),
    ],
    exception_handlers={LookupError: answer_failure},
    lifespan=lifespan,
)
