"""Publishing from any process of a Django site."""

from __future__ import annotations

import json
import os
import unittest
from collections.abc import Callable
from typing import Any

from django.contrib.auth import get_user_model
from django.core import mail
from django.core.handlers.wsgi import WSGIHandler
from django.db import transaction
from django.db.models.signals import post_save
from django.test import TestCase, override_settings
from django.test.utils import setup_test_environment, teardown_test_environment
from twisted.trial.unittest import SynchronousTestCase

from pushd.client import Client
from pushd.django import last_id, publish
from pushd.errors import Refused, Unavailable
from pushd.testing import Daemon
from pushd.topics.publication import Id
from pushd.views import inprocess
from tests.support import django_site
from tests.support.fake_network import FakeNetwork


def ann() -> Any:
    """Return a user of the site."""
    return get_user_model().objects.get(username="ann")


class PublishTests(SynchronousTestCase):
    """``publish`` in a process in which no pushd runs; one runs elsewhere."""

    def setUp(self) -> None:
        """Start a daemon that is reached over a network only."""
        self.daemon = Daemon({})
        self.addCleanup(self.daemon.stop)
        self.patch(inprocess, "_running", [])
        self.network = FakeNetwork(self.daemon)
        defaults = dict(Client.__init__.__kwdefaults__ or {})
        defaults["connect"] = self.network.connect
        self.patch(Client.__init__, "__kwdefaults__", defaults)

    def history(self, topic: str) -> int:
        """Return the number of publications that a topic keeps."""
        answer = self.daemon.request("GET", f"/topics/{topic}", control=True)
        assert answer is not None
        count: int = json.loads(answer.text)["history"]
        return count

    def test_elsewhere(self) -> None:
        """It is a request to the control port of a pushd on this machine."""
        id = publish("news", "hello")
        self.assertIsInstance(id, Id)
        self.assertEqual((id.offset, self.history("news")), (1, 1))
        self.assertEqual(self.network.addresses, ["http://127.0.0.1:8081"])

    def test_scheduled(self) -> None:
        """With a time, it returns the id of the schedule."""
        id = publish("news", b"hello", delay=1)
        answer = self.daemon.request("DELETE", f"/schedules/{id}", control=True)
        assert answer is not None
        self.assertEqual(answer.status, 204)
        self.assertEqual(self.history("news"), 0)

    def test_event(self) -> None:
        """A dict is published as JSON, and may have an event."""
        browser = self.daemon.connect("/topics/news?format=json", subprotocols=("pushd.v1",))
        publish("news", {"total": 7}, event="paid")
        self.assertIn(',"event":"paid","data":{"total":7}}', browser.messages[-1])

    def test_setting(self) -> None:
        """A setting says where pushd is; with None nothing is sent."""
        with override_settings(PUSHD_CONTROL_URL="http://localhost:8081"):
            publish("news", "hello")
        with override_settings(PUSHD_CONTROL_URL=None):
            self.assertIsNone(publish("news", "hello"))
        self.assertEqual(self.network.addresses, ["http://localhost:8081"])

    def test_environment(self) -> None:
        """Without the setting, the environment variable of the same name says where pushd is."""
        self.patch(os, "environ", {"PUSHD_CONTROL_URL": "http://localhost:8081"})
        publish("news", "hello")
        with override_settings(PUSHD_CONTROL_URL="http://127.0.0.1:8081"):
            publish("news", "hello")
        self.assertEqual(self.network.addresses, ["http://localhost:8081", "http://127.0.0.1:8081"])

    def test_last_id(self) -> None:
        """The last id of a topic comes from where publications go, and is None if none do."""
        id = publish("news", "hello")
        self.assertEqual(last_id("news"), str(id))
        with override_settings(PUSHD_CONTROL_URL=None):
            self.assertIsNone(last_id("news"))
        with Daemon({}) as daemon:
            self.assertEqual(last_id("news"), daemon.last_id("news"))
        self.assertEqual(self.network.addresses, ["http://127.0.0.1:8081"] * 2)

    def test_in_tests(self) -> None:
        """Django's tests send nothing, but a daemon in memory is published to."""
        setup_test_environment()
        self.addCleanup(teardown_test_environment)
        self.assertEqual(mail.outbox, [])
        self.assertIsNone(publish("news", "hello"))
        self.assertEqual(self.network.addresses, [])
        with Daemon({}) as daemon:
            browser = daemon.connect("/topics/news", subprotocols=["pushd.v1"])
            publish("news", "hello")
            self.assertIn("hello", browser.messages[-1])

    def test_unreachable(self) -> None:
        """Without a pushd there it raises Unavailable, which names the setting."""
        self.network.daemon = None
        error = self.assertRaises(Unavailable, publish, "news", "hello")
        self.assertIn("not published to news", str(error))
        self.assertIn("PUSHD_CONTROL_URL", str(error))

    def test_refused(self) -> None:
        """What pushd refuses raises what it raises in pushd's own process."""
        self.assertRaises(ValueError, publish, "no topic", "hello")
        self.assertRaises(TypeError, publish, "news", 1)
        self.network.canned = b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno"
        self.assertRaises(Unavailable, publish, "news", "hello")
        self.network.canned = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"
        self.assertRaises(Refused, publish, "news", "hello")

    def test_robust(self) -> None:
        """A failure in ``on_commit(…, robust=True)`` is logged, and the command goes on."""
        django_site.prepare()
        self.network.daemon = None
        calls: list[Callable[[], Any]] = [lambda: publish("news", "hello")]
        with self.assertLogs("django.db.backends.base", "ERROR") as logged, transaction.atomic():
            transaction.on_commit(calls[0], robust=True)
        self.assertIn("not published to news", logged.output[0])


