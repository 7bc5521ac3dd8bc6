"""The setting PUSHD_AUTHORIZE: a function of a Django site decides who may use topics."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from http.cookies import SimpleCookie
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import got_request_exception, request_finished, request_started
from django.http import HttpResponse
from django.test import override_settings
from django.test.utils import setup_test_environment, teardown_test_environment
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import PERMISSION_REVOKED
from pushd.client import anywhere
from pushd.django import revoke
from pushd.django.authorizing import find_function
from pushd.errors import Unavailable
from pushd.gateways import application
from pushd.gateways.application import find_authorizer
from pushd.testing import Answer, Daemon
from pushd.views import NotPermitted, Permission, inprocess
from tests.support.django_site import MIDDLEWARE, prepare
from tests.support.folder import make_folder
from tests.support.held_port import held_port

NAME = f"{__name__}.may"

# The function that ``may`` calls.
script: list[Callable[[Any, str, str], Any]] = []


def may(request: Any, action: str, topic: str) -> Any:
    """Answer as the test says."""
    return script[0](request, action, topic)


async def async_may(request: Any, action: str, topic: str) -> bool:
    """Never be called."""
    raise NotImplementedError


class Refusing:
    """A middleware that answers every request for topics itself."""

    status = 302

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._get_response = get_response

    def __call__(self, request: Any) -> Any:
        """Answer."""
        if request.path.startswith("/topics/"):
            return HttpResponse(status=self.status)
        return self._get_response(request)


class AuthorizeTests(SynchronousTestCase):
    """Topics of a site with the setting."""

    def serve(self, *middleware: str, **settings: Any) -> None:
        """Serve the site, whose function permits everything."""
        prepare()
        override = override_settings(
            MIDDLEWARE=[*MIDDLEWARE, *middleware], PUSHD_AUTHORIZE=NAME, **settings
        )
        override.enable()
        self.addCleanup(override.disable)
        self.answer(True)
        self.daemon = Daemon({}, wsgi=WSGIHandler())
        self.addCleanup(lambda: self.assertEqual(self.daemon.pending_calls, []))
        self.addCleanup(self.daemon.stop)

    def answer(self, answer: Any) -> None:
        """Let the function return something, or call another."""
        script[:] = [answer if callable(answer) else lambda *_: answer]

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Send a request that is answered at once."""
        body = b"x" if method == "POST" else b""
        answer = self.daemon.request(method, path, headers, body)
        assert answer is not None
        return answer

    def log_in(self) -> str:
        """Return the cookie of a browser in which Ann has logged in."""
        cookies = SimpleCookie("; ".join(self.ask("/login/").headers.get_all("Set-Cookie") or []))
        return f"sessionid={cookies['sessionid'].value}"

    def test_user(self) -> None:
        """The function gets the user and the session of the browser, and decides."""
        self.serve()
        asked = []

        def only_users(request: Any, action: str, topic: str) -> bool:
            asked.append((str(request.user), request.path, request.method, action, topic))
            return bool(request.user.is_authenticated)

        self.answer(only_users)
        ann = self.log_in()
        self.assertEqual(self.ask("/topics/a/b?wait=0").status, 403)
        self.assertEqual(self.ask("/topics/a/b?wait=0", Cookie=ann).status, 200)
        self.assertEqual(self.ask("/topics/a", "POST", Cookie=ann).status, 200)
        self.assertEqual(
            asked,
            [
                ("AnonymousUser", "/topics/a/b", "GET", "subscribe", "a/b"),
                ("ann", "/topics/a/b", "GET", "subscribe", "a/b"),
                ("ann", "/topics/a", "POST", "publish", "a"),
            ],
        )
        self.assertTrue(self.daemon.connect("/topics/a", headers={"Cookie": ann}).opened)
        refused = self.daemon.connect("/topics/a").refused
        assert refused is not None
        self.assertEqual(refused.status, 403)

    def test_subject(self) -> None:
        """A user is the subject by the primary key, unless the function names another."""
        self.serve()
        ann, key = self.log_in(), str(get_user_model().objects.get(username="ann").pk)
        answers: list[tuple[Any, str, str | None]] = [
            (True, ann, key),
            (Permission(until=50, info="i"), ann, key),
            (Permission(subject="other"), ann, "other"),
            (True, "", None),
        ]
        for answer, cookie, subject in answers:
            self.answer(answer)
            browser = self.daemon.connect("/topics/t", headers={"Cookie": cookie})
            listed = self.daemon.request("GET", "/connections", control=True)
            assert listed is not None
            [connection] = json.loads(listed.body)["connections"]
            self.assertEqual(connection["subject"], subject)
            browser.close()

    def test_without_auth(self) -> None:
        """A site without users can decide by other things."""
        self.serve()
        with override_settings(MIDDLEWARE=[]):
            self.answer(lambda request, *_: not hasattr(request, "user"))
            self.assertEqual(self.ask("/topics/t?wait=0").status, 200)

    def test_denied(self) -> None:
        """A reason reaches the client, and Django's PermissionDenied is a denial, too."""
        self.serve()

        def denies(*_: Any) -> bool:
            raise PermissionDenied("you left")

        def denies_silently(*_: Any) -> bool:
            raise PermissionDenied

        def asks_to_log_in(*_: Any) -> bool:
            raise NotPermitted("log in", status=401)

        answers: list[tuple[Any, int, str]] = [
            (False, 403, "not permitted"),
            (NotPermitted("log in", status=401), 401, "log in"),
            (denies, 403, "you left"),
            (denies_silently, 403, "not permitted"),
            (asks_to_log_in, 401, "log in"),
        ]
        for answer, status, error in answers:
            self.answer(answer)
            response = self.ask("/topics/t?wait=0")
            self.assertEqual(response.status, status)
            self.assertEqual(json.loads(response.body)["error"], error)

    def test_error(self) -> None:
        """An exception is reported as Django reports those of pages; the client gets 500."""
        self.serve()
        reported: list[Any] = []

        def receiver(sender: Any, **_: Any) -> None:
            reported.append(sender)

        got_request_exception.connect(receiver)
        self.addCleanup(got_request_exception.disconnect, receiver)

        def fails(*_: Any) -> bool:
            raise ValueError("a bug")

        self.answer(fails)
        self.assertEqual(self.ask("/topics/t").status, 500)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(len(reported), 1)

    def test_signals(self) -> None:
        """Connections to databases are closed as for a page: by the signals of a request."""
        self.serve()
        heard: list[str] = []

        def started(**_: Any) -> None:
            heard.append("started")

        def finished(**_: Any) -> None:
            heard.append("finished")

        for signal, receiver in ((request_started, started), (request_finished, finished)):
            signal.connect(receiver)
            self.addCleanup(signal.disconnect, receiver)
        self.ask("/topics/t?wait=0")
        self.assertEqual(heard, ["started", "finished"])

    def test_middleware(self) -> None:
        """The middleware may refuse first, and it is said in the log."""
        self.serve(f"{__name__}.Refusing")
        for status, refused in ((302, 403), (403, 403), (401, 401)):
            self.patch(Refusing, "status", status)
            self.assertEqual(self.ask("/topics/t").status, refused)
        self.patch(Refusing, "status", 503)
        self.assertEqual(self.ask("/topics/t").status, 500)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(self.ask("/plain/").status, 200)

    def test_login_required(self) -> None:
        """LoginRequiredMiddleware leaves the decision to the function."""
        self.serve("django.contrib.auth.middleware.LoginRequiredMiddleware")
        self.assertEqual(self.ask("/topics/t?wait=0").status, 200)


