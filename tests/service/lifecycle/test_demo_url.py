"""The URL of the demo in the log."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.origins import Hosts
from pushd.options.settings import Settings
from pushd.service.build import build
from pushd.service.lifecycle.demo_url import DemoUrl
from pushd.views.routes import Routes
from tests.support.peer import said
from tests.support.recording_reactor import RecordingPort, RecordingReactor, make_runtime


class DemoUrlTests(SynchronousTestCase):
    def start(self, **given: Any) -> list[str]:
        """Start a daemon, and return what is logged once its ports are open."""
        settings = Settings(control=(), **given)
        service = build(settings, make_runtime(RecordingReactor()))
        service.startService()
        with capturedLogs() as events:
            DemoUrl(settings, service.public).startService()
        self.successResultOf(service.stopService())
        self.assertEqual(
            [port.browser_url for port in service.public], [None] * len(service.public)
        )
        return said(events)

    def assert_url(self, url: str, **given: Any) -> None:
        """Assert that a daemon logs a URL."""
        self.assertEqual(self.start(**given), [f"open {url} in a browser to watch the demo"])

    def test_url(self) -> None:
        """It is one that a browser on this machine can open, and leads straight to the demo."""
        self.assert_url("http://127.0.0.1:8080/test/")
        for endpoint, place in {
            "tcp:1": "127.0.0.1:1",
            "tcp:1:interface=10.0.0.1": "10.0.0.1:1",
            "tcp:1:interface=\\:\\:": "[::1]:1",
            "tcp:0": "127.0.0.1:40000",
        }.items():
            self.assert_url(f"http://{place}/test/", listen=(endpoint,))

    def test_unreachable(self) -> None:
        """A port behind a proxy is no use to a browser, nor is a Unix socket; the next one is."""
        self.assertEqual(self.start(listen=("haproxy:tcp:1",)), [])
        self.assert_url("http://127.0.0.1:2/test/", listen=("haproxy:tcp:1", "tcp:2"))
        self.patch(RecordingPort, "getHost", lambda _: UNIXAddress("/run/pushd.sock"))
        self.assertEqual(self.start(), [])

    def test_host(self) -> None:
        """A name for which requests are refused is not logged."""
        self.assertEqual(self.start(hosts=Hosts(["push.example.com"])), [])
        self.assert_url("http://127.0.0.1:8080/test/", hosts=Hosts(["a.example", "127.0.0.1"]))

    def test_no_demo(self) -> None:
        """Without the demo, or with another view in its place, there is no such line."""
        for views in ({}, {"/test/": lambda _: "mine"}):
            self.assertEqual(self.start(routes=Routes(views)), [])

    def test_tls(self) -> None:
        """Over TLS it is an https: URL."""
        settings = Settings(control=())
        service = build(settings, make_runtime(RecordingReactor()))
        service.startService()
        service.public[0]._endpoint = service.public[0]._plain = "ssl:8080:privateKey=a.pem"
        with capturedLogs() as events:
            DemoUrl(settings, service.public).startService()
        self.assertIn("open https://127.0.0.1:8080/test/ in", said(events)[0])
        self.successResultOf(service.stopService())
