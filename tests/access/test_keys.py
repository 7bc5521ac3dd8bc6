"""Files of keys: what each holds, for which algorithms, and what is refused."""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pushd.access.keys import read_keys, read_signing_key
from tests.keyring import (
    SECRET,
    FolderTestCase,
    private_key,
    private_pem,
    public_jwk,
    public_pem,
)

KINDS = ("RS256", "ES256", "EdDSA")


class KeyFileTests(FolderTestCase):
    """Keys that check tokens."""

    def refusal(self, data: bytes) -> str:
        """What is said of a file, behind its name, in one line."""
        path = self.write(data)
        with self.assertRaises(ValueError) as caught:
            read_keys(path)
        line = str(caught.exception)
        self.assertTrue(line.startswith(path), line)
        self.assertNotIn("\n", line)
        return line.removeprefix(path)

    def algorithms(self, data: bytes) -> tuple[str, ...]:
        """What a file's only key is for."""
        (key,) = read_keys(self.write(data))
        return key.algorithms

    def test_secret(self) -> None:
        """A secret is for the hashes that it is as long as (RFC 7518 §3.2)."""
        for length, algorithms in (
            (32, ("HS256",)),
            (47, ("HS256",)),
            (48, ("HS256", "HS384")),
            (64, ("HS256", "HS384", "HS512")),
            (500, ("HS256", "HS384", "HS512")),
        ):
            self.assertEqual(self.algorithms(b"\xff" * length), algorithms)

    def test_short_secret(self) -> None:
        """A secret that is too short is refused, and told how long it has to be."""
        for secret in (b"", b"\n", b"secret", b"x" * 31, b"x" * 31 + b"\n"):
            self.assertIn("at least 32 bytes", self.refusal(secret))

    def test_line_end(self) -> None:
        """The line end of a secret that is text is an editor's; bytes are as they are."""
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
        """A public key in PEM is for the algorithm of its kind."""
        for kind in KINDS:
            self.assertEqual(self.algorithms(public_pem(kind)), (kind,))
            self.assertEqual(self.algorithms(b"a comment\n" + public_pem(kind)), (kind,))

    def test_bad_pem(self) -> None:
        """Other kinds, keys that are too weak, private ones and garbage are refused."""
        self.assertIn("2048 bits, this one 1024", self.refusal(public_pem("rsa1024")))
        self.assertIn("RSA, EC on P-256 or Ed25519", self.refusal(public_pem("p384")))
        self.assertIn("holds a private key", self.refusal(private_pem("ES256")))
        garbage = b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
        self.assertIn("no key in PEM", self.refusal(garbage))
        self.assertIn("no key in PEM", self.refusal(public_pem("RS256")[:200]))

    def test_public_is_no_secret(self) -> None:
        """A public key in a form that is not read does not become a secret that all know."""
        der = private_key("RS256").public_key()
        for data in (
            der.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            der.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        ):
            self.assertIn("not in PEM", self.refusal(data))
        self.assertIn("begins as JSON does", self.refusal(b'{"keys": [' + b"x" * 100))

    def test_unreadable(self) -> None:
        """A file that can't be read is named, with the reason."""
        missing = str(self.folder / "missing")
        for path, reason in (
            (missing, "No such file"),
            (str(self.folder), "Is a directory"),
            ("a\0b", "no file has such a name"),
        ):
            with self.assertRaises(ValueError) as caught:
                read_keys(path)
            self.assertIn(f"{path} can't be read: {reason}", str(caught.exception))


class KeySetTests(FolderTestCase):
    """JSON Web Key Sets (RFC 7517)."""

    def refusal(self, value: object) -> str:
        """What is said of a set."""
        path = self.write({"keys": value})
        with self.assertRaises(ValueError) as caught:
            read_keys(path)
        return str(caught.exception).removeprefix(path)

    def test_set(self) -> None:
        """Each key of a set has its name and its algorithm."""
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

    def test_one(self) -> None:
        """A single key is a set of one."""
        (key,) = read_keys(self.write(public_jwk("ES256")))
        self.assertEqual(key.algorithms, ("ES256",))

    def test_ignored(self) -> None:
        """Keys for something else are passed over (RFC 7517 §5)."""
        strangers = [
            {"kty": "new"},
            {"kty": ["RSA"]},
            {},
            public_jwk("p384"),
            public_jwk("RS256", use="enc"),
            public_jwk("RS256", alg="RS512"),
            public_jwk("RS256", alg=["RS256"]),
        ]
        (key,) = read_keys(self.write({"keys": [*strangers, public_jwk("EdDSA")]}))
        self.assertEqual(key.algorithms, ("EdDSA",))
        self.assertIn("has no key for HS256", self.refusal(strangers))

    def test_bad(self) -> None:
        """What is no set, and a key in it that can't be right, is refused, by its place."""
        good = public_jwk("ES256")
        short = {"kty": "oct", "k": "YWJj"}
        private = {**good, "d": "AAAA"}
        for value, said in (
            (None, "is no JSON Web Key Set"),
            (["x"], "is no JSON Web Key Set"),
            ([], "has no key for"),
            ([good, short], "key 2: a secret has at least 32 bytes, this one 3"),
            ([good, private], "key 2 is a private key"),
            ([{**good, "kid": 1}], "key 1: kid is text"),
            ([{**good, "x": "AAAA"}], "key 1 can't be read: "),
            ([{**good, "alg": "RS256"}], "key 1: such a key is not for RS256"),
            ([public_jwk("RS256", alg="HS256")], "key 1: such a key is not for HS256"),
            ([public_jwk("RS256", n="AQAB")], "key 1"),
        ):
            self.assertIn(said, self.refusal(value), value)
        path = self.write(b"[1]")
        self.assertRaises(ValueError, read_keys, path)


class SigningKeyTests(FolderTestCase):
    """Keys that make tokens."""

    def test_kinds(self) -> None:
        """A secret or a private key in PEM does."""
        for kind in KINDS:
            self.assertEqual(read_signing_key(self.write(private_pem(kind))).algorithms, (kind,))
        secret = read_signing_key(self.write(SECRET + b"\n"))
        self.assertEqual((secret.material, secret.algorithms[-1]), (SECRET, "HS512"))

    def test_random(self) -> None:
        """A secret of any bytes will do, be the first of them one that JSON begins with."""
        for first in (b"{", b"["):
            secret = first + b"\xff" * 40
            path = self.write(secret)
            self.assertEqual(read_signing_key(path).material, secret)
            self.assertEqual([key.material for key in read_keys(path)], [secret])

    def test_bad(self) -> None:
        """A public key, a set, another kind and a weak key do not."""
        for data, said in (
            (public_pem("RS256"), "holds a public key"),
            (b'{"keys": []}', "a secret or a private key in PEM"),
            (private_pem("rsa1024"), "2048 bits"),
            (private_pem("p384"), "RSA, EC on P-256 or Ed25519"),
            (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no key in PEM"),
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
