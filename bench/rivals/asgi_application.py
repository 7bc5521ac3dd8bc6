"""The application that all servers for ASGI run: a page, an echo, and consumers of Channels.

The page and one echo are plain ASGI, so that little but the server is measured. The other echo and
the group are Channels'. The consumers of topics need pushd.
"""

from __future__ import annotations

from typing import Any

# Its settings come before Channels, which reads them when it is imported.
from channels_application import Echo, Publish, Subscribe

# isort: split
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import URLRouter
from django.urls import path

TOPIC = "bench"

BODY = b"Hello, world!\n"
HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(BODY))]


class SubscribeTopic(AsyncWebsocketConsumer):
    """Leaves its client to a topic."""

    async def connect(self) -> None:
        await self.accept()
        await self.scope["extensions"]["pushd"]["subscribe"](TOPIC)


class PublishTopic(AsyncWebsocketConsumer):
    """Publishes each message to the topic."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.scope["extensions"]["pushd"]["publish"](TOPIC, text_data)


async def page(scope: Any, receive: Any, send: Any) -> None:
    """Answer every request alike."""
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Send each message back."""
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event["text"]})


consumers = URLRouter(
    [
        path("consumer/", Echo.as_asgi()),
        path("subscribe/", Subscribe.as_asgi()),
        path("publish/", Publish.as_asgi()),
        path("subscribe-topic/", SubscribeTopic.as_asgi()),
        path("publish-topic/", PublishTopic.as_asgi()),
    ]
)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Serve the page, the echo, or a consumer."""
    if scope["type"] == "http":
        await page(scope, receive, send)
    elif scope["type"] == "websocket":
        await (echo if scope["path"] == "/echo/" else consumers)(scope, receive, send)
    else:
        raise NotImplementedError(scope["type"])  # The server goes on without a lifespan.
