"""A Django site with users and sessions in a database, whose topics are for their users only.

It is served with ``--wsgi tests.support.session_site:application``, in a process of its own.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import django
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(Path(mkdtemp()) / "site.sqlite3"),
        }
    },
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
    ],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    # With a single round, for speed.
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    PUSHD_AUTHORIZE="tests.support.session_site.may",
    ROOT_URLCONF="tests.support.session_site",
    SECRET_KEY="for tests",
    TIME_ZONE="UTC",
    USE_TZ=True,
)
django.setup()

# Django must be set up before these imports.
from django.contrib.auth import login, logout  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.core.handlers.wsgi import WSGIHandler  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.http import HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402

from pushd.django import publish, revoke  # noqa: E402

call_command("migrate", verbosity=0)
for _name in ("ann", "bob"):
    User.objects.get_or_create(username=_name)

application = WSGIHandler()


def may(request: Any, action: str, topic: str) -> bool:
    """Let users subscribe to the topic with their name."""
    return action == "subscribe" and topic == f"users/{request.user.username}"


def index(request: Any) -> HttpResponse:
    """Answer with a page in which the tests subscribe."""
    return HttpResponse(f"<title>{request.user}</title>")


def log_in(request: Any, name: str) -> HttpResponse:
    """Log a user in, and answer with the page."""
    login(request, User.objects.get(username=name))
    return index(request)


def log_out(request: Any) -> HttpResponse:
    """Log the user out, and end what the user is subscribed to."""
    key = str(request.user.pk)
    logout(request)
    return HttpResponse(str(revoke(subject=key)))


def tell(request: Any, name: str) -> HttpResponse:
    """Publish to the topic of a user."""
    publish(f"users/{name}", "hello")
    return HttpResponse("published")


urlpatterns = [
    path("", index),
    path("login/<name>/", log_in),
    path("logout/", log_out),
    path("tell/<name>/", tell),
]
