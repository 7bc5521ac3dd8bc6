"""Views that use libraries on asyncio, for the tests with ``--loop asyncio``."""

from __future__ import annotations

import asyncio
import os
from contextvars import ContextVar
from typing import Any

import aiohttp
import anyio
import httpx
import redis.asyncio
from sqlalchemy import AsyncAdaptedQueuePool
from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from twisted.internet.task import deferLater

from pushd.schedule import PushSchedule
from pushd.views import Request, accept_websocket, require_websocket

_number: ContextVar[str] = ContextVar("number")
_ended: list[str] = []
_engines: list[AsyncEngine] = []
_lock = asyncio.Lock()


async def page(request: Request) -> str:
    """Answer after a while, for the HTTP clients of the other views."""
    await asyncio.sleep(0.01)
    return f"page {request.query['n']}"


@require_websocket
async def fetch(request: Request) -> None:
    """Fetch a page for each message, with both HTTP clients at once."""
    url = f"http://{request.host}/page/"

    async def with_httpx(number: str) -> str:
        # Without certificates, which take long to load, 200 times.
        async with httpx.AsyncClient(timeout=30, verify=False, trust_env=False) as client:
            return (await client.get(url, params={"n": number})).text

    async def with_aiohttp(number: str) -> str:
        timeout = aiohttp.ClientTimeout(30)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, params={"n": number}) as answer,
        ):
            text: str = await answer.text()
            return text

    async for number in request.websocket:
        results = await asyncio.gather(with_httpx(number), with_aiohttp(number))
        await request.websocket.send(" ".join(results))


async def _open_database() -> AsyncEngine:
    """Return the engine, which has one connection that all views share."""
    async with _lock:
        if not _engines:
            engine = create_async_engine(
                "sqlite+aiosqlite://",
                poolclass=AsyncAdaptedQueuePool,
                pool_size=1,
                max_overflow=0,
                pool_timeout=60,
            )
            async with engine.begin() as connection:
                await connection.execute(sql("CREATE TABLE lines (browser TEXT, line TEXT)"))
            _engines.append(engine)
    return _engines[0]


@require_websocket
async def database(request: Request) -> None:
    """Insert each message into a database, and send how many there are of this browser."""
    engine = await _open_database()
    async for line in request.websocket:
        values = {"browser": request.peer, "line": line}
        async with engine.begin() as connection:
            await connection.execute(sql("INSERT INTO lines VALUES (:browser, :line)"), values)
            count = await connection.scalar(
                sql("SELECT count(*) FROM lines WHERE browser = :browser"), values
            )
        await request.websocket.send(str(count))


@require_websocket
async def over_redis(request: Request) -> None:
    """Send what comes over a channel of Redis, and publish there what the browser sends."""
    channel = request.query["channel"]
    async with (
        redis.asyncio.from_url(os.environ["REDIS_OF_VIEWS"]) as client,
        client.pubsub() as subscription,
        anyio.create_task_group() as group,
    ):
        await subscription.subscribe(channel)

        async def forward() -> None:
            async for message in subscription.listen():
                if message["type"] == "message":
                    await request.websocket.send(message["data"].decode())

        group.start_soon(forward)
        await request.websocket.send("ready")
        async for message in request.websocket:
            await client.publish(channel, message)
        group.cancel_scope.cancel()
    _ended.append("redis")


@require_websocket
async def everything(request: Request) -> None:
    """Do a little of everything for each message."""
    _number.set(request.query["n"])
    queue = asyncio.Queue[str]()

    async def read() -> None:
        async for message in request.websocket:
            await queue.put(message)
        await queue.put("")

    async def push() -> None:
        async for number in PushSchedule(request.clock, count=2, interval=0.05):
            await request.websocket.send(f"push {number} of {_number.get()}")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            while message := await queue.get():
                async with asyncio.timeout(30):
                    await asyncio.create_task(push())
                    await deferLater(request.clock, 0.01)
                    double = await asyncio.to_thread(str.__mul__, message, 2)
                await request.publish(f"of/{_number.get()}", double)
                await request.websocket.send(f"{double} {_number.get()}")
    finally:
        await asyncio.sleep(0)
        _ended.append(_number.get())


@require_websocket
async def stuck(request: Request) -> None:
    """Wait for what never comes, in a task."""
    request.websocket.accept()

    async def child() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            _ended.append("child")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            await asyncio.Event().wait()
    finally:
        _ended.append("stuck")


@accept_websocket
async def ended(request: Request) -> str:
    """Tell which conversations have ended."""
    return " ".join(sorted(_ended))


async def fail(request: Request) -> None:
    """Leave a task behind that fails."""
    await asyncio.create_task(asyncio.sleep(0))
    _tasks.append(asyncio.create_task(_raise()))


async def _raise() -> None:
    _tasks.clear()
    raise ZeroDivisionError


_tasks: list[asyncio.Task[None]] = []


async def authorize(request: Request, action: str, topic: str) -> bool:
    """Permit what another server permits."""
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://{request.host}/page/", params={"n": topic})
    return answer.text != "page secret"


views: dict[str, Any] = {
    "/page/": page,
    "/fetch/": fetch,
    "/database/": database,
    "/redis/": over_redis,
    "/everything/": everything,
    "/stuck/": stuck,
    "/ended/": ended,
    "/fail/": fail,
}
