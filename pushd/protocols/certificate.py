"""The certificate of a port with TLS, which can be replaced while the port is open."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from OpenSSL.crypto import Error as CryptoError
from OpenSSL.SSL import Connection, Context
from OpenSSL.SSL import Error as TlsError
from twisted.internet.error import VerifyError
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.ssl import CertificateOptions
from zope.interface import implementer


@implementer(IOpenSSLServerConnectionCreator)
class LiveCertificate:
    """Gives each new connection the certificate in use; earlier ones keep what they began with.

    :param options: of a server, as Twisted makes them of the description of an endpoint.
    """

    def __init__(self, options: CertificateOptions) -> None:
        self._options = options

    @property
    def context(self) -> Context:
        """The context of the next connection. Raises OpenSSL's Error if it cannot be made."""
        context: Context = self._options.getContext()
        return context

    @property
    def expires(self) -> datetime:
        """When the certificate expires."""
        expires: datetime = self._chain()[0].not_valid_after_utc
        return expires

    def serverConnectionForTLS(self, protocol: Any) -> Connection:
        """Make a connection, for Twisted's own TLS."""
        connection: Connection = self._options.serverConnectionForTLS(protocol)
        return connection

    def replace(self, fresh: LiveCertificate) -> bool:
        """Use another certificate from the next connection on.

        Returns False, and changes nothing, if it is the same, with the same chain: a new context
        could not resume the sessions of the old one, and all clients would have to make whole
        handshakes.
        """
        # The key belongs to the certificate. Parameters of Diffie-Hellman are read with a context.
        if not fresh._options.dhParameters and self._chain() == fresh._chain():
            return False
        self._options = fresh._options
        return True

    def _chain(self) -> list[Any]:
        options = self._options
        chain = [options.certificate, *(options.extraCertChain or ())]
        return [one.to_cryptography() for one in chain]


def explain(error: Exception) -> str | None:
    """Return what is wrong with the files of a certificate; None for an error of another kind."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} cannot be read: {error.strerror}"
    if isinstance(error, VerifyError):
        return "the certificate is not that of the private key"
    if isinstance(error, CryptoError | TlsError):
        reasons = ", ".join(reason for *_, reason in error.args[0]) if error.args else ""
        return (
            "the files must hold a certificate and its private key, both in PEM format and without "
            f"a passphrase ({reasons})"
        )
    return None
