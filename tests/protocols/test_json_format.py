"""JSON as it is sent: its text, publications and subscriptions."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from pushd.protocols.json_format import publication_json, subscription_json, to_json
from pushd.topics.publication import Id, Publication


class JsonFormatTests(SynchronousTestCase):
    """The JSON that all transports share."""

    def test_subscription(self) -> None:
        """The first frame has the topic, the id and whether it recovered."""
        self.assertEqual(
            subscription_json("t", Id("e", 7), True),
            {"subscribed": "t", "id": "e:7", "recovered": True},
        )

    def test_publication(self) -> None:
        """Text is sent as data, bytes as base64."""
        for data, name, value in (("é", "data", "é"), (b"\xff\x00", "base64", "/wA=")):
            publication = Publication("t", data, Id("e", 7))
            self.assertEqual(publication_json(publication), {"id": "e:7", name: value})

    def test_json(self) -> None:
        """JSON has no spaces, and no escapes for characters beyond ASCII."""
        text = to_json({"a": ["é", "\u2028", '"', 1]})
        self.assertEqual(text, '{"a":["é","\u2028","\\"",1]}')
        self.assertEqual(json.loads(text), {"a": ["é", "\u2028", '"', 1]})
