"""A test case with the Django site behind ``--asgi``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.test import override_settings
from twisted.trial.unittest import SynchronousTestCase

from pushd.django.asgi import WebSocketASGIHandler
from pushd.testing import Browser, Daemon
from pushd.topics.rules import Rules
from tests.support.django_site import MIDDLEWARE, recorded, script


class DjangoAsgiTestCase(SynchronousTestCase):
    """Serves the site; no delayed call may be left when the test is over."""

    def serve(self, *middleware: str, rules: Rules | None = None, **settings: Any) -> Daemon:
        """Serve the site, with more middleware, and with rules for topics."""
        recorded.clear()
        override = override_settings(MIDDLEWARE=[*MIDDLEWARE, *middleware], **settings)
        override.enable()
        self.addCleanup(override.disable)
        self.daemon = Daemon({}, asgi=WebSocketASGIHandler(), rules=rules or Rules())
        self.addCleanup(lambda: self.assertEqual(self.daemon.pending_calls, []))
        self.addCleanup(self.daemon.stop)
        return self.daemon

    def open(
        self, view: Any, *, subprotocols: Sequence[str] = (), rules: Rules | None = None
    ) -> Browser:
        """Serve a coroutine function as the view, and open a WebSocket to it."""
        script[0] = view
        return self.serve(rules=rules).connect("/async-scripted/", subprotocols=subprotocols)

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Return status and text of a page."""
        answer = self.daemon.get(path, headers)
        assert answer is not None
        return answer.status, answer.text

    def refused(self, path: str, **more: Any) -> tuple[int, str]:
        """Return status and text of the response that refuses a handshake."""
        answer = self.daemon.connect(path, **more).refused
        assert answer is not None
        return answer.status, answer.text
