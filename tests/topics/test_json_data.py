"""JSON as the data of publications."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from pushd.topics.json_data import check_json, encode_json

DEEP = "[" * 100_000 + "]" * 100_000


class EncodeTests(SynchronousTestCase):
    """``encode_json`` writes values that programs publish."""

    def test_text(self) -> None:
        """The text has no blanks, and no escapes for characters beyond ASCII."""
        self.assertEqual(encode_json({"é": [1, None, "a b"]}), '{"é":[1,null,"a b"]}')

    def test_impossible(self) -> None:
        """What JSON cannot hold raises ValueError or TypeError."""
        deep: list[object] = []
        for _ in range(100_000):
            deep = [deep]
        for value in (float("nan"), [float("inf")], deep):
            self.assertRaises(ValueError, encode_json, value)
        self.assertRaises(TypeError, encode_json, [object()])
        while deep:
            deep = deep.pop()  # type: ignore[assignment]  # an inner list, or the end


class CheckTests(SynchronousTestCase):
    """``check_json`` accepts what RFC 8259 calls JSON."""

    def test_valid(self) -> None:
        """Any value is valid, with blanks around it, and numbers of any length."""
        long = "9" * 10_000
        for text in ("{}", ' [1,{"a":[2.5e3]}]\r\n', '"\\ud800"', "null", long, f"1.{long}e{long}"):
            self.assertEqual(check_json(text), text)

    def test_invalid(self) -> None:
        """Everything else raises ValueError, with what is wrong and where."""
        for text in ("", "{", "[1,]", "{'a':1}", "1 2", '"\n"', "\ufeff1", "01", "tru"):
            error = self.assertRaises(ValueError, check_json, text)
            self.assertRegex(str(error), "^not valid JSON: .*char [0-9]+", text)
            self.assertRaises(ValueError, json.loads, text)
        for text in ("NaN", "[-Infinity]"):
            error = self.assertRaises(ValueError, check_json, text)
            self.assertIn("is not a number in JSON", str(error))
        error = self.assertRaises(ValueError, check_json, DEEP)
        self.assertIn("nested too deeply", str(error))