class OnCommitTests(SynchronousTestCase):
    """``publish(…, on_commit=True)``."""

    def setUp(self) -> None:
        """Start a daemon, the only one of this process, and make a site with a database."""
        django_site.prepare()
        self.patch(inprocess, "_running", [])
        self.daemon = Daemon({})
        self.addCleanup(self.daemon.stop)

    def kept(self) -> int:
        """Return the number of publications that the topic keeps."""
        answer = self.daemon.request("GET", "/topics/news", control=True)
        assert answer is not None
        count: int = json.loads(answer.text)["history"]
        return count

    def test_commit(self) -> None:
        """It publishes when the transaction is committed, and returns None."""
        with transaction.atomic():
            self.assertIsNone(publish("news", "hello", on_commit=True))
            self.assertEqual(self.kept(), 0)
        self.assertEqual(self.kept(), 1)

    def test_rollback(self) -> None:
        """If the transaction is rolled back, nothing is published."""

        def fail() -> None:
            with transaction.atomic():
                publish("news", "hello", on_commit=True, using="default")
                raise ZeroDivisionError

        self.assertRaises(ZeroDivisionError, fail)
        self.assertEqual(self.kept(), 0)

    def test_no_transaction(self) -> None:
        """Without a transaction it publishes at once."""
        publish("news", "hello", on_commit=True)
        self.assertEqual(self.kept(), 1)

    def test_failure(self) -> None:
        """A failure is logged, and the code that committed goes on."""
        self.daemon.stop()
        with (
            override_settings(PUSHD_CONTROL_URL="http://127.0.0.1:1"),
            self.assertLogs("django.db.backends.base", "ERROR") as logged,
            transaction.atomic(),
        ):
            publish("news", "hello", on_commit=True)
        self.assertIn("not published to news", logged.output[0])

    def test_invalid(self) -> None:
        """An invalid topic, and data of another type, are errors of the call itself."""
        with transaction.atomic():
            self.assertRaises(ValueError, publish, "no topic", "hello", on_commit=True)
            self.assertRaises(TypeError, publish, "news", 1, on_commit=True)
            self.assertRaises(ValueError, publish, "news", "x", event="a b", on_commit=True)
            self.assertRaises(TypeError, publish, "news", [object()], on_commit=True)

    def test_json(self) -> None:
        """JSON is published as it was when the function was called, with its event."""
        browser = self.daemon.connect("/topics/news", subprotocols=["pushd.v1"])
        with transaction.atomic():
            data = {"state": "paid"}
            publish("news", data, event="order", on_commit=True)
            data["state"] = "changed later"
        said = json.loads(browser.messages[-1])
        self.assertEqual((said["data"], said["event"]), ('{"state":"paid"}', "order"))


class SignalTests(SynchronousTestCase):
    """A signal handler that publishes, in tests of a site."""

    def setUp(self) -> None:
        """Publish when a user is saved, as a site does."""
        django_site.prepare()
        setup_test_environment()
        self.addCleanup(teardown_test_environment)
        post_save.connect(self.saved, sender="auth.User")
        self.addCleanup(post_save.disconnect, self.saved, sender="auth.User")
        self.daemon = Daemon({}, wsgi=WSGIHandler(), host="localhost")
        self.addCleanup(self.daemon.stop)
        self.browser = self.daemon.connect("/topics/users")

    def saved(self, instance: Any, **more: object) -> None:
        """Publish."""
        publish("users", instance.username, on_commit=True)

    def test_in_body(self) -> None:
        """The body of the test saves, and browsers have the publication when that returns."""
        user = ann()
        user.save()
        self.assertEqual(self.browser.messages, ["ann"])
        with transaction.atomic():
            user.save()
            self.assertEqual(self.browser.messages, ["ann"])
        self.assertEqual(self.browser.messages, ["ann", "ann"])

    def test_in_view(self) -> None:
        """A page saves."""
        answer = self.daemon.get("/login/")  # It notes the time of the login.
        assert answer is not None
        self.assertEqual((answer.status, self.browser.messages), (200, ["ann"]))

    def test_in_test_case(self) -> None:
        """In Django's TestCase, what would run on commit is captured and executed."""
        browser = self.browser

        class Case(TestCase):
            def test(self) -> None:
                with self.captureOnCommitCallbacks(execute=True):
                    ann().save()
                    self.assertEqual(browser.messages, [])
                self.assertEqual(browser.messages, ["ann"])

            async def test_async(self) -> None:
                publish("users", "from another thread")

        outcome = unittest.TestResult()
        unittest.TestSuite([Case("test"), Case("test_async")]).run(outcome)
        self.assertEqual([text for _, text in outcome.errors + outcome.failures], [])
        self.assertEqual(self.browser.messages, ["ann", "from another thread"])
