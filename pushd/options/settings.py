"""Everything that an operator decides: each option is declared here, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pushd.access.limits import Limits
from pushd.access.origins import Origins
from pushd.access.proxies import Proxies
from pushd.access.tokens import TokenKeys, read_token_keys
from pushd.api.playground import Playground
from pushd.gateways.environ import Application
from pushd.options.option import Option, Values, combined_setting, object_setting, setting
from pushd.options.parsers import (
    LEVELS,
    number,
    one_of,
    parse_control,
    parse_folder,
    parse_listen,
    parse_switch,
    parse_views,
    parse_wsgi,
)
from pushd.topics.history import Retention
from pushd.topics.redis.address import RedisAddress, parse_broker
from pushd.views.demo import ticker
from pushd.views.routes import Routes

# Given as values, too: parsing them would make Twisted look for plugins.
_LISTEN = ("tcp:8080:interface=127.0.0.1",)
_CONTROL = ("tcp:8081:interface=127.0.0.1",)


def demo_views() -> Routes:
    """Return the views of the demo."""
    return Routes({"/test/": ticker, **Playground().views})


def _make_routes(values: Values) -> Routes:
    """Return the operator's views, and behind them the demo's where their paths are free."""
    views: Routes | None = values["views"]
    # The site of an application has no demo in it.
    if not values["demo"] or values["wsgi"] is not None:
        return views or Routes({})
    if views is None:
        return demo_views()
    kept = [(path, view) for path, view in demo_views().items() if views.match(path) is None]
    return Routes([*views.items(), *kept], accept_all=views.accept_all)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that an operator decides, and that was found to be valid.

    Each field is made of one option or several, which are declared here and nowhere else.
    """

    listen: tuple[str, ...] = setting(
        "listen",
        parse_listen,
        "Listen here for everybody; may be given more than once.",
        default=_LISTEN,
        value=_LISTEN,
    )
    control: tuple[str, ...] = setting(
        "control",
        parse_control,
        "Listen here for operators; may be given more than once; none: nowhere.",
        default=_CONTROL,
        value=_CONTROL,
    )
    web: Path | None = setting(
        "web", parse_folder, "A folder whose files are served before the shipped client's."
    )
    routes: Routes = combined_setting(
        _make_routes,
        demo_views,
        Option("views", parse_views, "MODULE:NAME of a map from path to view (default: the demo)."),
        Option(
            "demo",
            parse_switch,
            "Whether the demo's views, /test/ and /play/, are there as well: on or off.",
            default="on",
        ),
    )
    threads: int = setting(
        "threads", number(1, 100_000), "How many views may block at once.", default="64"
    )
    wsgi: Application | None = setting(
        "wsgi",
        parse_wsgi,
        "MODULE:APPLICATION to answer at every path that pushd itself does not have.",
    )
    wsgi_threads: int = setting(
        "wsgi-threads",
        number(1, 10_000),
        "How many of its pages may be made at once.",
        default="16",
    )
    origins: Origins = setting(
        "origin",
        Origins,
        "An origin whose pages may open WebSockets beside our own, such as https://example.com or "
        "https://*.example.com; may be given more than once; *: all.",
        default=(),
        live=True,
    )
    token_keys: TokenKeys = setting(
        "token-key",
        read_token_keys,
        "A file with a key for tokens, which are needed to subscribe and to publish at the public "
        "port then: a secret, a public key in PEM or a JSON Web Key Set; may be given more than "
        "once.",
        default=(),
        live=True,
    )
    proxies: Proxies = setting(
        "trusted-proxy",
        Proxies,
        "A network whose word on who asks counts, such as 10.0.0.0/8; may be given more than once.",
        default=(),
    )
    limits: Limits = object_setting(
        Limits,
        Option(
            "max-connections",
            number(1, 10_000_000),
            "How many connections there may be; beyond, 503.",
            live=True,
        ),
        Option(
            "max-per-address",
            number(1, 10_000_000),
            "How many of them from one address, this machine and trusted proxies excepted.",
            live=True,
        ),
        Option(
            "max-message",
            number(1, 1 << 30),
            "How many bytes a message or a request's body may have; beyond, 1009 or 413.",
            live=True,
        ),
        Option(
            "max-buffered",
            number(1, 1 << 30),
            "How many bytes may wait for one who does not read them; beyond, 1013.",
            live=True,
        ),
        Option(
            "max-rate",
            number(1, 10_000_000),
            "How many messages a second one may send, ten times as many at once; beyond, 1008.",
            live=True,
        ),
        Option(
            "drain",
            number(0, 3600),
            "How many seconds a stop takes to close everybody, one after the other; 0: at once.",
            live=True,
        ),
        Option(
            "compression",
            parse_switch,
            "Whether permessage-deflate is spoken: on or off.",
            live=True,
        ),
    )
    broker: RedisAddress | None = setting(
        "broker",
        parse_broker,
        "What keeps the topics: memory, for one process, or a Redis for many: "
        "redis://[user:password@]host:port/db, rediss://, unix:///path, "
        "redis+sentinel://host,host/service/db.",
        default="memory",
    )
    retention: Retention = object_setting(
        Retention,
        Option(
            "history-size",
            number(0, 1_000_000),
            "How many publications of each topic are kept for those who come back.",
        ),
        Option("history-ttl", number(1, 604_800), "How many seconds they are kept."),
        Option(
            "history-bytes",
            number(0, 1 << 40),
            "How many bytes are kept of all topics together; the oldest go first.",
        ),
        prefix="history-",
    )
    fast_paths: bool = setting(
        "fast-paths",
        parse_switch,
        "Bypass the public interfaces of Twisted and Autobahn where that is faster: on or off.",
        default="on",
    )
    log_format: str = setting(
        "log-format",
        one_of("text", "json"),
        "How the log is written: text for people, json for machines, one object a line.",
        default="text",
    )
    log_level: str = setting(
        "log-level",
        one_of(*LEVELS),
        "What is logged: debug, info, warn or error, and all that is worse.",
        default="info",
        live=True,
    )


#: Puts some of the settings in force, of those that can change in a daemon that runs. It is called
#: at every reload, as what a setting names, such as a file of keys, may be new where it is not.
Applier = Callable[[Settings], object]
