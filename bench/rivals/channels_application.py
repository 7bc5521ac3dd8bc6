"""Channels as its documentation says: consumers and groups on the in-memory layer, with Daphne."""

from __future__ import annotations

import asyncio
from typing import Any

import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
    SECRET_KEY="nothing is signed here",
)
django.setup()

# Channels reads the settings when it is imported.
from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402

GROUP = "bench"


class Demo(AsyncWebsocketConsumer):
    """Ten pushes, half a second apart, then a Close."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        self.task = asyncio.create_task(self._push())

    async def _push(self) -> None:
        for number in range(10):
            await self.send(f"service message: {number}")
            await asyncio.sleep(0.5)
        await self.close(1000)


class Subscribe(AsyncWebsocketConsumer):
    """Receives every publication."""

    async def connect(self) -> None:
        await self.channel_layer.group_add(GROUP, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(GROUP, self.channel_name)

    async def publication(self, event: dict[str, Any]) -> None:
        """Send a publication to the subscriber."""
        await self.send(event["text"])


class Publish(AsyncWebsocketConsumer):
    """Publishes each message to every subscriber."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send(GROUP, {"type": "publication", "text": text_data})


class Echo(AsyncWebsocketConsumer):
    """Sends each message back."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data)


application = ProtocolTypeRouter(
    {
        "websocket": URLRouter(
            [
                path("test/", Demo.as_asgi()),
                path("subscribe/", Subscribe.as_asgi()),
                path("publish/", Publish.as_asgi()),
                path("echo/", Echo.as_asgi()),
            ]
        )
    }
)
