"""A FastAPI application: dependencies, background tasks, uploads, and topics of pushd's."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import (
    BackgroundTasks,
    Depends,
    FastAPI,
    HTTPException,
    Query,
    Request,
    UploadFile,
    WebSocket,
    WebSocketDisconnect,
    WebSocketException,
    status,
)
from pydantic import BaseModel

from pushd.asgi import last_id, publish

application = FastAPI()
done: list[str] = []


class Order(BaseModel):
    """An order."""

    number: int
    lines: list[str] = []


def find_user(token: Annotated[str | None, Query()] = None) -> str:
    """Return who asks; runs in a thread."""
    if token != "secret":
        raise WebSocketException(status.WS_1008_POLICY_VIOLATION)
    return "user"


@application.post("/orders", status_code=201)
async def create(order: Order, tasks: BackgroundTasks) -> dict[str, Any]:
    """Publish an order, and again behind the response."""
    await publish("orders", {"number": order.number})
    tasks.add_task(publish, "orders", {"packed": order.number})
    tasks.add_task(done.append, f"order {order.number}")
    return {"after": str(await last_id("orders"))}


@application.get("/sync/{number}")
def in_thread(number: int) -> dict[str, int]:
    """Run in a thread."""
    if number < 0:
        raise HTTPException(404, "no such number")
    return {"number": number}


@application.post("/file")
async def upload(file: UploadFile) -> dict[str, Any]:
    """Tell the size of a file."""
    return {"size": len(await file.read())}


@application.get("/where")
async def where(request: Request) -> dict[str, Any]:
    """Tell what the application knows of the client and of itself."""
    assert request.client is not None
    return {"client": request.client.host, "url": str(request.url), "base": str(request.base_url)}


@application.websocket("/chat")
async def chat(websocket: WebSocket, user: Annotated[str, Depends(find_user)]) -> None:
    """Answer, and count in a task of its own."""
    await websocket.accept()

    async def count() -> None:
        for number in range(3):
            await websocket.send_text(f"count {number}")
            await asyncio.sleep(0.01)

    counting = asyncio.create_task(count())
    try:
        async for text in websocket.iter_text():
            await counting
            await websocket.send_json({user: text})
    except WebSocketDisconnect:
        done.append("never: iter_text ends by itself")


@application.websocket("/feed")
async def feed(websocket: WebSocket) -> None:
    """Leave the client to a topic of pushd's."""
    await websocket.accept()
    await websocket.scope["extensions"]["pushd"]["subscribe"]("orders")
    await websocket.send_text("subscribed")
    async for _ in websocket.iter_text():
        pass