class RevokeTests(SynchronousTestCase):
    """``pushd.django.revoke``."""

    def setUp(self) -> None:
        """Forget daemons that other tests did not stop."""
        self.patch(inprocess, "_running", [])
        prepare()

    def test_in_process(self) -> None:
        """In pushd's process, subscriptions end at once."""
        with (
            override_settings(PUSHD_AUTHORIZE=NAME, MIDDLEWARE=MIDDLEWARE),
            Daemon({}, wsgi=WSGIHandler()) as daemon,
        ):
            script[:] = [lambda *_: Permission(subject="ann")]
            browsers = [daemon.connect("/topics/t"), daemon.connect("/topics/u")]
            self.assertEqual(revoke(topic="t", subject="ann"), 1)
            closings = [one.closing for one in browsers]
            self.assertEqual(closings, [PERMISSION_REVOKED, None])

    def test_elsewhere(self) -> None:
        """In another process, the control port is asked."""
        asked: list[Any] = []

        class FakeClient:
            """Records what it is asked for."""

            def __init__(self, url: str, *, timeout: float) -> None:
                asked.append(url)

            def revoke(self, **query: Any) -> int:
                """Record."""
                asked.append(query)
                return 3

        self.patch(anywhere, "Client", FakeClient)
        with override_settings(PUSHD_CONTROL_URL="http://h:1"):
            self.assertEqual(revoke(subject="7"), 3)
        self.assertEqual(asked, ["http://h:1", {"topic": None, "subject": "7"}])
        self.patch(os, "environ", os.environ | {"PUSHD_CONTROL_URL": "http://h:2"})
        revoke(topic="t")
        self.assertEqual(asked[2:], ["http://h:2", {"topic": "t", "subject": None}])

    def test_nowhere(self) -> None:
        """Without a control port, and in Django's tests, nothing is done."""
        with override_settings(PUSHD_CONTROL_URL=None):
            self.assertEqual(revoke(topic="t"), 0)
        setup_test_environment()
        self.addCleanup(teardown_test_environment)
        self.assertEqual(revoke(topic="t"), 0)
        self.assertRaises(ValueError, revoke)

    def test_unreachable(self) -> None:
        """A control port that cannot be reached raises Unavailable, which names the setting."""
        with (
            held_port() as port,
            override_settings(PUSHD_CONTROL_URL=f"http://127.0.0.1:{port}"),
            self.assertRaisesRegex(Unavailable, "PUSHD_CONTROL_URL"),
        ):
            revoke(topic="t")


