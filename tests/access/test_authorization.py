"""Tests of authorization by bearer tokens."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from pushd.access.authorization import Authorizer, challenge, read_token
from pushd.access.tokens import TokenKeys
from pushd.errors import Denied
from tests.support.keyring import secret_keys, token

REQUIRED = (401, "", "a token is required")


class AuthorizerTests(SynchronousTestCase):
    """An Authorizer returns the identity in a token, or denies the request."""

    def setUp(self) -> None:
        """Require tokens."""
        self.now = 0.0
        self.authorizer = Authorizer(secret_keys(), lambda: self.now)

    def denial(self, call: Callable[..., object], *args: object) -> tuple[int, str, str]:
        """Return status, error code and text with which a call is denied."""
        with self.assertRaises(Denied) as caught:
            call(*args)
        return caught.exception.status, caught.exception.error, str(caught.exception)

    def test_without_keys(self) -> None:
        """Without keys no token is read, and what needs one is denied with what helps."""
        authorizer = Authorizer(TokenKeys(), lambda: self.now)
        for given in (None, "x", token()):
            self.assertIsNone(authorizer.identify(given))
            self.assertEqual(self.denial(authorizer.require, given), REQUIRED)
        for action in ("subscribe", "publish", "presence"):
            self.assertEqual(self.denial(authorizer.check_topic, None, action, "t"), REQUIRED)
        with self.assertRaises(Denied) as caught:
            authorizer.require(None)
        self.assertIn("--token-key", caught.exception.line)

    def test_no_token(self) -> None:
        """With keys a request without a token is denied where one is required."""
        self.assertIsNone(self.authorizer.identify(None))
        self.assertEqual(self.denial(self.authorizer.require, None), REQUIRED)
        for action in ("subscribe", "publish", "presence"):
            self.assertEqual(self.denial(self.authorizer.check_topic, None, action, "t"), REQUIRED)

    def test_invalid_token(self) -> None:
        """An invalid token is denied even where none is required."""
        expired = token(exp=0)
        self.now = 30
        denied = (401, "invalid_token", "token expired")
        for call in (self.authorizer.identify, self.authorizer.require):
            self.assertEqual(self.denial(call, expired), denied)

    def test_scope(self) -> None:
        """A token that permits subscribing does not permit publishing, nor the reverse."""
        reader = self.authorizer.require(token(subscribe=["a/*"]))
        writer = self.authorizer.require(token(publish=["a/*"]))
        check = self.authorizer.check_topic
        self.assertIs(check(reader, "subscribe", "a/b"), reader)
        self.assertIs(check(reader, "presence", "a/b"), reader)
        self.assertIs(check(writer, "publish", "a/b"), writer)
        self.assertEqual((reader.subject, writer.subject), ("ann", "ann"))
        scope = "insufficient_scope"
        self.assertEqual(
            self.denial(check, writer, "subscribe", "a/b"),
            (403, scope, "token does not permit subscribing to a/b"),
        )
        self.assertEqual(
            self.denial(check, reader, "publish", "a/b"),
            (403, scope, "token does not permit publishing to a/b"),
        )
        self.assertEqual(self.denial(check, reader, "subscribe", "b")[0], 403)

    def test_end_of_connection(self) -> None:
        """A connection lasts until its token expires, or to the end of the leeway if it is late."""
        identity = self.authorizer.require(token(exp=100))
        self.assertEqual(self.authorizer.end_of_connection(identity), 100)
        self.now = 100
        self.assertEqual(self.authorizer.end_of_connection(identity), 130)


def make_request(*authorization: str, query: tuple[str, ...] = ()) -> Any:
    """Make what ``read_token`` uses of a request."""
    headers = Headers({b"authorization": [value.encode() for value in authorization]})
    args = {b"token": [value.encode() for value in query]} if query else {}
    return SimpleNamespace(requestHeaders=headers, args=args)


class ReadTokenTests(SynchronousTestCase):
    """A token is read from the Authorization header, or from the query."""

    def test_none(self) -> None:
        """A request without the header, or with another scheme, has no token."""
        for request in (
            make_request(),
            make_request("Basic YTpi"),
            make_request("Bearer2 x"),
            make_request("x"),
        ):
            self.assertIsNone(read_token(request))

    def test_one(self) -> None:
        """A token may be in the header, with the scheme in any case, or in the query."""
        for request in (
            make_request("Bearer a.b.c"),
            make_request("bearer   a.b.c "),
            make_request("BEARER a.b.c", "Basic YTpi"),
            make_request(query=("a.b.c",)),
            make_request(query=("a.b.c\r\n",)),
            make_request(query=(" a.b.c\n",)),
        ):
            self.assertEqual(read_token(request), "a.b.c")

    def test_empty(self) -> None:
        """An empty token is a token, which will be invalid."""
        self.assertEqual(read_token(make_request("Bearer")), "")
        self.assertEqual(read_token(make_request(query=("",))), "")

    def test_two(self) -> None:
        """A request with two tokens is denied (RFC 6750 §2)."""
        for request in (
            make_request("Bearer a", "Bearer a"),
            make_request("Bearer a", query=("a",)),
            make_request(query=("a", "b")),
        ):
            with self.assertRaises(Denied) as caught:
                read_token(request)
            denied = caught.exception
            self.assertEqual((denied.status, denied.error), (400, "invalid_request"))
            self.assertEqual(str(denied), "a request must have one token at most; got 2")


class ChallengeTests(SynchronousTestCase):
    """A denied request is answered with WWW-Authenticate (RFC 6750 §3)."""

    def test_no_token(self) -> None:
        """The challenge to a request without a token has no error."""
        self.assertEqual(
            challenge(Denied(401, "a token is required"))["WWW-Authenticate"],
            'Bearer realm="pushd"',
        )

    def test_error(self) -> None:
        """The challenge to a request with a bad token has the error and its description."""
        self.assertEqual(
            challenge(Denied(401, "token expired", "invalid_token"))["WWW-Authenticate"],
            'Bearer realm="pushd", error="invalid_token", error_description="token expired"',
        )
