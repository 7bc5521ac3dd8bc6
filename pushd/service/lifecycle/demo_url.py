"""The last line of the log at the start: the URL at which the demo runs."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from twisted.application.service import Service
from twisted.logger import Logger

from pushd.options.settings import Settings
from pushd.service.listening import PortService
from pushd.views.demo import ticker

_log = Logger(namespace="pushd.service")


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
            url = port.browser_url
            if url is not None and self._settings.hosts.allows(urlsplit(url).netloc):
                url += "test/"
                _log.info("open {url} in a browser to watch the demo", event="demo", url=url)
                return