class SettingTests(SynchronousTestCase):
    """The setting is checked at the start."""

    def test_none(self) -> None:
        """Without the setting, or without Django, there is no authorizer."""
        self.assertIsNone(find_authorizer())
        with override_settings(PUSHD_AUTHORIZE=NAME):
            self.assertIsNotNone(find_authorizer())
            self.patch(application, "_SETTINGS", "django.not_imported")
            self.assertIsNone(find_authorizer())

    def test_names(self) -> None:
        """It names a function, and may be one."""
        for value in (NAME, may):
            with override_settings(PUSHD_AUTHORIZE=value):
                self.assertIs(find_function(), may)
                self.assertIsNotNone(find_authorizer())

    def test_mistakes(self) -> None:
        """A mistake is described in one line that names the setting."""
        mistakes: list[tuple[Any, str]] = [
            ("nowhere.may", "nowhere"),
            ("may", "doesn't look like a module path"),
            (f"{__name__}.missing", "missing"),
            (f"{__name__}.NAME", "must name a function"),
            (7, "must name a function"),
            (f"{__name__}.async_may", "async def"),
        ]
        for value, text in mistakes:
            with override_settings(PUSHD_AUTHORIZE=value):
                with self.assertRaises(ImproperlyConfigured) as caught:
                    find_authorizer()
                self.assertIn("PUSHD_AUTHORIZE", str(caught.exception))
                self.assertIn(text, str(caught.exception))

    def test_broken_module(self) -> None:
        """A module that raises is described in one line that names the setting and the place."""
        folder = make_folder(self)
        (folder / "authorizing_broken.py").write_text("def may(:\n")
        (folder / "authorizing_wrong.py").write_text("\n1 / 0\n")
        self.patch(sys, "path", [str(folder), *sys.path])
        for module, text in (
            ("authorizing_broken", "SyntaxError: invalid syntax (authorizing_broken.py, line 1)"),
            (
                "authorizing_wrong",
                f"ZeroDivisionError: division by zero ({folder}/authorizing_wrong.py, line 2)",
            ),
        ):
            with override_settings(PUSHD_AUTHORIZE=f"{module}.may"):
                with self.assertRaises(ImproperlyConfigured) as caught:
                    find_authorizer()
                line = f"PUSHD_AUTHORIZE = '{module}.may': {text}"
                self.assertEqual(str(caught.exception), line)
