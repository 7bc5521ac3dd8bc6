"""Event streams of sse-starlette."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

ended: list[str] = []


async def events(request: Request) -> Response:
    """Send events until the client leaves."""
    name = request.query_params["name"]

    async def made() -> AsyncIterator[dict[str, Any]]:
        try:
            number = 0
            while True:
                yield {"id": str(number), "event": "number", "data": str(number)}
                number += 1
                await asyncio.sleep(0.02)
        finally:
            ended.append(name)
            print(f"{name} has ended", flush=True)  # noqa: T201 - a sign for the test

    return EventSourceResponse(made(), ping=1)


async def what_ended(request: Request) -> Response:
    """Return the streams that have ended."""
    return JSONResponse(ended)


application = Starlette(routes=[Route("/events", events), Route("/ended", what_ended)])
