"""Tokens: which are good, when, and what is said of the others."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

from pushd.access.keys import Key, read_signing_key
from pushd.access.tokens import LEEWAY, Identity, TokenKeys, make_token, read_token_keys
from pushd.errors import BadToken
from tests.keyring import (
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


class TokenTestCase(FolderTestCase):
    def keys(self, *files: bytes | dict[str, Any]) -> TokenKeys:
        """The keys in such files."""
        return read_token_keys([self.write(data) for data in files])

    def refusal(self, token: str, keys: TokenKeys | None = None, now: float = NOW) -> str:
        """Why a token is not good."""
        with self.assertRaises(BadToken) as caught:
            (keys or secret_keys()).verify(token, now)
        # It goes into a quoted string of a header (RFC 6750 §3).
        self.assertRegex(str(caught.exception), r"\A[ !#-\[\]-~]+\Z")
        return str(caught.exception)

    def identify(self, token: str, keys: TokenKeys | None = None, now: float = NOW) -> Identity:
        """Who it is."""
        return (keys or secret_keys()).verify(token, now)


class KeyTests(TokenTestCase):
    """Who has signed."""

    def test_algorithms(self) -> None:
        """Each of the six algorithms is spoken, with a key of its kind."""
        keys = self.keys(SECRET, *(public_pem(kind) for kind in ("RS256", "ES256", "EdDSA")))
        self.assertTrue(keys)
        for algorithm in ("HS256", "HS384", "HS512"):
            self.assertEqual(self.identify(sign(CLAIMS, SECRET, algorithm), keys).subject, "ann")
        for algorithm in ("RS256", "ES256", "EdDSA"):
            token = sign(CLAIMS, private_key(algorithm), algorithm)
            self.assertEqual(self.identify(token, keys).subject, "ann")

    def test_confusion(self) -> None:
        """A public key is no secret, in whatever form it is taken for one (RFC 8725 §2.1)."""
        for kind in ("RS256", "ES256", "EdDSA"):
            keys = self.keys(public_pem(kind))
            for secret in (public_pem(kind), public_pem(kind).strip()):
                for algorithm in ("HS256", "HS384", "HS512"):
                    token = _forge({"alg": algorithm}, CLAIMS, secret)
                    self.assertIn("there is no key here", self.refusal(token, keys))

    def test_confusion_beside_a_secret(self) -> None:
        """Nor is it one where there is a secret as well."""
        keys = self.keys(SECRET, public_pem("RS256"))
        token = _forge({"alg": "HS256"}, CLAIMS, public_pem("RS256"))
        self.assertIn("signed with no key", self.refusal(token, keys))

    def test_none(self) -> None:
        """A token that is not signed is none, however it spells that."""
        spellings: list[Any] = ["none", "None", "NONE", "nOnE", "", None, 0, ["HS256"], {}]
        for algorithm in spellings:
            for signature in (b"", b"x"):
                token = _compact({"alg": algorithm}, CLAIMS, signature)
                self.assertIn("not signed with one of HS256", self.refusal(token))
        self.assertIn("not signed", self.refusal(_compact({}, CLAIMS, b"")))

    def test_empty_signature(self) -> None:
        """A signature that is missing, short or changed is none."""
        token = sign(CLAIMS)
        head, _, signature = token.rpartition(".")
        for other in ("", signature[:-3], "A" * len(signature)):
            self.assertIn("signed with no key", self.refusal(f"{head}.{other}"))

    def test_other_algorithms(self) -> None:
        """What is signed in a way that is not spoken is refused, though the key would fit."""
        token = sign(CLAIMS, private_key("RS256"), "RS512")
        self.assertIn("not signed with one of", self.refusal(token, self.keys(public_pem("RS256"))))
        token = sign(CLAIMS, private_key("RS256"), "PS256")
        self.assertIn("not signed with one of", self.refusal(token, self.keys(public_pem("RS256"))))

    def test_short_secret_is_for_short_hashes(self) -> None:
        """A secret of 32 bytes does not check HS512."""
        keys = self.keys(SECRET[:32])
        token = _forge({"alg": "HS512"}, CLAIMS, SECRET[:32])
        self.assertIn("signed with HS512, for which there is no key", self.refusal(token, keys))

    def test_wrong_key(self) -> None:
        """Another key of the same kind does not do."""
        self.assertIn("signed with no key", self.refusal(sign(CLAIMS, SECRET[::-1])))
        stranger = private_key("EdDSA")
        keys = self.keys(public_jwk("ES256"))
        self.assertIn("no key here", self.refusal(sign(CLAIMS, stranger, "EdDSA"), keys))

    def test_any_of_many(self) -> None:
        """Of several keys of a kind each does."""
        keys = self.keys(SECRET, SECRET[::-1])
        for secret in (SECRET, SECRET[::-1]):
            self.assertEqual(self.identify(sign(CLAIMS, secret), keys).subject, "ann")

    def test_kid(self) -> None:
        """A token that names its key is checked with that one, or with one that has no name."""
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
        self.identify(sign(CLAIMS, SECRET, kid="old"), keys)
        self.identify(sign(CLAIMS, SECRET[::-1], kid="new"), keys)
        self.identify(sign(CLAIMS, SECRET[::-1]), keys)
        self.identify(sign(CLAIMS, SECRET[:32] * 2, kid="whatever"), keys)
        for secret, kid in ((SECRET[::-1], "old"), (SECRET[::-1], "none such")):
            refusal = self.refusal(sign(CLAIMS, secret, kid=kid), keys)
            self.assertIn("signed with no key", refusal)
        self.assertIn("malformed", self.refusal(_forge({"alg": "HS256", "kid": 1}, CLAIMS, SECRET)))

    def test_key_in_the_token(self) -> None:
        """A key that the token brings itself, or says where to find, counts for nothing."""
        for extra in (
            {"jwk": public_jwk("RS256")},
            {"jku": "http://127.0.0.1/"},
            {"x5c": ["AAAA"]},
        ):
            token = sign(CLAIMS, private_key("RS256"), "RS256", **extra)
            self.assertIn("there is no key here", self.refusal(token))

    def test_critical(self) -> None:
        """What the token says has to be understood, and is not, makes it bad (RFC 7515 §4.1.11)."""
        token = _forge({"alg": "HS256", "crit": ["new"], "new": 1}, CLAIMS, SECRET)
        self.assertIn("malformed", self.refusal(token))

    def test_replace(self) -> None:
        """A set of keys can be replaced, wherever it is held."""
        keys = secret_keys()
        token = sign(CLAIMS, SECRET[::-1])
        self.refusal(token, keys)
        keys.replace(secret_keys(SECRET[::-1]))
        self.assertEqual(self.identify(token, keys).subject, "ann")
        keys.replace(TokenKeys())
        self.assertFalse(keys)

    def test_garbage(self) -> None:
        """What is no token at all is malformed."""
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

    def test_claims_that_are_none(self) -> None:
        """What is signed well but holds no claims is malformed."""
        for payload in (b"", b"[]", b"1", b"\xff", b"{", b"[" * 5000, b'{"exp": ' + b"1" * 5000):
            token = _sign_bytes(payload)
            self.assertIn("malformed", self.refusal(token), payload[:20])


class ClaimTests(TokenTestCase):
    """What it says."""

    def test_identity(self) -> None:
        """All claims can be had by who wants them."""
        identity = self.identify(sign({**CLAIMS, "name": "Ann"}))
        self.assertEqual(
            identity,
            Identity(subject="ann", expires=NOW + 60, subscribe=("news",), publish=("chat/*",)),
        )
        self.assertEqual(identity.claims["name"], "Ann")

    def test_least(self) -> None:
        """No claim but exp is needed; without rights there are none."""
        identity = self.identify(sign({"exp": NOW}))
        self.assertEqual(identity, Identity(subject="", expires=NOW))

    def test_no_exp(self) -> None:
        """A token without an end is not good."""
        claims = {name: value for name, value in CLAIMS.items() if name != "exp"}
        self.assertEqual(self.refusal(sign(claims)), "the token has no exp")

    def test_bad_times(self) -> None:
        """A time that is none is told by its name."""
        times: list[Any] = ["1", None, True, [], -1, 1e13, 10**400, float("inf"), float("nan")]
        for value in times:
            for name in ("exp", "nbf"):
                token = _forge({"alg": "HS256"}, {**CLAIMS, name: value}, SECRET)
                self.assertEqual(self.refusal(token), f"the token's {name} is no time")

    def test_skew(self) -> None:
        """Clocks may be 30 seconds apart, either way, and no more."""
        token = sign({**CLAIMS, "nbf": NOW})
        self.assertEqual(LEEWAY, 30)
        self.assertEqual(self.refusal(token, now=NOW - 30.1), "the token is not valid yet")
        for now in (NOW - 30, NOW, NOW + 60, NOW + 89.9):
            self.assertEqual(self.identify(token, now=now).subject, "ann")
        self.assertEqual(self.refusal(token, now=NOW + 90), "token expired")

    def test_audience(self) -> None:
        """A token for somebody else is not for us (RFC 7519 §4.1.3)."""
        ours: list[Any] = ["pushd", ["pushd"], ["x", "pushd"]]
        for audience in ours:
            self.identify(sign({**CLAIMS, "aud": audience}))
        others: list[Any] = ["x", ["x"], [], None, 1]
        for audience in others:
            token = _forge({"alg": "HS256"}, {**CLAIMS, "aud": audience}, SECRET)
            self.assertIn("another audience", self.refusal(token))

    def test_subject(self) -> None:
        """A subject is text."""
        for subject in (1, None, ["ann"]):
            token = _forge({"alg": "HS256"}, {**CLAIMS, "sub": subject}, SECRET)
            self.assertEqual(self.refusal(token), "the token's sub is no text")

    def test_patterns(self) -> None:
        """Rights are lists of topic patterns."""
        wrong: list[Any] = ["news", None, {}, [1], ["a b"], ["a", "**/b"], [["a"]]]
        for value in wrong:
            for name in ("subscribe", "publish"):
                token = _forge({"alg": "HS256"}, {**CLAIMS, name: value}, SECRET)
                refusal = self.refusal(token)
                self.assertEqual(refusal, f"the token's {name} is no list of topic patterns")


class MakeTests(TokenTestCase):
    """Tokens of our own."""

    def test_round_trip(self) -> None:
        """What is made with one half of a key is good for the other."""
        for kind in ("RS256", "ES256", "EdDSA"):
            key = read_signing_key(self.write(private_pem(kind)))
            keys = self.keys(public_pem(kind))
            self.assertEqual(self.identify(make_token(key, CLAIMS), keys).subject, "ann")
        token = make_token(Key(("HS256",), SECRET), CLAIMS)
        self.assertEqual(self.identify(token).subject, "ann")


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _compact(header: dict[str, Any], claims: dict[str, Any], signature: bytes) -> str:
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return ".".join(_b64(part) for part in parts)


def _forge(header: dict[str, Any], claims: dict[str, Any], secret: bytes) -> str:
    """Sign by hand, as PyJWT would refuse to."""
    signed = _compact(header, claims, b"").rpartition(".")[0]
    digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}
    signature = hmac.new(secret, signed.encode(), digest[header["alg"]]).digest()
    return f"{signed}.{_b64(signature)}"


def _sign_bytes(payload: bytes) -> str:
    """Sign what may be no JSON."""
    head = _b64(json.dumps({"alg": "HS256"}).encode())
    signed = f"{head}.{_b64(payload)}"
    return f"{signed}.{_b64(hmac.new(SECRET, signed.encode(), hashlib.sha256).digest())}"
