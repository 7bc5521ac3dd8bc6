"""The certificate of a port with TLS: replaced for new connections, kept by those that are open."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from cryptography import x509
from OpenSSL.SSL import Context
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pushd.protocols.certificate import LiveCertificate, explain
from tests.support.certificate import (
    make_tls_endpoint,
    no_warning,
    read_tls_endpoint,
    write_certificate,
)
from tests.support.folder import make_folder
from tests.support.tls_pair import TlsPair, trusting

# Parameters of Diffie-Hellman: the group ffdhe2048 of RFC 7919.
_DH = """\
-----BEGIN X9.42 DH PARAMETERS-----
MIICDAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAgKCAQB//////////9b8KixRXaVN
V+4rEBOennjsXOLB5xabStTwmyCKMhn95knO5xJNn3y+l/GxsYY67HtA2QFXYjC9
ae+Paur+srCSGfqPr4M3aEKxsqqe9o152quJrz+r5JrMJ4Y4cHNFu/FTRO159/Q5
DvisUJtW85qYVmUnpB08vV4FWMFZkn2w6IRUpdlkcf3ctW1bsGv6NA6noVHvHKb6
Vyt287G5XYyFg9PkdwU2uE8BfnDm+/F2YBoCZpQaF7DIuX9OdMLB/8cniRl3eUDB
4f8djaY31rmd2v5eF2EQAuLHeMG+i0HZY3mlE2DZd/1ENaEcMJQuS///////////
-----END X9.42 DH PARAMETERS-----
"""


class CertificateTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a certificate and read it, as a port does."""
        self.folder = make_folder(self)
        self.endpoint = make_tls_endpoint(self.folder)
        self.certificate = self.read()

    def read(self, endpoint: str = "") -> LiveCertificate:
        """Read the files."""
        return read_tls_endpoint(endpoint or self.endpoint)

    @property
    def context(self) -> Context:
        """The context of the next connection."""
        with no_warning():
            return self.certificate.context

    def renew(self) -> int:
        """Write another certificate; return its serial number."""
        return write_certificate(self.folder / "key.pem", self.folder / "certificate.pem")


