"""Tests of reading keys from files: their algorithms, and the errors about bad files."""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pushd.access.keys import read_keys, read_secret, read_signing_key
from tests.support.keyring import (
    SECRET,
    FolderTestCase,
    private_key,
    private_pem,
    public_jwk,
    public_pem,
)

KINDS = ("RS256", "ES256", "EdDSA")


class VerifyingKeyTests(FolderTestCase):
    """``read_keys`` reads secrets and PEM public keys."""

    def refusal(self, data: bytes) -> str:
        """Return the error about a file without its path; it must be one line."""
        path = self.write(data)
        with self.assertRaises(ValueError) as caught:
            read_keys(path)
        line = str(caught.exception)
        self.assertTrue(line.startswith(path), line)
        self.assertNotIn("\n", line)
        return line.removeprefix(path)

    def algorithms(self, data: bytes) -> tuple[str, ...]:
        """Return the algorithms of a file's only key."""
        (key,) = read_keys(self.write(data))
        return key.algorithms

    def test_secret(self) -> None:
        """A secret can be used with hashes of up to its length (RFC 7518 §3.2)."""
        for length, algorithms in (
            (32, ("HS256",)),
            (47, ("HS256",)),
            (48, ("HS256", "HS384")),
            (64, ("HS256", "HS384", "HS512")),
            (500, ("HS256", "HS384", "HS512")),
        ):
            self.assertEqual(self.algorithms(b"\xff" * length), algorithms)

    def test_short_secret(self) -> None:
        """The error about a short secret gives the minimum length."""
        for secret in (b"", b"\n", b"secret", b"x" * 31, b"x" * 31 + b"\n"):
            self.assertIn("at least 32 bytes", self.refusal(secret))

    def test_line_end(self) -> None:
        """The newline at the end of a text secret is removed; binary secrets are left alone."""
        for data, secret in (
            (SECRET + b"\n", SECRET),
            (SECRET + b"\r\n", SECRET),
            (b"a b" * 20 + b"\n", b"a b" * 20),
            (b"\xff" * 63 + b"\n", b"\xff" * 63 + b"\n"),
            (b"\x01" * 63 + b"\n", b"\x01" * 63 + b"\n"),
        ):
            (key,) = read_keys(self.write(data))
            self.assertEqual(key.material, secret)

    def test_pem(self) -> None:
        """A PEM public key can be used with the algorithm of its kind."""
        for kind in KINDS:
            self.assertEqual(self.algorithms(public_pem(kind)), (kind,))
            self.assertEqual(self.algorithms(b"a comment\n" + public_pem(kind)), (kind,))

    def test_bad_pem(self) -> None:
        """Other kinds of keys, weak keys, private keys and garbage are refused."""
        self.assertIn("2048 bits; got 1024", self.refusal(public_pem("rsa1024")))
        self.assertIn("RSA, EC on P-256 or Ed25519", self.refusal(public_pem("p384")))
        self.assertIn("contains a private key", self.refusal(private_pem("ES256")))
        garbage = b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
        self.assertIn("no valid PEM key", self.refusal(garbage))
        self.assertIn("no valid PEM key", self.refusal(public_pem("RS256")[:200]))

    def test_other_public_formats(self) -> None:
        """A public key in another format than PEM is not taken for a secret."""
        der = private_key("RS256").public_key()
        for data in (
            der.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            der.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        ):
            self.assertIn("not PEM", self.refusal(data))
        self.assertIn("begins like JSON", self.refusal(b'{"keys": [' + b"x" * 100))

    def test_unreadable(self) -> None:
        """The error about an unreadable file gives its path and the reason."""
        missing = str(self.folder / "missing")
        for path, reason in (
            (missing, "No such file"),
            (str(self.folder), "Is a directory"),
            ("a\0b", "not a valid file name"),
        ):
            with self.assertRaises(ValueError) as caught:
                read_keys(path)
            self.assertIn(f"{path}: cannot be read: {reason}", str(caught.exception))


class SecretTests(FolderTestCase):
    """``read_secret`` reads secrets of any length."""

    def test_lengths(self) -> None:
        """A short one is used with HS256; blanks around text do not belong to it."""
        for data, secret, algorithms in (
            (b" secret\n", b"secret", ("HS256",)),
            (b"\xff\n", b"\xff\n", ("HS256",)),
            (b"x" * 48, b"x" * 48, ("HS256", "HS384")),
        ):
            key = read_secret(self.write(data))
            self.assertEqual((key.material, key.algorithms), (secret, algorithms))

    def test_bad(self) -> None:
        """A file must be there, and hold something."""
        for path, reason in ((self.write(b"\n"), "is empty"), ("nowhere", "cannot be read")):
            with self.assertRaises(ValueError) as caught:
                read_secret(path)
            self.assertIn(f"{path}: {reason}", str(caught.exception))


