"""Tests of verifying and making tokens, of identities and topic patterns."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from math import inf
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.keys import Key, read_signing_key
from pushd.access.tokens import (
    LEEWAY,
    Identity,
    TokenKeys,
    check_pattern,
    covers,
    make_token,
    matches,
    read_token_keys,
)
from pushd.errors import BadToken
from pushd.topics.publication import check_topic
from tests.support.hypothesis_settings import NO_DEADLINE
from tests.support.keyring import (
    SECRET,
    FolderTestCase,
    private_key,
    private_pem,
    public_jwk,
    public_pem,
    secret_keys,
    sign,
)

NOW = 1_000_000.0
CLAIMS = {"sub": "ann", "exp": NOW + 60, "subscribe": ["news"], "publish": ["chat/*"]}


SEGMENTS = st.sampled_from(["a", "b", "news", "x-1", "v1.2", "*"])
PATTERNS = st.one_of(
    st.lists(SEGMENTS, min_size=1, max_size=3),
    st.lists(SEGMENTS, max_size=3).map(lambda segments: [*segments, "**"]),
)
TOPICS = st.lists(SEGMENTS.filter(lambda one: one != "*"), min_size=1, max_size=5)


class TokenTestCase(FolderTestCase):
    def keys(self, *files: bytes | dict[str, Any]) -> TokenKeys:
        """Write files, and read the keys in them."""
        return read_token_keys([self.write(data) for data in files])

    def refusal(self, token: str, keys: TokenKeys | None = None, now: float = NOW) -> str:
        """Return the error about a token."""
        with self.assertRaises(BadToken) as caught:
            (keys or secret_keys()).verify(token, now)
        # The text must fit into a quoted string of a header (RFC 6750 §3).
        self.assertRegex(str(caught.exception), r"\A[ !#-\[\]-~]+\Z")
        return str(caught.exception)

    def verify(self, token: str, keys: TokenKeys | None = None, now: float = NOW) -> Identity:
        """Return the identity in a valid token."""
        return (keys or secret_keys()).verify(token, now)


class SignatureTests(TokenTestCase):
    """A token must be signed with one of the keys."""

    def test_algorithms(self) -> None:
        """Each of the six algorithms is supported, with a key of its kind."""
        keys = self.keys(SECRET, *(public_pem(kind) for kind in ("RS256", "ES256", "EdDSA")))
        self.assertTrue(keys)
        for algorithm in ("HS256", "HS384", "HS512"):
            self.assertEqual(self.verify(sign(CLAIMS, SECRET, algorithm), keys).subject, "ann")
        for algorithm in ("RS256", "ES256", "EdDSA"):
            token = sign(CLAIMS, private_key(algorithm), algorithm)
            self.assertEqual(self.verify(token, keys).subject, "ann")

    def test_confusion(self) -> None:
        """A public key is never used as a secret (RFC 8725 §2.1)."""
        for kind in ("RS256", "ES256", "EdDSA"):
            keys = self.keys(public_pem(kind))
            for secret in (public_pem(kind), public_pem(kind).strip()):
                for algorithm in ("HS256", "HS384", "HS512"):
                    token = _forge({"alg": algorithm}, CLAIMS, secret)
                    self.assertIn("there is no key", self.refusal(token, keys))

    def test_confusion_beside_a_secret(self) -> None:
        """A public key is not used as a secret if there is a secret as well."""
        keys = self.keys(SECRET, public_pem("RS256"))
        token = _forge({"alg": "HS256"}, CLAIMS, public_pem("RS256"))
        self.assertIn("not signed with any of the keys", self.refusal(token, keys))

    def test_unsigned(self) -> None:
        """An unsigned token is refused, however its algorithm is spelt."""
        spellings: list[Any] = ["none", "None", "NONE", "nOnE", "", None, 0, ["HS256"], {}]
        for algorithm in spellings:
            for signature in (b"", b"x"):
                token = _compact({"alg": algorithm}, CLAIMS, signature)
                self.assertIn("must be signed with one of HS256", self.refusal(token))
        self.assertIn("must be signed", self.refusal(_compact({}, CLAIMS, b"")))

    def test_bad_signature(self) -> None:
        """A token with a missing, truncated or changed signature is refused."""
        token = sign(CLAIMS)
        head, _, signature = token.rpartition(".")
        for other in ("", signature[:-3], "A" * len(signature)):
            self.assertIn("not signed with any of the keys", self.refusal(f"{head}.{other}"))

    def test_other_algorithms(self) -> None:
        """A token signed with another algorithm is refused, even if the key would fit."""
        token = sign(CLAIMS, private_key("RS256"), "RS512")
        self.assertIn(
            "must be signed with one of", self.refusal(token, self.keys(public_pem("RS256")))
        )
        token = sign(CLAIMS, private_key("RS256"), "PS256")
        self.assertIn(
            "must be signed with one of", self.refusal(token, self.keys(public_pem("RS256")))
        )

    def test_short_secret(self) -> None:
        """A secret of 32 bytes does not verify HS512."""
        keys = self.keys(SECRET[:32])
        token = _forge({"alg": "HS512"}, CLAIMS, SECRET[:32])
        self.assertIn("signed with HS512, for which there is no key", self.refusal(token, keys))

    def test_wrong_key(self) -> None:
        """A token signed with another key is refused."""
        self.assertIn("not signed with any of the keys", self.refusal(sign(CLAIMS, SECRET[::-1])))
        keys = self.keys(public_jwk("ES256"))
        self.assertIn(
            "there is no key", self.refusal(sign(CLAIMS, private_key("EdDSA"), "EdDSA"), keys)
        )

    def test_several_keys(self) -> None:
        """A token may be signed with any of several keys of a kind."""
        keys = self.keys(SECRET, SECRET[::-1])
        for secret in (SECRET, SECRET[::-1]):
            self.assertEqual(self.verify(sign(CLAIMS, secret), keys).subject, "ann")

    def test_kid(self) -> None:
        """A token with a ``kid`` is verified with that key, or with a key without a ``kid``."""
        encoded = [
            base64.urlsafe_b64encode(secret).decode().rstrip("=")
            for secret in (SECRET, SECRET[::-1])
        ]
        keys = self.keys(
            {
                "keys": [
                    {"kty": "oct", "kid": "old", "k": encoded[0]},
                    {"kty": "oct", "kid": "new", "k": encoded[1]},
                ]
            },
            SECRET[:32] * 2,
        )
        self.verify(sign(CLAIMS, SECRET, kid="old"), keys)
        self.verify(sign(CLAIMS, SECRET[::-1], kid="new"), keys)
        self.verify(sign(CLAIMS, SECRET[::-1]), keys)
        self.verify(sign(CLAIMS, SECRET[:32] * 2, kid="whatever"), keys)
        for secret, kid in ((SECRET[::-1], "old"), (SECRET[::-1], "none such")):
            refusal = self.refusal(sign(CLAIMS, secret, kid=kid), keys)
            self.assertIn("not signed with any of the keys", refusal)
        self.assertIn("malformed", self.refusal(_forge({"alg": "HS256", "kid": 1}, CLAIMS, SECRET)))

    def test_key_in_the_token(self) -> None:
        """A key that is in the token, or that it refers to, is ignored."""
        for extra in (
            {"jwk": public_jwk("RS256")},
            {"jku": "http://127.0.0.1/"},
            {"x5c": ["AAAA"]},
        ):
            token = sign(CLAIMS, private_key("RS256"), "RS256", **extra)
            self.assertIn("there is no key", self.refusal(token))

    def test_critical(self) -> None:
        """A token with an unknown critical header is refused (RFC 7515 §4.1.11)."""
        token = _forge({"alg": "HS256", "crit": ["new"], "new": 1}, CLAIMS, SECRET)
        self.assertIn("malformed", self.refusal(token))

    def test_replace(self) -> None:
        """After ``replace`` only the new keys verify tokens."""
        keys = secret_keys()
        token = sign(CLAIMS, SECRET[::-1])
        self.refusal(token, keys)
        keys.replace(secret_keys(SECRET[::-1]))
        self.assertEqual(self.verify(token, keys).subject, "ann")
        keys.replace(TokenKeys())
        self.assertFalse(keys)

    def test_garbage(self) -> None:
        """A text that is not a token is refused as malformed."""
        head, payload, signature = sign(CLAIMS).split(".")
        for token in (
            "",
            "x",
            "..",
            "a.b.c",
            "é.é.é",
            f"{head}.{payload}",
            f"{head}.{payload}.{signature}.{signature}",
            f"{head}.{payload}.ä",
            "[" * 5000,
            _b64(b"[1]") + f".{payload}.{signature}",
            _b64(b"[" * 5000) + f".{payload}.{signature}",
        ):
            self.assertIn("malformed", self.refusal(token), token[:50])

    def test_bad_payload(self) -> None:
        """A signed token whose payload is not a JSON object is refused as malformed."""
        for payload in (b"", b"[]", b"1", b"\xff", b"{", b"[" * 5000, b'{"exp": ' + b"1" * 5000):
            token = _sign_bytes(payload)
            self.assertIn("malformed", self.refusal(token), payload[:20])

    def test_half_a_surrogate_pair(self) -> None:
        """A token that holds half a surrogate pair is refused as malformed, wherever that is."""
        for claims in ({"sub": "\udc00"}, {"name": {"first": ["\ud800"]}}, {"\udfff": 1}):
            self.assertIn("malformed", self.refusal(sign({**CLAIMS, **claims})))
        self.assertEqual(self.verify(sign({**CLAIMS, "sub": "\U0001f600"})).subject, "\U0001f600")


class ClaimTests(TokenTestCase):
    """The claims of a token are checked, and become an Identity."""

    def test_identity(self) -> None:
        """An identity has the subject, expiry and patterns, and all other claims."""
        identity = self.verify(sign({**CLAIMS, "name": "Ann"}))
        self.assertEqual(
            identity,
            Identity(subject="ann", expires=NOW + 60, subscribe=("news",), publish=("chat/*",)),
        )
        self.assertEqual(identity.claims["name"], "Ann")

    def test_only_exp(self) -> None:
        """Only ``exp`` is required; without patterns a token permits nothing."""
        identity = self.verify(sign({"exp": NOW}))
        self.assertEqual(identity, Identity(subject="", expires=NOW))

    def test_no_exp(self) -> None:
        """A token without ``exp`` is refused, except where it may be endless."""
        claims = {name: value for name, value in CLAIMS.items() if name != "exp"}
        self.assertEqual(self.refusal(sign(claims)), "token has no exp")
        self.assertEqual(secret_keys().verify(sign(claims), NOW, endless=True).expires, inf)

    def test_bad_times(self) -> None:
        """The error about an invalid time names the claim."""
        times: list[Any] = ["1", None, True, [], -1, 1e13, 10**400, float("inf"), float("nan")]
        for value in times:
            for name in ("exp", "nbf"):
                token = _forge({"alg": "HS256"}, {**CLAIMS, name: value}, SECRET)
                self.assertEqual(
                    self.refusal(token), f"token's {name} must be a number of seconds since 1970"
                )

    def test_leeway(self) -> None:
        """A token is accepted up to 30 seconds before ``nbf`` and after ``exp``."""
        token = sign({**CLAIMS, "nbf": NOW})
        self.assertEqual(LEEWAY, 30)
        self.assertEqual(self.refusal(token, now=NOW - 30.1), "token is not valid yet")
        for now in (NOW - 30, NOW, NOW + 60, NOW + 89.9):
            self.assertEqual(self.verify(token, now=now).subject, "ann")
        self.assertEqual(self.refusal(token, now=NOW + 90), "token expired")

    def test_audience(self) -> None:
        """A token whose ``aud`` does not contain pushd is refused (RFC 7519 §4.1.3)."""
        ours: list[Any] = ["pushd", ["pushd"], ["x", "pushd"]]
        for audience in ours:
            self.verify(sign({**CLAIMS, "aud": audience}))
        others: list[Any] = ["x", ["x"], [], None, 1]
        for audience in others:
            token = _forge({"alg": "HS256"}, {**CLAIMS, "aud": audience}, SECRET)
            self.assertIn("another audience", self.refusal(token))

    def test_subject(self) -> None:
        """A token whose ``sub`` is not a string is refused."""
        for subject in (1, None, ["ann"]):
            token = _forge({"alg": "HS256"}, {**CLAIMS, "sub": subject}, SECRET)
            self.assertEqual(self.refusal(token), "token's sub must be a string")

    def test_patterns(self) -> None:
        """A token whose patterns are not a list of topic patterns is refused."""
        wrong: list[Any] = ["news", None, {}, [1], ["a b"], ["a", "**/b"], [["a"]]]
        for value in wrong:
            for name in ("subscribe", "publish"):
                token = _forge({"alg": "HS256"}, {**CLAIMS, name: value}, SECRET)
                refusal = self.refusal(token)
                self.assertEqual(refusal, f"token's {name} must be a list of topic patterns")


class MakeTokenTests(TokenTestCase):
    """``make_token`` signs tokens."""

    def test_round_trip(self) -> None:
        """A token made with a private key or a secret is valid."""
        for kind in ("RS256", "ES256", "EdDSA"):
            key = read_signing_key(self.write(private_pem(kind)))
            keys = self.keys(public_pem(kind))
            self.assertEqual(self.verify(make_token(key, CLAIMS), keys).subject, "ann")
        token = make_token(Key(("HS256",), SECRET), CLAIMS)
        self.assertEqual(self.verify(token).subject, "ann")


class PatternTests(SynchronousTestCase):
    """In a topic pattern ``*`` stands for a segment, and ``**`` for the rest."""

    def test_examples(self) -> None:
        """The examples in the documentation are right."""
        for pattern, inside, outside in (
            ("news", ["news"], ["new", "news/a", "newsx", "NEWS"]),
            ("chat/*", ["chat/7", "chat/x"], ["chat", "chat/7/8", "chats/7"]),
            ("*/news", ["de/news"], ["news", "de/at/news"]),
            ("a/**", ["a/b", "a/b/c"], ["a", "b", "ab", "b/a"]),
            ("*", ["a"], ["a/b"]),
            ("**", ["a", "a/b/c"], []),
            ("a/*/**", ["a/b/c", "a/b/c/d"], ["a/b", "a"]),
            ("ns:*", ["ns:a", "ns:a:b"], ["ns", "ns:", "ns:a/b", "other:a"]),
            ("a/ns:*/**", ["a/ns:b/c"], ["a/ns:/c", "a/ns:b"]),
            # A dot is a dot: a pattern is not a regular expression.
            ("a.c", ["a.c"], ["abc"]),
        ):
            check_pattern(pattern)
            self.assertEqual([one for one in inside if not matches(pattern, one)], [], pattern)
            self.assertEqual([one for one in outside if matches(pattern, one)], [], pattern)

    def test_property(self) -> None:
        """Any topic matches any pattern segment by segment."""

        @NO_DEADLINE
        @given(st.lists(SEGMENTS, max_size=4), st.booleans(), TOPICS)
        def check(segments: list[str], rest: bool, topic: list[str]) -> None:
            pattern = [*segments, "**"] if rest or not segments else segments
            check_pattern("/".join(pattern))
            expected = _reference(pattern, topic)
            self.assertEqual(matches("/".join(pattern), "/".join(topic)), expected)

        check()

    def test_topics_are_patterns(self) -> None:
        """Every topic is a pattern, which only the same topic matches."""

        @NO_DEADLINE
        @given(TOPICS, TOPICS)
        def check(one: list[str], other: list[str]) -> None:
            pattern = check_topic("/".join(one))
            self.assertEqual(matches(check_pattern(pattern), "/".join(other)), one == other)

        check()

    def test_covers(self) -> None:
        """A pattern covers another one if it matches all topics that the other one matches."""
        for pattern, other in (
            *(("a", "a"), ("*", "a"), ("*", "*"), ("**", "*"), ("**", "**"), ("**", "a/b/**")),
            *(("a/**", "a/b"), ("a/**", "a/*/c"), ("a/**", "a/b/**"), ("a/*/**", "a/b/c/**")),
            *(("*/b", "a/b"), ("*/**", "a/**")),
        ):
            self.assertTrue(covers(pattern, other), (pattern, other))
        for pattern, other in (
            *(("a", "b"), ("a", "*"), ("*", "**"), ("a/*", "a/**"), ("a/b/**", "a/**")),
            *(("a/**", "a"), ("a/*/**", "a/**"), ("a", "a/b"), ("a/b", "*/b"), ("a/**", "**")),
        ):
            self.assertFalse(covers(pattern, other), (pattern, other))

    def test_covers_property(self) -> None:
        """No topic matches a covered pattern and not the pattern that covers it."""

        @NO_DEADLINE
        @given(PATTERNS, PATTERNS, TOPICS)
        def check(one: list[str], other: list[str], segments: list[str]) -> None:
            pattern, covered, topic = "/".join(one), "/".join(other), "/".join(segments)
            if covers(pattern, covered) and matches(covered, topic):
                self.assertTrue(matches(pattern, topic))

        check()

    def test_bad(self) -> None:
        """An invalid or too long pattern is refused."""
        for text in ("", "/", "a/", "/a", "a//b", "a**", "**/a", "a*", "*a", "***", "a b", "é"):
            self.assertRaises(ValueError, check_pattern, text)
        self.assertRaises(ValueError, check_pattern, "a" * 256)
        self.assertRaises(ValueError, check_pattern, "a\n")
        for text in (".", "..", "a/../*", "../**", "*/."):
            error = self.assertRaises(ValueError, check_pattern, text)
            self.assertIn("must not have . or ..", str(error))
        self.assertEqual(check_pattern("a/.../**"), "a/.../**")


class IdentityTests(SynchronousTestCase):
    """An identity knows what its token permits."""

    def test_rights(self) -> None:
        """Subscribing and publishing have patterns of their own; without any both are denied."""
        identity = Identity(subject="u", expires=0, subscribe=("a", "b/*"), publish=("c/**",))
        self.assertTrue(identity.may_subscribe("a"))
        self.assertTrue(identity.may_subscribe("b/x"))
        self.assertFalse(identity.may_subscribe("c/x"))
        self.assertTrue(identity.may_publish("c/x"))
        self.assertFalse(identity.may_publish("a"))
        other = Identity(subject="", expires=0)
        self.assertFalse(other.may_subscribe("a") or other.may_publish("a"))


def _reference(pattern: list[str], topic: list[str]) -> bool:
    """Match as ``matches`` does, in another way."""
    if pattern == ["**"]:
        return bool(topic)
    if not pattern or not topic:
        return not pattern and not topic
    return pattern[0] in ("*", topic[0]) and _reference(pattern[1:], topic[1:])


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _compact(header: dict[str, Any], claims: dict[str, Any], signature: bytes) -> str:
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return ".".join(_b64(part) for part in parts)


def _forge(header: dict[str, Any], claims: dict[str, Any], secret: bytes) -> str:
    """Sign without PyJWT, which refuses to sign such tokens."""
    signed = _compact(header, claims, b"").rpartition(".")[0]
    digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}
    signature = hmac.new(secret, signed.encode(), digest[header["alg"]]).digest()
    return f"{signed}.{_b64(signature)}"


def _sign_bytes(payload: bytes) -> str:
    """Sign a payload that need not be JSON."""
    head = _b64(json.dumps({"alg": "HS256"}).encode())
    signed = f"{head}.{_b64(payload)}"
    return f"{signed}.{_b64(hmac.new(SECRET, signed.encode(), hashlib.sha256).digest())}"
