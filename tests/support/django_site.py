"""A Django site for tests: settings, URLs, and views in the style of dwebsocket's users."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import django
from django.conf import settings

# What a new project has, as far as it matters here.
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]

WEBSOCKETS = "pushd.django.WebSocketMiddleware"

settings.configure(
    ALLOWED_HOSTS=["localhost"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(Path(mkdtemp()) / "site.sqlite3"),
        }
    },
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.staticfiles",
        "pushd.django",
    ],
    LOGGING_CONFIG=None,
    LOGIN_URL="/login/",
    MIDDLEWARE=MIDDLEWARE,
    # With a single round, for speed.
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    ROOT_URLCONF="tests.support.django_site",
    SECRET_KEY="for tests",
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    STATIC_URL="/static/",
    TIME_ZONE="UTC",
    USE_TZ=True,
)
django.setup()

# Django must be set up before these imports.
from django.contrib.auth import login as log_in  # noqa: E402
from django.contrib.auth.decorators import login_required  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.core.exceptions import PermissionDenied  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.http import HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402
from django.utils.decorators import method_decorator  # noqa: E402
from django.views import View  # noqa: E402

from pushd.django.publishing import publish  # noqa: E402
from pushd.django.views import accept_websocket, require_websocket  # noqa: E402

# What views record.
recorded: list[Any] = []

# The sockets of a chat, kept as dwebsocket's users do.
clients: list[Any] = []


def prepare() -> None:
    """Create the tables and a user, once."""
    call_command("migrate", verbosity=0)
    User.objects.get_or_create(username="ann")


@accept_websocket
def numbers(request: Any) -> Any:
    """Answer each number of a message: the view of dwebsocket's example."""
    if not request.is_websocket():
        return HttpResponse(f"page, {request.websocket}")
    else:
        for message in request.websocket:
            if not message:
                break
            for number in json.loads(message):
                request.websocket.send(f"service message: {number}".encode())


@accept_websocket
def chat(request: Any) -> Any:
    """Send each message to all clients: the view of dwebsocket's README."""
    if request.is_websocket():
        try:
            clients.append(request.websocket)
            for message in request.websocket:
                for client in clients:
                    client.send(message)
        finally:
            clients.remove(request.websocket)


@require_websocket
def echo(request: Any) -> None:
    """Record each message, and send it back."""
    for message in request.websocket:
        recorded.append(message)
        request.websocket.send(message)


@require_websocket
def scripted(request: Any) -> Any:
    """Call the function that the test has set."""
    return script[0](request)


@accept_websocket
async def async_scripted(request: Any) -> Any:
    """Call the coroutine function that the test has set."""
    return await script[0](request)


@require_websocket
async def async_echo(request: Any) -> None:
    """Record each message, and send it back."""
    async for message in request.websocket:
        recorded.append(message)
        await request.websocket.send(message, binary=isinstance(message, bytes))


# The function that ``scripted`` and ``async_scripted`` call.
script: list[Callable[[Any], Any]] = [print]


@accept_websocket
def room(request: Any, room: str, number: int) -> Any:
    """Answer with the parts of the path, the session and the user."""
    request.session.setdefault("first", room)
    said = f"{room} {number} {request.session['first']} {request.user}"
    if not request.is_websocket():
        return HttpResponse(said)
    return request.websocket.send(said)


@login_required  # type: ignore[untyped-decorator] # as all of Django
@require_websocket
def members(request: Any) -> None:
    """Greet the user."""
    request.websocket.send(f"hello {request.user.username}")


@method_decorator(accept_websocket, name="dispatch")
class Feed(View):
    """A class-based view that serves both."""

    def get(self, request: Any, name: str) -> Any:
        """Answer."""
        if not request.is_websocket():
            return HttpResponse(f"page {name}")
        request.websocket.send(f"feed {name}")
        return None


@method_decorator(accept_websocket, name="dispatch")
class AsyncView(View):
    """A class-based view that is async, which shows only when it is called."""

    async def get(self, request: Any) -> Any:
        """Answer."""
        if not request.is_websocket():
            return HttpResponse("page")
        return await request.websocket.send("async class")


@method_decorator(require_websocket, name="dispatch")
class AsyncSocketView(AsyncView):
    """One that requires a WebSocket."""


async def async_plain(request: Any) -> Any:
    """Serve WebSockets only with WEBSOCKET_ACCEPT_ALL."""
    if request.is_websocket():
        return await request.websocket.send("plain")
    return HttpResponse("plain")


def plain(request: Any) -> Any:
    """Serve WebSockets only with WEBSOCKET_ACCEPT_ALL."""
    if hasattr(request, "websocket") and request.is_websocket():
        request.websocket.send("plain")
        return None
    return HttpResponse("plain")


def login(request: Any) -> HttpResponse:
    """Log Ann in."""
    log_in(request, User.objects.get(username="ann"))
    return HttpResponse("welcome")


def forbidden(request: Any) -> HttpResponse:
    """Raise PermissionDenied."""
    raise PermissionDenied


def news(request: Any) -> HttpResponse:
    """Publish."""
    return HttpResponse(str(publish("news", request.GET["text"])))


urlpatterns = [
    path("numbers/", numbers),
    path("chat/", chat),
    path("echo/", echo),
    path("scripted/", scripted),
    path("room/<str:room>/<int:number>/", room),
    path("members/", members),
    path("feed/<name>/", Feed.as_view()),
    path("async/", AsyncView.as_view()),
    path("async-socket/", AsyncSocketView.as_view()),
    path("async-scripted/", async_scripted),
    path("async-echo/", async_echo),
    path("async-plain/", async_plain),
    path("plain/", plain),
    path("login/", login),
    path("forbidden/", forbidden),
    path("news/", news),
]
