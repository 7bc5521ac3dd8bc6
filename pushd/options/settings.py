"""The settings of a daemon, and the options that they are made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from pushd.access.limits import Limits
from pushd.access.origins import Hosts, Origins
from pushd.access.proxies import Proxies
from pushd.access.tokens import TokenKeys, read_secrets, read_token_keys
from pushd.api.playground import Playground
from pushd.gateways.application import Application
from pushd.gateways.asgi.scope import Application as AsgiApplication
from pushd.options.event_loop import ASYNCIO, TWISTED
from pushd.options.option import (
    Option,
    Values,
    combined_setting,
    declared_options,
    object_setting,
    setting,
)
from pushd.options.parsers import (
    LEVELS,
    number,
    one_of,
    parse_asgi,
    parse_authorize,
    parse_centrifuge_path,
    parse_control,
    parse_csp,
    parse_folder,
    parse_listen,
    parse_personal,
    parse_root_path,
    parse_rpc,
    parse_secret_file,
    parse_state,
    parse_stragglers,
    parse_switch,
    parse_views,
    parse_wsgi,
)
from pushd.options.sizes import AUTO, ShareOfMemory, Size
from pushd.protocols.http.guard import PAGE_OFF, PAGE_ON, PAGE_VIEW
from pushd.protocols.http.policy import DEFAULT_CSP
from pushd.topics.history import Retention
from pushd.topics.redis.address import RedisAddress, parse_broker
from pushd.topics.rules import Rules
from pushd.topics.scheduled import SCHEDULE_GRACE
from pushd.topics.state.database import SYNCS
from pushd.views.authorizer import AuthorizeFunction
from pushd.views.demo import ticker
from pushd.views.routes import Routes
from pushd.views.runner import GRACE

# The groups in which options are listed, in this order.
PORTS = "Ports"
VIEWS = "Views and applications"
ACCESS = "Access"
LIMITS = "Limits"
TOPICS = "Topics"
CENTRIFUGE = "Centrifuge clients"
SHUTDOWN = "Shutdown"
PERFORMANCE = "Performance"
LOG = "Log"
GROUPS = (PORTS, VIEWS, ACCESS, LIMITS, TOPICS, CENTRIFUGE, SHUTDOWN, PERFORMANCE, LOG)

# Not parsed unless they are given: parsing makes Twisted look for plugins.
_LISTEN = ("tcp:8080:interface=127.0.0.1",)
_CONTROL = ("tcp:8081:interface=127.0.0.1",)


def demo_views() -> Routes:
    """Return the views of the demo."""
    return Routes({"/test/": ticker, **Playground().views})


def _make_routes(values: Values) -> Routes:
    """Return the operator's views, and those of the demo at paths that are still free."""
    views: Routes | None = values["views"]
    # The site of a WSGI application has no demo.
    if not values["demo"] or values["wsgi"] is not None or values["asgi"] is not None:
        return views or Routes({})
    if views is None:
        return demo_views()
    kept = [(path, view) for path, view in demo_views().items() if views.match(path) is None]
    return Routes([*views.items(), *kept], accept_all=views.accept_all)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that an operator decides, after validation.

    Each field is made from one option or several. This is the only place that lists them; where the
    daemon has a default of its own, such as that of ``Limits``, the option takes it from there.
    """

    listen: tuple[str, ...] = setting(
        PORTS,
        "listen",
        "ENDPOINT",
        parse_listen,
        "Public port, for browsers and other clients: a Twisted endpoint such as tcp:8080 or "
        "unix:/run/pushd.sock. May be given more than once.",
        default=_LISTEN,
        value=_LISTEN,
    )
    control: tuple[str, ...] = setting(
        PORTS,
        "control",
        "ENDPOINT",
        parse_control,
        "Control port, for publishers and operators: a Twisted endpoint, or none for no control "
        "port. It has no password: everything that can reach it is trusted. May be given more "
        "than once.",
        default=_CONTROL,
        value=_CONTROL,
    )
    control_page: str = setting(
        PORTS,
        "control-page",
        "on|view|off",
        one_of(PAGE_ON, PAGE_VIEW, PAGE_OFF),
        "Operator's page at the control port, for browsers. With view it has no buttons, and the "
        "port refuses whatever a browser sends to change something; with off there is no page.",
        default=PAGE_ON,
    )
    routes: Routes = combined_setting(
        _make_routes,
        demo_views,
        Option(
            VIEWS,
            "views",
            "MODULE:NAME",
            parse_views,
            "Your views: a Python module, and the name in it of a map from URL path to view.",
        ),
        Option(
            VIEWS,
            "demo",
            "on|off",
            parse_switch,
            "Serve the demo, too: a start page, /test/, /topics.html and /play/. With --wsgi there "
            "is no demo.",
            default="on",
        ),
    )
    demo: bool = combined_setting(itemgetter("demo"), lambda: True)
    threads: int = setting(
        VIEWS,
        "threads",
        "N",
        number(1, 100_000),
        "Maximum number of blocking views, each of which runs in a thread; one client address may "
        "have half of them. Further requests for such views get 503.",
        default="64",
    )
    max_stragglers: int | None = setting(
        VIEWS,
        "max-stragglers",
        "N",
        parse_stragglers,
        "Maximum number of blocking views that may go on in their threads after their WebSocket "
        "is closed and --view-grace is over, beside those of --threads; by default as many as "
        "--threads.",
        value=None,
    )
    view_grace: int = setting(
        VIEWS,
        "view-grace",
        "SECONDS",
        number(0, 60),
        "Time that a view has after the end of its WebSocket before it is ended. Each message "
        "that it still reads renews it, up to a minute in all.",
        default=f"{GRACE}",
    )
    loop: str = setting(
        VIEWS,
        "loop",
        "twisted|asyncio",
        one_of(TWISTED, ASYNCIO),
        "Event loop: with asyncio, async def views can await what is asyncio's, such as libraries "
        "for databases and HTTP, on uvloop if that is installed; twisted is faster.",
        default=TWISTED,
    )
    wsgi: Application | None = setting(
        VIEWS,
        "wsgi",
        "MODULE:NAME",
        parse_wsgi,
        "WSGI application for all paths that pushd does not serve itself: a Python module, and "
        "the name of the application in it.",
    )
    wsgi_threads: int = setting(
        VIEWS,
        "wsgi-threads",
        "N",
        number(1, 10_000),
        "Maximum number of requests that the WSGI application answers at the same time. Further "
        "requests wait.",
        default="16",
    )
    asgi: AsgiApplication | None = setting(
        VIEWS,
        "asgi",
        "MODULE:NAME",
        parse_asgi,
        "ASGI application for all paths that pushd does not serve itself, HTTP and WebSockets: a "
        "Python module, and the name of the application in it, or with () at the end of a "
        "function that makes it. Implies --loop asyncio.",
    )
    root_path: str = setting(
        VIEWS,
        "root-path",
        "PATH",
        parse_root_path,
        "Path at which a proxy serves the ASGI application, if the proxy removes it from requests: "
        "the application puts it in front of its own URLs.",
        default="",
    )
    web: Path | None = setting(
        VIEWS,
        "web",
        "DIRECTORY",
        parse_folder,
        "Directory of static files to serve. They take precedence over pushd's own pages and "
        "scripts.",
    )
    origins: Origins = setting(
        ACCESS,
        "origin",
        "ORIGIN",
        Origins,
        "Origin other than pushd's own whose pages may open WebSockets and use topics, such as "
        "https://example.com or https://*.example.com, or of an app, such as "
        "capacitor://localhost, file:// or null; * allows every origin. May be given more than "
        "once.",
        default=(),
        live=True,
    )
    hosts: Hosts = setting(
        ACCESS,
        "host",
        "NAME",
        Hosts,
        "Name under which the public port is served, such as example.com, *.example.com or an "
        "address: requests for other names get 421. By default all names are served. May be given "
        "more than once.",
        default=(),
        live=True,
    )
    control_hosts: Hosts = setting(
        ACCESS,
        "control-host",
        "NAME",
        Hosts,
        "Name under which the control port is served besides localhost and its own address, such "
        "as pushd or *.example.com; others get 403, except for health checks. May be given more "
        "than once.",
        default=(),
        live=True,
    )
    token_keys: TokenKeys = combined_setting(
        lambda values: values["token-key"] | values["centrifuge-secret"],
        TokenKeys,
        Option(
            ACCESS,
            "token-key",
            "FILE",
            read_token_keys,
            "Key that tokens are verified with: a file with a secret, a PEM public key or a JSON "
            "Web Key Set. If a key is given, clients need a token to subscribe, and to publish on "
            "the public port. May be given more than once.",
            default=(),
            live=True,
        ),
        Option(
            CENTRIFUGE,
            "centrifuge-secret",
            "FILE",
            read_secrets,
            "Secret that tokens are verified with, beside those of --token-key. It may be shorter "
            "than these, as those of Centrifugo are in tests: then it can be guessed. May be given "
            "more than once.",
            default=(),
            live=True,
        ),
    )
    authorize: AuthorizeFunction | None = setting(
        ACCESS,
        "authorize",
        "MODULE:FUNCTION",
        parse_authorize,
        "Your authorizer: a Python module, and the function in it that decides, for each request, "
        "whether a client may subscribe or publish to a topic. A Django site names it in its "
        "setting PUSHD_AUTHORIZE.",
    )
    proxies: Proxies = setting(
        ACCESS,
        "trusted-proxy",
        "CIDR",
        Proxies,
        "Trusted reverse proxy (CIDR), such as 10.0.0.0/8: its Forwarded or X-Forwarded-For "
        "header is believed. May be given more than once.",
        default=(),
    )
    csp: str = setting(
        ACCESS,
        "csp",
        "POLICY",
        parse_csp,
        "Content-Security-Policy of all pages that do not set their own, or none for no such "
        "header. Pages of a WSGI or ASGI application never get it.",
        default=DEFAULT_CSP,
        live=True,
    )
    # The defaults are in ``access/limits.py``.
    limits: Limits = object_setting(
        Limits,
        Option(
            LIMITS,
            "max-connections",
            "N",
            number(1, 10_000_000),
            "Maximum connections to the public port. Further connections get 503.",
            live=True,
        ),
        Option(
            LIMITS,
            "max-per-address",
            "N",
            number(1, 10_000_000),
            "Maximum connections per client address (loopback and trusted proxies are exempt). "
            "Further connections get 503.",
            live=True,
        ),
        Option(
            LIMITS,
            "max-rate-per-address",
            "N",
            number(1, 10_000_000),
            "Maximum connections per second that one client address may open, resume or fail, with "
            "bursts of ten times as many (loopback and trusted proxies are exempt). Further ones "
            "wait, for 10 seconds at most.",
            live=True,
        ),
        Option(
            LIMITS,
            "max-message",
            "SIZE",
            Size(1, 1 << 30),
            "Maximum size of a WebSocket message and of a publication. Larger ones are rejected "
            "with 1009 or 413.",
            live=True,
        ),
        Option(
            LIMITS,
            "max-body",
            "SIZE",
            Size(1, 1 << 40),
            "Maximum size of the body of a request to a view or an application, such as an upload. "
            "Larger ones are rejected with 413.",
            live=True,
        ),
        Option(
            LIMITS,
            "max-buffered",
            "SIZE",
            Size(1, 1 << 30),
            "Maximum amount of unsent data per client. A client that reads too slowly is "
            "disconnected with 1013.",
            live=True,
        ),
        Option(
            LIMITS,
            "max-present",
            "N",
            number(0, 100_000),
            "Maximum subjects that the presence of a topic lists, and of which its subscribers are "
            "told when they join and leave. More are only counted.",
            live=True,
        ),
        Option(
            LIMITS,
            "max-topics",
            "N",
            number(1, 100_000),
            "Maximum topics per connection to /topics. A request for more gets 400, and a message "
            "that subscribes to one more an error.",
            live=True,
        ),
        Option(
            LIMITS,
            "max-memory",
            "SIZE",
            ShareOfMemory(1 << 20, 1 << 44),
            "Maximum memory for everything that is buffered, all clients together: messages, "
            "requests, unsent data and history. Beyond it the connections that hold most are "
            "closed with 1013 or 503. auto is half of the memory of the machine, or of the "
            "container.",
            default=AUTO,
            live=True,
        ),
        Option(
            LIMITS,
            "max-rate",
            "N",
            number(1, 10_000_000),
            "Maximum messages per second that one WebSocket may send, with bursts of ten times as "
            "many. Faster ones are closed with 1008.",
            live=True,
        ),
        Option(
            LIMITS,
            "keep-alive",
            "SECONDS",
            number(1, 3600),
            "Time that a connection may be idle between two requests. It must be longer than a "
            "proxy keeps idle connections to pushd, which is often 60 seconds.",
            live=True,
        ),
        Option(
            LIMITS,
            "request-timeout",
            "SECONDS",
            number(1, 3600),
            "Time for the head of a request. Later ones are rejected with 408.",
            live=True,
        ),
        Option(
            LIMITS,
            "body-timeout",
            "SECONDS",
            number(1, 3600),
            "Time over which the body of a request must bring 500 bytes a second on average, or "
            "its end. Slower ones are rejected with 408.",
            live=True,
        ),
        Option(
            SHUTDOWN,
            "drain",
            "SECONDS",
            number(0, 3600),
            "When the daemon stops, close connections one by one over this time. 0 closes all of "
            "them at once.",
            live=True,
        ),
        Option(
            PERFORMANCE,
            "compression",
            "on|off",
            parse_switch,
            "Compress WebSocket messages for clients that support it (permessage-deflate).",
            live=True,
        ),
    )
    broker: RedisAddress | None = setting(
        TOPICS,
        "broker",
        "memory|URL",
        parse_broker,
        "Topic broker: memory for a single process, or a Redis URL to share topics between "
        "processes: redis:// or rediss://[user:password@]host:port/db, unix:///path, or "
        "redis+sentinel://host,host/service/db. With ?prefix=NAME (&prefix=NAME after ?db=) "
        "several deployments can share one Redis.",
        default="memory",
    )
    # The defaults are in ``topics/history.py``.
    retention: Retention = object_setting(
        Retention,
        Option(
            TOPICS,
            "history-size",
            "N",
            number(0, 1_000_000),
            "Maximum number of publications kept per topic, for subscribers that reconnect.",
        ),
        Option(
            TOPICS,
            "history-ttl",
            "SECONDS",
            number(1, 604_800),
            "Time for which a publication is kept for subscribers that reconnect.",
        ),
        Option(
            TOPICS,
            "history-bytes",
            "SIZE",
            Size(0, 1 << 40),
            "Maximum memory for the publications kept, all topics together. The oldest are "
            "dropped first.",
        ),
        prefix="history-",
    )
    schedule_grace: int = setting(
        TOPICS,
        "schedule-grace",
        "SECONDS",
        number(0, 86_400),
        "How late a scheduled publication may be made, if nothing could be published when it was "
        "due, such as during a restart. What is older is dropped.",
        default=f"{SCHEDULE_GRACE}",
    )
    state: Path | None = setting(
        TOPICS,
        "state",
        "DIRECTORY",
        parse_state,
        "Directory in which publications, their ids, idempotency keys and schedules outlive the "
        "process. Without it, and without a Redis, a restart empties all topics. Only one process "
        "can use it.",
    )
    state_sync: str = setting(
        TOPICS,
        "state-sync",
        "always|second|none",
        one_of(*SYNCS),
        "When a publication in the directory of --state is safe from a loss of power: always "
        "before it is answered and delivered; after a second at most; or when the system writes "
        "it.",
        default="second",
    )
    #: Rules for topics. They have no option: they are tables of the configuration file.
    rules: Rules = combined_setting(lambda values: Rules(values.get("rules", ())), Rules)
    centrifuge: bool = setting(
        CENTRIFUGE,
        "centrifuge",
        "on|off",
        parse_switch,
        "Serve clients of Centrifugo: its client protocol at --centrifuge-path of the public port, "
        "and its HTTP API at /api of the control port.",
        default="off",
    )
    centrifuge_path: str = setting(
        CENTRIFUGE,
        "centrifuge-path",
        "PATH",
        parse_centrifuge_path,
        "Path below which Centrifuge clients connect, such as /connection for "
        "/connection/websocket; commands of those over HTTP come to /emulation beside it.",
        default="/connection",
    )
    centrifuge_personal: str = setting(
        CENTRIFUGE,
        "centrifuge-personal",
        "TOPIC",
        parse_personal,
        "Topic of each user, such as users/*, where * stands for the user: Centrifuge clients are "
        "subscribed to that of their user, and know it as the channel #USER.",
        default="",
    )
    rpc: Callable[..., Any] | None = setting(
        CENTRIFUGE,
        "rpc",
        "MODULE:FUNCTION",
        parse_rpc,
        "Your remote procedures: a Python module, and the function in it that is called with a "
        "request, a method and its data when a Centrifuge client calls one.",
    )
    api_key: bytes | None = setting(
        CENTRIFUGE,
        "api-key",
        "FILE",
        parse_secret_file,
        "File with the key that requests to Centrifugo's HTTP API must have as X-API-Key. Without "
        "it, everything that can reach the control port may use it.",
        value=None,
    )
    fast_paths: bool = setting(
        PERFORMANCE,
        "fast-paths",
        "on|off",
        parse_switch,
        "Bypass the public interfaces of Twisted and Autobahn where that is faster. Turn it off "
        "to find out whether a problem comes from that.",
        default="on",
    )
    log_format: str = setting(
        LOG,
        "log-format",
        "text|json",
        one_of("text", "json"),
        "Format of the log: text for people, json for programs (one object per line).",
        default="text",
    )
    log_level: str = setting(
        LOG,
        "log-level",
        "LEVEL",
        one_of(*LEVELS),
        "Least severe level that is logged: debug, info, warn or error.",
        default="info",
        live=True,
    )

    @property
    def straggler_limit(self) -> int:
        """The maximum number of stragglers, given or not."""
        return self.threads if self.max_stragglers is None else self.max_stragglers


#: Every option, in the order in which they are listed.
OPTIONS = tuple(sorted(declared_options(Settings), key=lambda option: GROUPS.index(option.group)))

#: Applies to a running daemon the settings that a reload can change. It is called at every reload:
#: a file that a setting names, such as a key, may have changed although the setting has not.
Applier = Callable[[Settings], object]
