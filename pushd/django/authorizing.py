"""The setting ``PUSHD_AUTHORIZE``: a function of the site decides who may use topics; revoking.

The function is called with the request that a page would get for the same cookies: this runs the
middleware of the site, with a view of its own at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from inspect import iscoroutinefunction
from typing import Any, cast

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
from django.core.signals import request_started
from django.http import HttpRequest, HttpResponse
from django.urls import re_path
from django.utils import module_loading

from pushd.access.permissions import Permission
from pushd.client import anywhere
from pushd.django.publishing import find_control_url
from pushd.errors import NotPermitted
from pushd.gateways.environ import make_environ
from pushd.views import inprocess
from pushd.views.request import Request
from pushd.views.routes import explain_import

_SETTING = "PUSHD_AUTHORIZE"


def find_function() -> Callable[..., Any]:
    """Return the function that the setting names. Raises ImproperlyConfigured."""
    name = getattr(settings, _SETTING, None)
    try:
        function = module_loading.import_string(name) if isinstance(name, str) else name
    except ImportError as error:
        raise ImproperlyConfigured(f"{_SETTING} = {name!r}: {error}") from error
    except Exception as error:  # The module of the function may raise anything.
        explained = explain_import(error, module_loading.__file__)
        raise ImproperlyConfigured(f"{_SETTING} = {name!r}: {explained}") from error
    if not callable(function):
        raise ImproperlyConfigured(
            f'{_SETTING} must name a function, as "app.module.function" does; got {name!r}'
        )
    if iscoroutinefunction(function):
        raise ImproperlyConfigured(
            f"{_SETTING} = {name!r} is async def: it runs in a thread, and must be a plain def"
        )
    return cast(Callable[..., Any], function)


def authorize(request: Request, action: str, topic: str) -> Any:
    """Ask the function of the site, in this thread: an authorizer for ``--authorize``.

    A user that is logged in is the subject of the permission, by the primary key, unless the
    function names another.
    """
    return _ask(find_function(), WSGIRequest(make_environ(request)), action, topic)


def revoke(*, topic: str | None = None, subject: str | None = None) -> int:
    """End the subscriptions to a topic, or of a subject, from any process of the site.

    Returns how many these are. The topic may be a pattern; the subject of a user is the primary
    key, as text. As ``publish`` does, this asks the pushd of this process, or else the one at the
    setting or the environment variable ``PUSHD_CONTROL_URL``; in Django's tests it does nothing
    unless a ``pushd.testing.Daemon`` runs. Raises ValueError without topic and subject, or for an
    invalid pattern, and Unavailable if pushd cannot be reached, or cannot tell other nodes yet.
    """
    if topic is None and subject is None:
        raise ValueError("topic or subject must be given")
    if inprocess.is_running():
        return inprocess.revoke(topic=topic, subject=subject)
    url = find_control_url()
    return 0 if url is None else anywhere.revoke_at(url, topic, subject)


def _ask(function: Callable[..., Any], request: Any, action: str, topic: str) -> Any:
    """Run the middleware of the site for a request, and the function at its end."""
    request.urlconf = __name__
    request.pushd_question = question = _Question(function, action, topic)
    # As the handler does for each request: these signals open and close connections to databases.
    request_started.send(sender=WSGIHandler, environ=request.environ)
    response = _handler(tuple(settings.MIDDLEWARE)).get_response(request)
    response.close()
    return question.result(response)


class _Question:
    """A question to the function of the site, and its answer."""

    def __init__(self, function: Callable[..., Any], action: str, topic: str) -> None:
        self._function = function
        self._action = action
        self._topic = topic
        self._answer: Any = None
        self._error: Exception | None = None
        self._asked = False

    def ask(self, request: HttpRequest) -> None:
        """Ask. What the function raises is raised, for the site's own reports of errors."""
        self._asked = True
        try:
            self._answer = _with_subject(
                self._function(request, self._action, self._topic), request
            )
        except Exception as error:
            self._error = error
            raise

    def result(self, response: HttpResponse) -> Any:
        """Return the answer, or raise what the function or the middleware raised.

        :param response: of the middleware.
        """
        if isinstance(self._error, PermissionDenied):
            return NotPermitted(*map(str, self._error.args[:1]))
        if self._error is not None:
            raise self._error
        if self._asked:
            return self._answer
        if response.status_code >= 500:
            raise RuntimeError(
                f"the middleware of the site answered {response.status_code} before the function "
                f"of {_SETTING} was called"
            )
        # A redirect to the login page, for example, or to https.
        refused = NotPermitted(status=401 if response.status_code == 401 else 403)
        refused.help = (
            f"the middleware of the site answered {response.status_code} before the function of "
            f"{_SETTING} was called"
        )
        return refused


def _with_subject(answer: Any, request: Any) -> Any:
    """Return an answer with the user of the request as its subject, if it is yes without one."""
    if answer is not True and not (isinstance(answer, Permission) and answer.subject is None):
        return answer
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return answer
    permission = Permission() if answer is True else answer
    return Permission(
        subject=str(user.pk),
        until=permission.until,
        info=permission.info,
        cache=permission.cache,
    )


def _answer(request: Any) -> HttpResponse:
    """Ask the function, as the view of the request."""
    request.pushd_question.ask(request)
    return HttpResponse()


# The function decides, not LoginRequiredMiddleware; and the Origin has been checked, of which CSRF
# tokens are a substitute.
_answer.login_required = False  # type: ignore[attr-defined] # Django looks for it
_answer.csrf_exempt = True  # type: ignore[attr-defined] # Django looks for it

#: The URLs of the site for these requests: every path leads to the view.
urlpatterns = [re_path("", _answer)]


@lru_cache(maxsize=1)
def _handler(middleware: tuple[str, ...]) -> WSGIHandler:
    """Return a handler with its own instances of the site's middleware, made once.

    :param middleware: the setting, which tests change.
    """
    return WSGIHandler()
