"""The last line of the log at the start: the URL at which the demo runs."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.logger import Logger

from pushd.options.settings import Settings
from pushd.service.listening import PortService
from pushd.views.demo import ticker

_log = Logger(namespace="pushd.service")

# Addresses of all interfaces, and those by which a browser on this machine reaches them.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class DemoUrl(Service):
    """Logs the demo's URL once the ports are open, if the demo is served.

    :param public: the public ports.
    """

    def __init__(self, settings: Settings, public: Sequence[PortService]) -> None:
        self._settings = settings
        self._public = public

    def startService(self) -> None:
        """Log the URL on the first port that a browser on this machine can reach."""
        super().startService()
        match = self._settings.routes.match("/test/")
        if match is None or match.view is not ticker:
            return
        for port in self._public:
            place = _place(port)
            if place is not None and self._settings.hosts.allows(place):
                scheme = "https" if port.endpoint.startswith(("ssl:", "tls:")) else "http"
                url = f"{scheme}://{place}/test/"
                _log.info("open {url} in a browser to watch the demo", event="demo", url=url)
                return


def _place(port: PortService) -> str | None:
    """Return host and port of a port for browsers; None for a Unix socket, or behind a proxy."""
    address = port.address
    if not isinstance(address, IPv4Address | IPv6Address) or port.endpoint.startswith("haproxy:"):
        return None
    host = _LOOPBACK.get(address.host, address.host)
    return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"
