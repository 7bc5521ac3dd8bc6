"""A listening port: an endpoint of ``--listen`` or ``--control``, and its socket options."""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Callable
from errno import EADDRINUSE
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.errors import SocketInUse
from pushd.options.conflicts import EXPOSED, is_loopback
from pushd.options.parsers import BEHIND_PROXY
from pushd.protocols.certificate import LiveCertificate, explain
from pushd.protocols.http.request import peer_name
from pushd.protocols.http.site import PushdSite
from pushd.protocols.proxy_protocol import ProxyProtocolFactory
from pushd.protocols.twisted_internals import (
    encrypt_directly,
    pass_half_closes,
    prepare_tls,
)
from pushd.service.process.reactor import accept_directly
from pushd.service.socket_file import SocketFile, unix_path

_log = Logger(namespace="pushd.service")

# Connections that may wait to be accepted, unless the endpoint says otherwise.
_BACKLOG = 65535

# Seconds without data after which the kernel sends a keepalive probe, and seconds without an
# acknowledgement after which it drops a connection.
_KEEPALIVE_IDLE = 60
_USER_TIMEOUT = 60

# Twisted's lock of a Unix socket, in the description of an endpoint: SocketFile takes its place.
_LOCK = re.compile(r":lockfile=[^:]*")


class PortService(Service):
    """Listens on one endpoint.

    :param site: the site that serves its connections.
    :param message: the log line once it listens, in which ``{url}`` stands for the URL.
    :param option: the option that named the endpoint, for the message if it cannot listen.
    :param private: True if a Unix socket is for the user of the process, and for a group, only.
    """

    def __init__(
        self,
        reactor: Any,
        endpoint: str,
        site: PushdSite,
        *,
        message: str,
        option: str,
        private: bool = False,
    ) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        # Without the prefix: Twisted's own wrapper is not used.
        self._plain = endpoint.removeprefix(BEHIND_PROXY)
        self._site = site
        self._message = message
        self._option = option
        self._private = private
        self._port: Any = None  # An IListeningPort.
        # That of an endpoint with TLS.
        self._certificate: LiveCertificate | None = None
        path = unix_path(self._plain)
        self._socket_file = None if path is None else SocketFile(path)

    def privilegedStartService(self) -> None:
        """Listen, before twistd drops its privileges. Ends the process with one line on failure."""
        failures: list[Failure] = []
        try:
            endpoint = serverFromString(self._reactor, self._describe())
            self._certificate = prepare_tls(endpoint)
            if self._socket_file is not None:
                self._socket_file.claim()
        except (OSError, SocketInUse) as error:
            raise self._exit(getattr(error, "strerror", None) or str(error)) from None
        except LookupError:
            raise self._exit(
                "systemd did not pass this socket; check index= or name= against the socket unit "
                "(LISTEN_FDS, LISTEN_FDNAMES)"
            ) from None
        listening = endpoint.listen(self._site)
        listening.addCallback(self._listening).addErrback(failures.append)
        if failures:
            self._release(None)
            raise self._exit(failures[0].getErrorMessage() + self._advise(failures[0].value))

    def startService(self) -> None:
        """Listen now if the process never had privileges to drop."""
        super().startService()
        if self._port is None:
            self.privilegedStartService()

    def stopService(self) -> Deferred[Any] | None:
        """Stop listening. Open connections stay: see ``close``."""
        super().stopService()
        if self._port is None:
            return None
        port, self._port = self._port, None
        return maybeDeferred(port.stopListening).addBoth(self._release)

    def read_certificate(self) -> Callable[[], None]:
        """Read the files of the certificate again; return what puts it into use.

        Without TLS, there is nothing to do. Raises ValueError, with a line for the operator, if the
        files cannot be used.
        """
        if self._certificate is None:
            return lambda: None
        try:
            fresh = prepare_tls(serverFromString(self._reactor, self._describe()))
            assert fresh is not None  # The description is the same.
            # So that all that can fail does so now.
            _ = fresh.context
        except Exception as error:
            reason = explain(error) or str(error)
            raise ValueError(f"{self._option} {self._endpoint}: {reason}") from None
        return partial(self._renew, self._certificate, fresh)

    def hold(self) -> None:
        """Accept no connections until ``resume``: they wait in the kernel's queue."""
        if self._port is not None:
            self._port.pauseProducing()

    def resume(self) -> None:
        """Accept connections again."""
        if self._port is not None:
            self._port.resumeProducing()

    def close(self) -> Deferred[Any]:
        """Stop listening, and answer no further request on open connections.

        The Deferred fires when every request has been answered and every HTTP connection is
        closed. WebSockets are not waited for.
        """
        return gatherResults(
            [maybeDeferred(self.stopService), self._site.connections.drain()], consumeErrors=True
        )

    @property
    def browser_url(self) -> str | None:
        """The URL for a browser on this machine, while it listens.

        None for a Unix socket, and for a port that only a proxy can use.
        """
        if self._port is None or self._plain != self._endpoint:
            return None
        url = _urls(self._plain, self._port.getHost())[1]
        return url if url.startswith("http") else None

    def close_unused(self) -> None:
        """Close the connections on which no request is in progress."""
        self._site.connections.close_silent()

    def _renew(self, certificate: LiveCertificate, fresh: LiveCertificate) -> None:
        """Give new connections another certificate, if it is another one."""
        if certificate.replace(fresh):
            _log.info(
                "{option} {endpoint}: new connections get another certificate, which expires on "
                "{expires}",
                event="certificate_replaced",
                option=self._option,
                endpoint=self._endpoint,
                expires=fresh.expires.isoformat(),
            )

    def _describe(self) -> str:
        """Return the description of the endpoint for Twisted, with our defaults."""
        description = _with_backlog(self._plain)
        path = unix_path(description)
        if path is None:
            return description
        if self._private and ":mode=" not in description:
            description = f"{description}:mode={_private_mode(path)}"
        return f"{_LOCK.sub('', description)}:lockfile=0"

    def _release(self, result: Any) -> Any:
        """Let other daemons have the path of a Unix socket."""
        if self._socket_file is not None:
            self._socket_file.release()
        return result

    def _exit(self, reason: str) -> SystemExit:
        return SystemExit(f"pushd: {self._option} {self._endpoint}: {reason}")

    def _advise(self, error: Any) -> str:
        """Return what an operator can do about an error, to be appended to its text."""
        if getattr(getattr(error, "socketError", error), "errno", None) != EADDRINUSE:
            return ""
        option = self._option
        none = f", or {option} none" if self._private else ""
        return f" Stop what listens there, or choose another endpoint with {option}{none}."

    def _expect_header(self, port: Any) -> None:
        """Let each connection begin with a header of the PROXY protocol.

        It is outside of TLS, where proxies send it.
        """
        wrapped = getattr(port, "factory", self._site)
        port.factory = ProxyProtocolFactory(wrapped, self._site, self._reactor)

    def _listening(self, port: IListeningPort) -> None:
        self._port = port
        set_socket_options(port)
        if self._plain != self._endpoint:
            self._expect_header(port)
        accept_directly(port)
        if self._certificate is not None:
            # So that all that can fail does so now.
            _ = self._certificate.context
            encrypt_directly(port, self._certificate)
        pass_half_closes(getattr(port, "factory", None))
        self._log_address(port.getHost())

    def _log_address(self, address: IAddress) -> None:
        real, local = _urls(self._plain, address)
        message = self._message
        if local != real:
            message = message.replace("{url}", "{real} (on this machine: {url})")
        _log.info(message, event="listening", url=local, real=real)
        host = getattr(address, "host", None)
        if self._private and host is not None and not is_loopback(host):
            _log.warn(
                "{option} {endpoint}: {reason}",
                event="control_exposed",
                option=self._option,
                endpoint=self._endpoint,
                reason=EXPOSED,
            )


