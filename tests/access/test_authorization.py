"""Authorization of requests."""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from pushd.access.authorization import Authorizer
from pushd.access.tokens import TokenKeys
from pushd.errors import Denied
from tests.keyring import secret_keys, token


class AccessTests(SynchronousTestCase):
    """A token in, an identity out, or a denial."""

    def setUp(self) -> None:
        """Ask for tokens."""
        self.now = 0.0
        self.authorizer = Authorizer(secret_keys(), lambda: self.now)

    def denial(self, call: Callable[..., object], *args: object) -> tuple[int, str, str]:
        """How something is denied."""
        with self.assertRaises(Denied) as caught:
            call(*args)
        return caught.exception.status, caught.exception.error, str(caught.exception)

    def test_open(self) -> None:
        """Without keys everybody may listen, nobody is known, and nobody may publish."""
        authorizer = Authorizer(TokenKeys(), lambda: self.now)
        for given in (None, "x", token()):
            self.assertIsNone(authorizer.identify(given))
            self.assertIsNone(authorizer.authorize_subscribe(given, "t"))
            for call in (authorizer.require, lambda one: authorizer.authorize_publish(one, "t")):
                self.assertEqual(self.denial(call, given), (401, "", "a token is required"))

    def test_needed(self) -> None:
        """With keys, who has no token is told that one is needed."""
        self.assertIsNone(self.authorizer.identify(None))
        needed = (401, "", "a token is required")
        self.assertEqual(self.denial(self.authorizer.require, None), needed)
        self.assertEqual(self.denial(self.authorizer.authorize_subscribe, None, "t"), needed)
        self.assertEqual(self.denial(self.authorizer.authorize_publish, None, "t"), needed)

    def test_bad(self) -> None:
        """A token that is not good is worse than none."""
        late = token(exp=0)
        self.now = 30
        denied = (401, "invalid_token", "token expired")
        for call in (self.authorizer.identify, self.authorizer.require):
            self.assertEqual(self.denial(call, late), denied)
        self.assertEqual(self.denial(self.authorizer.authorize_subscribe, late, "t"), denied)
        self.assertEqual(self.denial(self.authorizer.authorize_publish, late, "t"), denied)

    def test_rights(self) -> None:
        """To listen and to publish are two rights."""
        reader, writer = token(subscribe=["a/*"]), token(publish=["a/*"])
        identity = self.authorizer.authorize_subscribe(reader, "a/b")
        assert identity is not None
        self.assertEqual(identity.subject, "ann")
        self.assertEqual(self.authorizer.authorize_publish(writer, "a/b").subject, "ann")
        scope = "insufficient_scope"
        self.assertEqual(
            self.denial(self.authorizer.authorize_subscribe, writer, "a/b"),
            (403, scope, "this token may not subscribe to a/b"),
        )
        self.assertEqual(
            self.denial(self.authorizer.authorize_publish, reader, "a/b"),
            (403, scope, "this token may not publish to a/b"),
        )
        self.assertEqual(self.denial(self.authorizer.authorize_subscribe, reader, "b")[0], 403)

    def test_ends(self) -> None:
        """A connection lasts as long as its token; or as the leeway, if it came in that."""
        identity = self.authorizer.require(token(exp=100))
        self.assertEqual(self.authorizer.end_of_connection(identity), 100)
        self.now = 100
        self.assertEqual(self.authorizer.end_of_connection(identity), 130)
