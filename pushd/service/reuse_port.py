"""The endpoint ``reuseport:PORT``: several processes listen on one TCP port (SO_REUSEPORT).

Every Twisted program that parses an endpoint imports this module, so it imports nothing of pushd.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.abstract import isIPv6Address
from twisted.internet.defer import Deferred, execute
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.plugin import IPlugin
from zope.interface import implementer


@implementer(IStreamServerEndpoint)
class ReusePortEndpoint:
    """A TCP port that several processes share; the kernel distributes connections among them.

    Every process must listen through this endpoint, and run as the same user.

    :param backlog: number of connections that may wait to be accepted.
    """

    def __init__(self, reactor: Any, port: int, interface: str, backlog: int) -> None:
        self._reactor = reactor
        self._port = port
        self._interface = interface
        self._backlog = backlog

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Start to listen. The Deferred fails with CannotListenError."""
        return execute(self._listen, factory)

    def _listen(self, factory: IProtocolFactory) -> Any:
        family = socket.AF_INET6 if isIPv6Address(self._interface) else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listening.setblocking(False)
            try:
                listening.bind((self._interface, self._port))
                listening.listen(self._backlog)
            except OSError as error:
                raise CannotListenError(self._interface, self._port, error) from None
            # The reactor duplicates the descriptor.
            return self._reactor.adoptStreamPort(listening.fileno(), family, factory)


@implementer(IPlugin, IStreamServerEndpointStringParser)
class ReusePortParser:
    """Parses ``reuseport:PORT:interface=ADDRESS:backlog=N``, which has the arguments of ``tcp``."""

    prefix = "reuseport"

    def parseStreamServer(self, reactor: Any, *args: Any, **kwargs: Any) -> ReusePortEndpoint:
        return _parse(reactor, *args, **kwargs)


def _parse(reactor: Any, port: str, interface: str = "", backlog: str = "50") -> ReusePortEndpoint:
    number = int(port)
    if not 0 <= number < 65536:
        raise ValueError(f"port must be from 0 to 65535; got {number}")
    return ReusePortEndpoint(reactor, number, interface, int(backlog))
