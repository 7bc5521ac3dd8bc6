"""Authorization of requests."""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from pushd.access.authorization import Access
from pushd.access.tokens import TokenKeys
from pushd.errors import Denied
from tests.keyring import secret_keys, token


class AccessTests(SynchronousTestCase):
    """A token in, an identity out, or a denial."""

    def setUp(self) -> None:
        """Ask for tokens."""
        self.now = 0.0
        self.access = Access(secret_keys(), lambda: self.now)

    def denial(self, call: Callable[..., object], *args: object) -> tuple[int, str, str]:
        """How something is denied."""
        with self.assertRaises(Denied) as caught:
            call(*args)
        return caught.exception.status, caught.exception.error, str(caught.exception)

    def test_open(self) -> None:
        """Without keys everybody may listen, nobody is known, and nobody may publish."""
        access = Access(TokenKeys(), lambda: self.now)
        for given in (None, "x", token()):
            self.assertIsNone(access.identify(given))
            self.assertIsNone(access.subscriber(given, "t"))
            for call in (access.require, lambda one: access.publisher(one, "t")):
                self.assertEqual(self.denial(call, given), (401, "", "a token is needed here"))

    def test_needed(self) -> None:
        """With keys, who has no token is told that one is needed."""
        self.assertIsNone(self.access.identify(None))
        needed = (401, "", "a token is needed here")
        self.assertEqual(self.denial(self.access.require, None), needed)
        self.assertEqual(self.denial(self.access.subscriber, None, "t"), needed)
        self.assertEqual(self.denial(self.access.publisher, None, "t"), needed)

    def test_bad(self) -> None:
        """A token that is not good is worse than none."""
        late = token(exp=0)
        self.now = 30
        denied = (401, "invalid_token", "the token has run out")
        for call in (self.access.identify, self.access.require):
            self.assertEqual(self.denial(call, late), denied)
        self.assertEqual(self.denial(self.access.subscriber, late, "t"), denied)
        self.assertEqual(self.denial(self.access.publisher, late, "t"), denied)

    def test_rights(self) -> None:
        """To listen and to publish are two rights."""
        reader, writer = token(subscribe=["a/*"]), token(publish=["a/*"])
        identity = self.access.subscriber(reader, "a/b")
        assert identity is not None
        self.assertEqual(identity.subject, "ann")
        self.assertEqual(self.access.publisher(writer, "a/b").subject, "ann")
        scope = "insufficient_scope"
        self.assertEqual(
            self.denial(self.access.subscriber, writer, "a/b"),
            (403, scope, "this token may not subscribe to a/b"),
        )
        self.assertEqual(
            self.denial(self.access.publisher, reader, "a/b"),
            (403, scope, "this token may not publish to a/b"),
        )
        self.assertEqual(self.denial(self.access.subscriber, reader, "b")[0], 403)

    def test_ends(self) -> None:
        """A connection lasts as long as its token; or as the leeway, if it came in that."""
        identity = self.access.require(token(exp=100))
        self.assertEqual(self.access.ends(identity), 100)
        self.now = 100
        self.assertEqual(self.access.ends(identity), 130)
