"""Responses that views make of values."""

from __future__ import annotations

import json
from datetime import date

from twisted.trial.unittest import SynchronousTestCase

from pushd.testing import Daemon
from pushd.views import json_response


class JsonResponseTests(SynchronousTestCase):
    def test_value(self) -> None:
        """A value is sent as JSON, as UTF-8, with its type."""
        response = json_response({"name": "tschüß", "list": [1, None, True]})
        self.assertEqual(response.status, 200)
        self.assertEqual(response.headers, {"Content-Type": "application/json"})
        self.assertEqual(response.body, '{"name":"tschüß","list":[1,null,true]}'.encode())

    def test_status(self) -> None:
        """It may have another status, and headers, its type among them."""
        response = json_response("no", 403, {"Content-Type": "application/problem+json", "A": "b"})
        self.assertEqual((response.status, response.body), (403, b'"no"'))
        self.assertEqual(response.headers, {"Content-Type": "application/problem+json", "A": "b"})

    def test_surrogates(self) -> None:
        """Half of a surrogate pair, which UTF-8 cannot hold, is escaped."""
        body = json_response("\ud83d!").body
        self.assertEqual(body, b'"\\ud83d!"')
        self.assertEqual(json.loads(body), "\ud83d!")

    def test_mistakes(self) -> None:
        """What JSON cannot hold is a TypeError, and numbers that are not finite a ValueError."""
        self.assertRaises(TypeError, json_response, date(2026, 1, 1))
        self.assertRaises(ValueError, json_response, float("nan"))

    def test_view(self) -> None:
        """A view returns it."""
        with Daemon({"/orders/": lambda request: json_response({"paid": True})}) as daemon:
            answer = daemon.get("/orders/")
        assert answer is not None
        self.assertEqual(answer.text, '{"paid":true}')
        self.assertEqual(answer.headers["Content-Type"], "application/json")