class LiveCertificateTests(CertificateTestCase):
    def connect(self, session: ssl.SSLSession | None = None) -> TlsPair:
        """Connect a client, which may resume a session, up to its handshake."""
        pair = TlsPair(self.context, Protocol(), self.client, session=session)
        self.addCleanup(pair.raw.close)
        self.addCleanup(lambda: pair.transport.connectionLost(Failure(ConnectionDone())))
        return pair

    def open(self, session: ssl.SSLSession | None = None) -> TlsPair:
        """Connect a client, and do the handshake."""
        pair = self.connect(session)
        pair.handshake()
        return pair

    def setUp(self) -> None:
        """Make a client that accepts any certificate."""
        super().setUp()
        self.client = trusting()

    def test_replaced(self) -> None:
        """New connections get the new certificate; those that are open go on."""
        before = self.open()
        serial = self.renew()
        self.assertNotEqual(serial_number(before), serial)
        self.assertNotEqual(serial_number(self.open()), serial)
        self.assertTrue(self.certificate.replace(self.read()))
        self.assertEqual(serial_number(self.open()), serial)
        before.transport.write(b"still open")
        self.assertEqual(before.receive(), b"still open")

    def test_in_a_handshake(self) -> None:
        """A handshake that is in progress ends with the certificate it began with."""
        pair = self.connect()
        serial = self.renew()
        self.certificate.replace(self.read())
        pair.handshake()
        self.assertNotEqual(serial_number(pair), serial)

    def test_sessions(self) -> None:
        """Sessions are resumed after a reload, but not with another certificate."""
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            self.client = trusting()
            self.client.maximum_version = version
            first = self.open()
            self.assertFalse(self.certificate.replace(self.read()))
            second = self.open(first.client.session)
            self.assertTrue(second.client.session_reused)
            serial = self.renew()
            self.assertTrue(self.certificate.replace(self.read()))
            third = self.open(second.client.session)
            self.assertFalse(third.client.session_reused)
            self.assertEqual(serial_number(third), serial)
            # The new session can be resumed in its turn.
            fourth = self.open(third.client.session)
            self.assertTrue(fourth.client.session_reused)

    def test_chain(self) -> None:
        """Another chain counts as another certificate."""
        write_certificate(self.folder / "other.pem", self.folder / "chain.pem")
        chained = f"{self.endpoint}:extraCertChain={self.folder}/chain.pem"
        self.assertTrue(self.certificate.replace(self.read(chained)))
        self.assertFalse(self.certificate.replace(self.read(chained)))
        self.assertTrue(self.certificate.replace(self.read()))

    def test_diffie_hellman(self) -> None:
        """With parameters of Diffie-Hellman, which are in a file, too, all is read again."""
        file = self.folder / "dh.pem"
        file.write_text(_DH)
        endpoint = f"{self.endpoint}:dhParameters={file}"
        for _ in range(2):
            self.assertTrue(self.certificate.replace(self.read(endpoint)))
        self.assertIsInstance(self.context, Context)

    def test_expires(self) -> None:
        """The certificate tells when it expires."""
        written = x509.load_pem_x509_certificate((self.folder / "certificate.pem").read_bytes())
        self.assertEqual(self.certificate.expires, written.not_valid_after_utc)

    def test_of_twisted(self) -> None:
        """Twisted's own TLS takes the certificate in use for each connection."""
        factory = TLSMemoryBIOFactory(
            self.certificate, False, Factory.forProtocol(Protocol), MemoryReactorClock()
        )
        asked: Any = factory.buildProtocol(None)
        with no_warning():
            first = factory._creatorCallable(asked).get_context()
            self.assertIs(first, self.certificate.context)
            self.renew()
            self.certificate.replace(self.read())
            second = factory._creatorCallable(asked).get_context()
        self.assertIs(second, self.certificate.context)
        self.assertIsNot(second, first)


class ExplainTests(CertificateTestCase):
    """What is wrong with files, in words."""

    def reason(self) -> str:
        """Return the reason for which the files cannot be read."""
        try:
            with no_warning():
                _ = self.read().context
        except Exception as error:
            return str(explain(error))
        raise AssertionError("they can be read")

    def test_missing(self) -> None:
        """A file that is missing is named."""
        (self.folder / "key.pem").unlink()
        file = f"{self.folder}/key.pem"
        self.assertEqual(self.reason(), f"{file} cannot be read: No such file or directory")

    def test_mismatch(self) -> None:
        """A key of another certificate is told."""
        write_certificate(self.folder / "key.pem", self.folder / "other.pem")
        self.assertEqual(self.reason(), "the certificate is not that of the private key")

    def test_cut_off(self) -> None:
        """So is a file that is not, or not yet, what it should be."""
        for name in ("certificate.pem", "key.pem"):
            file = Path(self.folder / name)
            whole = file.read_bytes()
            for data in (b"", whole[:100], b"nonsense"):
                file.write_bytes(data)
                self.assertIn("must hold a certificate and its private key", self.reason())
            file.write_bytes(whole)
        self.assertIn("PEM", self.cut_off())

    def cut_off(self) -> str:
        """Return the reason for an empty file."""
        (self.folder / "certificate.pem").write_bytes(b"")
        return self.reason()

    def test_others(self) -> None:
        """Errors of other kinds are not explained."""
        for error in (ValueError("no port"), OSError("no file")):
            self.assertIsNone(explain(error))


def serial_number(pair: TlsPair) -> int:
    """Return the serial number of the certificate that a client has got."""
    certificate = pair.client.getpeercert(binary_form=True)
    assert certificate is not None
    return x509.load_der_x509_certificate(certificate).serial_number