class KeySetTests(FolderTestCase):
    """``read_keys`` reads JSON Web Key Sets (RFC 7517)."""

    def refusal(self, value: object) -> str:
        """Return the error about a key set, without its path."""
        path = self.write({"keys": value})
        with self.assertRaises(ValueError) as caught:
            read_keys(path)
        return str(caught.exception).removeprefix(path)

    def test_set(self) -> None:
        """Each key of a set has its ``kid`` and its algorithms."""
        secret = base64.urlsafe_b64encode(SECRET).decode().rstrip("=")
        keys = [public_jwk(kind, kid=kind.lower()) for kind in KINDS]
        keys += [
            {"kty": "oct", "k": secret},
            {"kty": "oct", "k": secret, "alg": "HS384", "use": "sig", "kid": "s"},
        ]
        found = [(key.id, key.algorithms) for key in read_keys(self.write({"keys": keys}))]
        expected: list[tuple[str | None, tuple[str, ...]]] = [
            (kind.lower(), (kind,)) for kind in KINDS
        ]
        expected += [(None, ("HS256", "HS384", "HS512")), ("s", ("HS384",))]
        self.assertEqual(found, expected)

    def test_single_key(self) -> None:
        """A JSON Web Key alone is read like a set of one."""
        (key,) = read_keys(self.write(public_jwk("ES256")))
        self.assertEqual(key.algorithms, ("ES256",))

    def test_ignored(self) -> None:
        """Keys for other purposes are ignored (RFC 7517 §5)."""
        others = [
            {"kty": "new"},
            {"kty": ["RSA"]},
            {},
            public_jwk("p384"),
            public_jwk("RS256", use="enc"),
            public_jwk("RS256", alg="RS512"),
            public_jwk("RS256", alg=["RS256"]),
        ]
        (key,) = read_keys(self.write({"keys": [*others, public_jwk("EdDSA")]}))
        self.assertEqual(key.algorithms, ("EdDSA",))
        self.assertIn("contains no key for any of HS256", self.refusal(others))

    def test_bad(self) -> None:
        """The error about an invalid key set gives the number of the bad key."""
        good = public_jwk("ES256")
        short = {"kty": "oct", "k": "YWJj"}
        private = {**good, "d": "AAAA"}
        for value, said in (
            (None, "must be a JSON Web Key Set"),
            (["x"], "must be a JSON Web Key Set"),
            ([], "contains no key for"),
            ([good, short], "key 2: secret must have at least 32 bytes; got 3"),
            ([good, private], "key 2: is a private key"),
            ([{**good, "kid": 1}], "key 1: kid must be a string"),
            ([{**good, "x": "AAAA"}], "key 1: cannot be read: "),
            ([{**good, "alg": "RS256"}], "key 1: a key of this kind cannot be used for RS256"),
            (
                [public_jwk("RS256", alg="HS256")],
                "key 1: a key of this kind cannot be used for HS256",
            ),
            ([public_jwk("RS256", n="AQAB")], "key 1"),
        ):
            self.assertIn(said, self.refusal(value), value)
        path = self.write(b"[1]")
        self.assertRaises(ValueError, read_keys, path)


class SigningKeyTests(FolderTestCase):
    """``read_signing_key`` reads secrets and PEM private keys."""

    def test_kinds(self) -> None:
        """A token can be signed with a secret or a PEM private key."""
        for kind in KINDS:
            self.assertEqual(read_signing_key(self.write(private_pem(kind))).algorithms, (kind,))
        secret = read_signing_key(self.write(SECRET + b"\n"))
        self.assertEqual((secret.material, secret.algorithms[-1]), (SECRET, "HS512"))

    def test_binary_secret(self) -> None:
        """A binary secret may begin with a byte that JSON begins with."""
        for first in (b"{", b"["):
            secret = first + b"\xff" * 40
            path = self.write(secret)
            self.assertEqual(read_signing_key(path).material, secret)
            self.assertEqual([key.material for key in read_keys(path)], [secret])

    def test_bad(self) -> None:
        """Public keys, key sets, other kinds of keys and weak keys cannot sign."""
        for data, said in (
            (public_pem("RS256"), "contains a public key"),
            (b'{"keys": []}', "must be a secret or a PEM private key"),
            (private_pem("rsa1024"), "2048 bits"),
            (private_pem("p384"), "RSA, EC on P-256 or Ed25519"),
            (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no valid PEM key"),
            (_x25519(), "RSA, EC on P-256 or Ed25519"),
            (b"\x01" * 8, "at least 32 bytes"),
        ):
            with self.assertRaises(ValueError) as caught:
                read_signing_key(self.write(data))
            self.assertIn(said, str(caught.exception))


def _x25519() -> bytes:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat

    return X25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
