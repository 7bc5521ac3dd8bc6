"""Everything that an operator decides, as one frozen value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pushd.access.limits import Limits
from pushd.access.origins import Origins
from pushd.access.proxies import Proxies
from pushd.access.tokens import TokenKeys
from pushd.api.playground import Playground
from pushd.gateways.environ import Application
from pushd.topics.history import Retention
from pushd.topics.redis.address import RedisAddress
from pushd.views.demo import ticker
from pushd.views.routes import Routes


def demo_views() -> Routes:
    """The views that are served unless one has others at their addresses."""
    return Routes({"/test/": ticker, **Playground().views})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that an operator decides, and that was found to be in order."""

    #: The public endpoints, as Twisted endpoint strings.
    listen: tuple[str, ...] = ("tcp:8080:interface=127.0.0.1",)
    #: The private endpoints; none where that door stays shut.
    control: tuple[str, ...] = ("tcp:8081:interface=127.0.0.1",)
    #: A folder of files to serve before those of the shipped client.
    web: Path | None = None
    #: The views, with the demo.
    routes: Routes = field(default_factory=demo_views)
    #: How many views may block in threads at once.
    threads: int = 64
    #: An application that answers at every path that pushd itself does not have.
    wsgi: Application | None = None
    #: How many of its pages may be made at once.
    wsgi_threads: int = 16
    #: The limits, which a reload can change.
    limits: Limits = field(default_factory=Limits)
    #: How much of the past of topics is kept.
    retention: Retention = field(default_factory=Retention)
    #: The origins whose pages may open WebSockets, beside our own.
    origins: Origins = field(default_factory=Origins)
    #: The keys that tokens are checked with; without any nobody is asked for one.
    token_keys: TokenKeys = field(default_factory=TokenKeys)
    #: The proxies whose word on who asks counts.
    proxies: Proxies = field(default_factory=Proxies)
    #: The Redis behind the topics; None where they are kept in this process.
    broker: RedisAddress | None = None
    #: Whether code that relies on private names of Twisted or Autobahn may be used.
    fast_paths: bool = True
    #: How the log is written: ``text`` or ``json``.
    log_format: str = "text"
    #: From which level on: one of ``pushd.logs.LEVELS``.
    log_level: str = "info"


#: Puts some of the settings in force, of those that can change in a daemon that runs. It is called
#: at every reload, as what a setting names, such as a file of keys, may be new where it is not.
Applier = Callable[[Settings], object]