def set_socket_options(port: Any) -> None:
    """Set the options of a port's socket that its connections inherit.

    TCP_NODELAY: short messages are sent at once. Keepalive and TCP_USER_TIMEOUT: the kernel drops
    a connection whose peer has vanished. Pings do that for a WebSocket, but not while reading from
    it is paused, and nothing else does it for a request whose answer takes long.
    """
    handle = getattr(port, "socket", None)
    if handle is None or handle.family not in (socket.AF_INET, socket.AF_INET6):
        return
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Linux has both of these; other kernels keep their own times.
    times = {"TCP_KEEPIDLE": _KEEPALIVE_IDLE, "TCP_USER_TIMEOUT": _USER_TIMEOUT * 1000}
    for name, value in times.items():
        option = getattr(socket, name, None)
        if option is not None:  # pragma: no branch
            handle.setsockopt(socket.IPPROTO_TCP, option, value)


def _with_backlog(endpoint: str) -> str:
    """Add a backlog for many simultaneous clients; with Twisted's 50, most would have to retry."""
    queues = endpoint.startswith(("tcp:", "tcp6:", "ssl:", "unix:", "reuseport:"))
    return f"{endpoint}:backlog={_BACKLOG}" if queues and ":backlog=" not in endpoint else endpoint


def _private_mode(path: str) -> int:
    """Return the permissions of a private Unix socket; with Twisted's, every user could connect.

    A folder with the setgid bit gives its group to the socket, and that group may connect, too.
    """
    try:
        has_group = os.stat(os.path.dirname(path) or ".").st_mode & stat.S_ISGID
    except OSError:  # Then listening fails, and says why.
        has_group = 0
    return 660 if has_group else 600


def _urls(endpoint: str, address: IAddress) -> tuple[str, str]:
    """Return the URL of the address listened on, and one that a browser on this machine can open.

    They differ if that is the address of all interfaces.
    """
    real = peer_name(address)
    if real == "unix":
        return endpoint, endpoint
    scheme = "https" if endpoint.startswith(("ssl:", "tls:")) else "http"
    local = re.sub(r"^0\.0\.0\.0:", "127.0.0.1:", real).replace("[::]:", "[::1]:")
    return f"{scheme}://{real}/", f"{scheme}://{local}/"
