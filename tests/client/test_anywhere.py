"""``pushd.publish`` and ``pushd.last_id``, in the daemon's process and in others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import pushd
from pushd.client import Client
from pushd.errors import Refused, Unavailable
from pushd.testing import Daemon
from pushd.topics.publication import Id
from pushd.views import inprocess
from tests.support.fake_network import FakeNetwork


class HereTests(SynchronousTestCase):
    """A daemon runs in this process."""

    def test_here(self) -> None:
        """They reach it directly."""
        with Daemon({}) as daemon:
            browser = daemon.connect("/topics/news", subprotocols=["pushd.v1"])
            id = pushd.publish("news", "hello")
            self.assertEqual(json.loads(browser.messages[-1])["data"], "hello")
            self.assertEqual(pushd.last_id("news"), str(id))
            pushd.publish("news", "never", delay=1).cancel()

    def test_in_a_view(self) -> None:
        """A blocking view may call a function that publishes."""

        def view(request: Any) -> str:
            return str(pushd.publish("news", "hello"))

        with Daemon({"/": view}) as daemon:
            answer = daemon.get("/")
            assert answer is not None
            self.assertEqual(answer.text, pushd.last_id("news"))


class ElsewhereTests(SynchronousTestCase):
    """The daemon runs in another process, and is reached over a network only."""

    def setUp(self) -> None:
        """Start the daemon."""
        self.daemon = Daemon({})
        self.addCleanup(self.daemon.stop)
        self.patch(inprocess, "_running", [])
        self.patch(os, "environ", {})
        self.network = FakeNetwork(self.daemon)
        defaults = dict(Client.__init__.__kwdefaults__ or {})
        defaults["connect"] = self.network.connect
        self.patch(Client.__init__, "__kwdefaults__", defaults)

    def test_default(self) -> None:
        """They are requests to the control port of this machine."""
        id = pushd.publish("news", "hello")
        self.assertIsInstance(id, Id)
        self.assertEqual(pushd.last_id("news"), str(id))
        self.assertEqual(self.network.addresses, ["http://127.0.0.1:8081"] * 2)
        schedule = pushd.publish("news", "later", delay=1)
        answer = self.daemon.request("DELETE", f"/schedules/{schedule}", control=True)
        assert answer is not None
        self.assertEqual(answer.status, 204)

    def test_json(self) -> None:
        """A dict is published as JSON, with its event."""
        browser = self.daemon.connect("/topics/news", subprotocols=["pushd.v1"])
        pushd.publish("news", {"order": 66}, event="paid")
        said = json.loads(browser.messages[-1])
        self.assertEqual((said["data"], said["event"]), ('{"order":66}', "paid"))

    def test_variable(self) -> None:
        """The environment variable says where the control port is."""
        os.environ["PUSHD_CONTROL_URL"] = "http://localhost:8081"
        pushd.publish("news", "hello")
        self.assertEqual(self.network.addresses, ["http://localhost:8081"])

    def test_unreachable(self) -> None:
        """Without a pushd there they raise Unavailable, which names the variable."""
        self.network.daemon = None
        error = self.assertRaises(Unavailable, pushd.publish, "news", "hello")
        self.assertIn("not published to news", str(error))
        self.assertIn("PUSHD_CONTROL_URL", str(error))
        error = self.assertRaises(Unavailable, pushd.last_id, "news")
        self.assertIn("no last id of news", str(error))

    def test_refused(self) -> None:
        """What pushd refuses raises what it raises in pushd's own process."""
        self.assertRaises(ValueError, pushd.publish, "no topic", "hello")
        self.assertRaises(ValueError, pushd.last_id, "no topic")
        self.assertRaises(TypeError, pushd.publish, "news", 1)
        self.network.canned = b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno"
        self.assertRaises(Unavailable, pushd.publish, "news", "hello")
        self.network.canned = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"
        self.assertRaises(Refused, pushd.publish, "news", "hello")


class ImportTests(SynchronousTestCase):
    def test_unknown(self) -> None:
        """The package has no other attributes of this kind."""
        with self.assertRaisesRegex(AttributeError, "has no attribute 'unpublish'"):
            pushd.__getattr__("unpublish")

    def test_no_twisted(self) -> None:
        """A process in which no daemon runs does not import Twisted to publish."""
        script = (
            "import sys, pushd\n"
            "assert 'pushd.client' not in sys.modules\n"
            "try: pushd.publish('news', 'hello')\n"
            "except Exception as error: print(type(error).__name__)\n"
            "print('twisted' in sys.modules)\n"
        )
        root = str(Path(pushd.__file__).parent.parent)
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONPATH": root, "PUSHD_CONTROL_URL": "http://127.0.0.1:1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual((done.stdout, done.stderr), ("Unavailable\nFalse\n", ""))
