"""A Django site whose ``async def`` views serve WebSockets, without Channels."""

from __future__ import annotations

import threading
from collections.abc import Callable
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
    ],
    MIDDLEWARE=[
        f"{__name__}.SynchronousMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "site.db"}},
    PUSHD_AUTHORIZE=f"{__name__}.may",
    USE_TZ=True,
)


class SynchronousMiddleware:
    """Middleware that can only run in a thread."""

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._get_response = get_response

    def __call__(self, request: Any) -> Any:
        """Handle a request."""
        return self._get_response(request)


django.setup()

from django.contrib.auth import aauthenticate, alogin  # noqa: E402 - models need the settings
from django.contrib.auth.models import User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.http import HttpResponse, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402

from pushd.asgi import publish  # noqa: E402
from pushd.django import get_asgi_application, require_websocket  # noqa: E402


def may(request: Any, action: str, topic: str) -> bool:
    """Let users subscribe."""
    return action == "subscribe" and bool(request.user.is_authenticated)


async def login(request: Any) -> HttpResponse:
    """Log in."""
    user = await aauthenticate(request, username="ada", password="secret")
    assert user is not None
    await alogin(request, user)
    return HttpResponse("welcome")


async def threads(request: Any) -> JsonResponse:
    """Return how many threads there are."""
    return JsonResponse(threading.active_count(), safe=False)


@require_websocket
async def room(request: Any, name: str) -> None:
    """Publish what a user says to a room, and count users."""
    websocket = request.websocket
    user = await request.auser()
    await websocket.subscribe(f"rooms/{name}")
    async for message in websocket:
        if message == "count":
            await websocket.send(f"{user.username or 'nobody'}: {await User.objects.acount()}")
        else:
            await publish(f"rooms/{name}", message)


urlpatterns = [
    path("login/", login),
    path("threads/", threads),
    path("rooms/<name>/", room),
]

call_command("migrate", verbosity=0)
User.objects.create_user("ada", password="secret")

application = get_asgi_application()
