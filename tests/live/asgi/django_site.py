"""A Django site with async views, Channels, and django-eventstream."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import django
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    SECRET_KEY="of a test",
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "channels",
        "django_eventstream",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "site.db"}},
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            # Without a time-out, which redis-py has since 8 and channels_redis does not expect.
            "CONFIG": {"hosts": [{"address": os.environ["LAYER"], "socket_timeout": None}]},
        }
        if "LAYER" in os.environ
        else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    },
    USE_TZ=True,
)
django.setup()

from asgiref.sync import async_to_sync  # noqa: E402 - models need the settings
from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.generic.websocket import (  # noqa: E402
    AsyncJsonWebsocketConsumer,
    WebsocketConsumer,
)
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.contrib.auth import aauthenticate, alogin  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.http import (  # noqa: E402
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    JsonResponse,
    StreamingHttpResponse,
)
from django.urls import include, path, re_path  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402
from django_eventstream import send_event  # noqa: E402

import pushd.asgi  # noqa: E402

ended: list[str] = []


class ChatConsumer(WebsocketConsumer):
    """The chat of the tutorial of Channels."""

    def connect(self) -> None:
        """Join the room."""
        name = self.scope["url_route"]["kwargs"]["room_name"]
        self.room_group_name = f"chat_{name}"
        async_to_sync(self.channel_layer.group_add)(self.room_group_name, self.channel_name)
        self.accept()

    def disconnect(self, close_code: int) -> None:
        """Leave the room."""
        async_to_sync(self.channel_layer.group_discard)(self.room_group_name, self.channel_name)
        ended.append(f"chat {close_code}")

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Send a message to the room."""
        async_to_sync(self.channel_layer.group_send)(
            self.room_group_name, {"type": "chat.message", "message": text_data}
        )

    def chat_message(self, event: dict[str, Any]) -> None:
        """Send a message of the room to the client."""
        self.send(text_data=event["message"])


class JsonConsumer(AsyncJsonWebsocketConsumer):
    """Knows its user and its session, and is in a group."""

    groups = ["everybody"]  # noqa: RUF012 - as Channels has it

    async def connect(self) -> None:
        """Let users in."""
        if self.scope["user"].is_anonymous:
            await self.close()
        else:
            await self.accept("json" if "json" in self.scope["subprotocols"] else None)

    async def receive_json(self, content: Any, **more: Any) -> None:
        """Tell who it is, send to all, or close."""
        if content == "who":
            user, visits = self.scope["user"].username, self.scope["session"].get("visits")
            await self.send_json({"user": user, "visits": visits})
        elif content == "close":
            await self.close(4003)
        else:
            await self.channel_layer.group_send("everybody", {"type": "tell", "content": content})

    async def disconnect(self, code: int) -> None:
        """Note the end."""
        ended.append(f"json {code}")

    async def tell(self, event: dict[str, Any]) -> None:
        """Send what was sent to all."""
        await self.send_json(event["content"])


async def page(request: HttpRequest) -> HttpResponse:
    """Count visits in the session, asynchronously, and publish."""
    visits = await request.session.aget("visits", 0) + 1
    await request.session.aset("visits", visits)
    await pushd.asgi.publish("visits", str(visits))
    return JsonResponse({"visits": visits})


async def login(request: HttpRequest) -> HttpResponse:
    """Log in."""
    user = await aauthenticate(request, username="ada", password="secret")
    assert user is not None
    await alogin(request, user)
    return HttpResponse("welcome")


async def stream(request: HttpRequest) -> HttpResponseBase:
    """Send parts until the client leaves."""

    async def parts() -> AsyncIterator[bytes]:
        try:
            for number in range(int(request.GET["count"])):
                yield b"part %d\n" % number
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            ended.append("stream")
            raise

    return StreamingHttpResponse(parts())


def sync_page(request: HttpRequest) -> HttpResponse:
    """Answer in a thread."""
    return JsonResponse({"users": User.objects.count(), "size": len(request.body)})


def send(request: HttpRequest) -> HttpResponse:
    """Send an event to django-eventstream's clients."""
    send_event("news", "message", {"text": request.GET["text"]})
    return HttpResponse("sent")


async def what_ended(request: HttpRequest) -> HttpResponse:
    """Return what has ended."""
    return JsonResponse(ended, safe=False)


urlpatterns = [
    path("page/", page),
    path("login/", login),
    path("stream/", stream),
    path("sync/", csrf_exempt(sync_page)),
    path("send/", send),
    path("ended/", what_ended),
    path("events/", include("django_eventstream.urls"), {"channels": ["news"]}),
]

call_command("migrate", verbosity=0)
User.objects.create_user("ada", password="secret")

application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": AllowedHostsOriginValidator(
            AuthMiddlewareStack(
                URLRouter(
                    [
                        re_path(r"ws/chat/(?P<room_name>\w+)/$", ChatConsumer.as_asgi()),
                        path("ws/json/", JsonConsumer.as_asgi()),
                    ]
                )
            )
        ),
    }
)
