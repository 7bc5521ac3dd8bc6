"""A Django site for the tests: its settings and URLs, and views as dwebsocket's users have them."""

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
    # Of one round, so that a test need not wait for it.
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    ROOT_URLCONF="tests.django_site",
    SECRET_KEY="for tests",
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    STATIC_URL="/static/",
    TIME_ZONE="UTC",
    USE_TZ=True,
)
django.setup()

# Django has to be set up before these.
from django.contrib.auth import login as log_in  # noqa: E402
from django.contrib.auth.decorators import login_required  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.core.exceptions import PermissionDenied  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.http import HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402
from django.utils.decorators import method_decorator  # noqa: E402
from django.views import View  # noqa: E402

from pushd.django.views import accept_websocket, publish, require_websocket  # noqa: E402

#: What views have noted.
noted: list[Any] = []

#: The sockets of those who chat: dwebsocket's users keep them like this.
clients: list[Any] = []


def prepare() -> None:
    """Make the tables, and a user; once."""
    call_command("migrate", verbosity=0)
    User.objects.get_or_create(username="ann")


@accept_websocket
def numbers(request: Any) -> Any:
    """Answer with as many messages as are asked for: the view of dwebsocket's own example."""
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
    """Send what anybody says to everybody: the view of dwebsocket's README."""
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
    """Note what comes, and send it back."""
    for message in request.websocket:
        noted.append(message)
        request.websocket.send(message)


@require_websocket
def scripted(request: Any) -> Any:
    """Do what the test has in mind."""
    return script[0](request)


#: What that is.
script: list[Callable[[Any], Any]] = [print]


@accept_websocket
def room(request: Any, room: str, number: int) -> Any:
    """Tell the parts of the path, what the session knows and who is logged in."""
    request.session.setdefault("first", room)
    said = f"{room} {number} {request.session['first']} {request.user}"
    if not request.is_websocket():
        return HttpResponse(said)
    return request.websocket.send(said)


@login_required  # type: ignore[untyped-decorator] # as all of Django
@require_websocket
def members(request: Any) -> None:
    """Greet who is logged in."""
    request.websocket.send(f"hello {request.user.username}")


@method_decorator(accept_websocket, name="dispatch")
class WebSocketSubscriber(View):
    """Both languages in a class."""

    def get(self, request: Any, name: str) -> Any:
        """Answer."""
        if not request.is_websocket():
            return HttpResponse(f"page {name}")
        request.websocket.send(f"feed {name}")
        return None


@method_decorator(accept_websocket, name="dispatch")
class Async(View):
    """A class that is async, which shows only when it has been called."""

    async def get(self, request: Any) -> Any:
        """Answer."""
        return HttpResponse("page")


def plain(request: Any) -> Any:
    """Serve WebSockets only where the setting says that all views do."""
    if hasattr(request, "websocket") and request.is_websocket():
        request.websocket.send("plain")
        return None
    return HttpResponse("plain")


def login(request: Any) -> HttpResponse:
    """Let Ann in."""
    log_in(request, User.objects.get(username="ann"))
    return HttpResponse("welcome")


def forbidden(request: Any) -> HttpResponse:
    """Let nobody in."""
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
    path("feed/<name>/", WebSocketSubscriber.as_view()),
    path("async/", Async.as_view()),
    path("plain/", plain),
    path("login/", login),
    path("forbidden/", forbidden),
    path("news/", news),
]
