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
            text = publication_json(publication)
            self.assertEqual(json.loads(text), {"id": "e:7", name: value})

    def test_members(self) -> None:
        """The topic is named if asked for; the event and what was left out, if there is any."""
        publication = Publication("a/b", "x", Id("e", 7), event="paid", conflated=3)
        self.assertEqual(
            publication_json(publication, topic=True),
            '{"topic":"a/b","id":"e:7","event":"paid","conflated":3,"data":"x"}',
        )

    def test_value(self) -> None:
        """What was published as JSON is embedded as a value if asked for, else it is text."""
        value = '{"a": [1.0,\r\n\t"\u2028"]}'
        publication = Publication("t", value, Id("e", 7), is_json=True)
        self.assertEqual(json.loads(publication_json(publication))["data"], value)
        text = publication_json(publication, format_json=True)
        self.assertEqual(text, '{"id":"e:7","data":{"a": [1.0,  \t"\u2028"]}}')
        plain = Publication("t", "[1]", Id("e", 7))
        self.assertEqual(json.loads(publication_json(plain, format_json=True))["data"], "[1]")
        binary = Publication("t", b"[1]", Id("e", 7))
        self.assertIn('"base64"', publication_json(binary, format_json=True))

    def test_json(self) -> None:
        """JSON has no spaces, and no escapes for characters beyond ASCII."""
        text = to_json({"a": ["é", "\u2028", '"', 1]})
        self.assertEqual(text, '{"a":["é","\u2028","\\"",1]}')
        self.assertEqual(json.loads(text), {"a": ["é", "\u2028", '"', 1]})
