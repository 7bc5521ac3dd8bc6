"""Publishing from coroutines: to the daemon that runs them, or to one elsewhere."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from twisted.internet.defer import Deferred

from pushd.client import anywhere
from pushd.views.inprocess import find_publisher


async def publish(
    topic: str,
    data: str | bytes | dict[str, Any] | list[Any],
    *,
    event: str | None = None,
    delay: float | None = None,
    at: datetime | None = None,
    every: float | None = None,
    count: int | None = None,
) -> Any:
    """Publish to a topic, from any coroutine; see ``Request.publish``.

    Under ``twistd pushd --asgi`` that is a call within the process. In another process, such as a
    worker or a test, it is a request to the control port, in a thread; see ``pushd.publish``, which
    also says what it returns and raises.
    """
    options: dict[str, Any] = {
        "event": event,
        "delay": delay,
        "at": at,
        "every": every,
        "count": count,
    }
    loop = asyncio.get_running_loop()
    publisher = find_publisher(loop)
    if publisher is None:
        return await asyncio.to_thread(anywhere.publish, topic, data, **options)
    published = publisher.publish(topic, data, **options)
    if isinstance(published, Deferred):
        return await published.asFuture(loop)
    await published.kept().asFuture(loop)
    return published


async def last_id(topic: str) -> str:
    """Return the id with which a page that is made now subscribes to a topic.

    See ``pushd.last_id``, which also says what it raises.
    """
    loop = asyncio.get_running_loop()
    publisher = find_publisher(loop)
    if publisher is None:
        return await asyncio.to_thread(anywhere.last_id, topic)
    id: str = await publisher.last_id(topic).asFuture(loop)
    return id
