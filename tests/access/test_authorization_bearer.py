"""Tokens in requests: where they may be, and what is answered without a good one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from pushd.access.authorization import challenge, read_token
from pushd.errors import Denied


def request(*authorization: str, query: tuple[str, ...] = ()) -> Any:
    """As much of a request as is looked at."""
    headers = Headers({b"authorization": [value.encode() for value in authorization]})
    args = {b"token": [value.encode() for value in query]} if query else {}
    return SimpleNamespace(requestHeaders=headers, args=args)


class ReadTests(SynchronousTestCase):
    """Header or query."""

    def test_none(self) -> None:
        """Who says nothing, or something of another scheme, has no token."""
        for asked in (request(), request("Basic YTpi"), request("Bearer2 x"), request("x")):
            self.assertIsNone(read_token(asked))

    def test_one(self) -> None:
        """A token is in the header, its scheme in any case, or in the query."""
        for asked in (
            request("Bearer a.b.c"),
            request("bearer   a.b.c "),
            request("BEARER a.b.c", "Basic YTpi"),
            request(query=("a.b.c",)),
        ):
            self.assertEqual(read_token(asked), "a.b.c")

    def test_empty(self) -> None:
        """An empty token is a token, and no good one."""
        self.assertEqual(read_token(request("Bearer")), "")
        self.assertEqual(read_token(request(query=("",))), "")

    def test_two(self) -> None:
        """Two could be read in two ways, so they are not read at all (RFC 6750 §2)."""
        for asked in (
            request("Bearer a", "Bearer a"),
            request("Bearer a", query=("a",)),
            request(query=("a", "b")),
        ):
            with self.assertRaises(Denied) as caught:
                read_token(asked)
            self.assertEqual((caught.exception.status, caught.exception.error), (400, _INVALID))


class ChallengeTests(SynchronousTestCase):
    """WWW-Authenticate (RFC 6750 §3)."""

    def test_no_token(self) -> None:
        """Who had no token has made no error, and is told that there could be one."""
        self.assertEqual(
            challenge(Denied(401, "a token is needed"))["WWW-Authenticate"], 'Bearer realm="pushd"'
        )

    def test_error(self) -> None:
        """An error is named, and explained."""
        self.assertEqual(
            challenge(Denied(401, "it has run out", "invalid_token"))["WWW-Authenticate"],
            'Bearer realm="pushd", error="invalid_token", error_description="it has run out"',
        )


_INVALID = "invalid_request"
