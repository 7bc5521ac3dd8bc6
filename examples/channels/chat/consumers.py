"""Two consumers for one chat: that of Channels' tutorial, and one that leaves the rest to pushd."""

import json
from typing import Any

from channels.generic.websocket import AsyncWebsocketConsumer

from pushd.asgi import publish


class ChatConsumer(AsyncWebsocketConsumer):
    """A room is a group, as in the tutorial: nothing in here knows of pushd."""

    async def connect(self) -> None:
        """Join the room."""
        self.room_name = self.scope["url_route"]["kwargs"]["room_name"]
        self.room_group_name = f"chat_{self.room_name}"
        await self.channel_layer.group_add(self.room_group_name, self.channel_name)
        await self.accept()

    async def disconnect(self, close_code: int) -> None:
        """Leave the room."""
        await self.channel_layer.group_discard(self.room_group_name, self.channel_name)

    async def receive(self, text_data: str) -> None:
        """Send a message of the browser to the room."""
        message = json.loads(text_data)["message"]
        await self.channel_layer.group_send(
            self.room_group_name, {"type": "chat.message", "message": message}
        )

    async def chat_message(self, event: dict[str, Any]) -> None:
        """Send a message of the room to the browser."""
        await self.send(text_data=json.dumps({"message": event["message"]}))


class TopicChatConsumer(AsyncWebsocketConsumer):
    """A room is a topic: its messages reach the browsers without a call for each of them."""

    async def connect(self) -> None:
        """Join the room; the browser leaves it when its connection ends."""
        self.topic = f"chat/{self.scope['url_route']['kwargs']['room_name']}"
        await self.accept()
        await self.scope["extensions"]["pushd"]["subscribe"](self.topic)

    async def receive(self, text_data: str) -> None:
        """Publish a message of the browser."""
        await publish(self.topic, {"message": json.loads(text_data)["message"]})
