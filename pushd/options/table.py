"""The table of options: all that an operator decides, and what does not go together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pushd.access.limits import Limits
from pushd.access.origins import Origins
from pushd.access.proxies import Proxies
from pushd.access.tokens import read_token_keys
from pushd.options.option import Option
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
from pushd.options.settings import Settings
from pushd.options.sources import Clash
from pushd.topics.history import Retention
from pushd.topics.redis.address import parse_broker

# An endpoint that the system finds a free port for, each time another.
_ANY_PORT = re.compile(r"(tcp6?|ssl):0(:|$)")

#: Every option there is, in the order in which people should read of them.
OPTIONS = (
    Option(
        name="listen",
        help="Listen here for everybody; may be given more than once.",
        parse=parse_listen,
        default=Settings.listen,
    ),
    Option(
        name="control",
        help="Listen here for operators; may be given more than once; none: nowhere.",
        parse=parse_control,
        default=Settings.control,
    ),
    Option(
        name="web",
        help="A folder whose files are served before the shipped client's.",
        parse=parse_folder,
    ),
    Option(
        name="views",
        help="MODULE:NAME of a map from path to view (default: the demo).",
        parse=parse_views,
    ),
    Option(
        name="demo",
        help="Whether the demo's views, /test/ and /play/, are there as well: on or off.",
        parse=parse_switch,
        default="on",
    ),
    Option(
        name="threads",
        help="How many views may block at once.",
        parse=number(1, 100_000),
        default=str(Settings.threads),
    ),
    Option(
        name="wsgi",
        help="MODULE:APPLICATION to answer at every path that pushd itself does not have.",
        parse=parse_wsgi,
    ),
    Option(
        name="wsgi-threads",
        help="How many of its pages may be made at once.",
        parse=number(1, 10_000),
        default=str(Settings.wsgi_threads),
    ),
    Option(
        name="origin",
        help="An origin whose pages may open WebSockets beside our own, such as "
        "https://example.com or https://*.example.com; may be given more than once; *: all.",
        parse=Origins,
        default=(),
        live=True,
    ),
    Option(
        name="token-key",
        help="A file with a key for tokens, which are needed to subscribe and to publish at the "
        "public port then: a secret, a public key in PEM or a JSON Web Key Set; may be given more "
        "than once.",
        parse=read_token_keys,
        default=(),
        live=True,
    ),
    Option(
        name="trusted-proxy",
        help="A network whose word on who asks counts, such as 10.0.0.0/8; may be given more "
        "than once.",
        parse=Proxies,
        default=(),
    ),
    Option(
        name="max-connections",
        help="How many connections there may be; beyond, 503.",
        parse=number(1, 10_000_000),
        default=str(Limits().max_connections),
        live=True,
    ),
    Option(
        name="max-per-address",
        help="How many of them from one address, this machine and trusted proxies excepted.",
        parse=number(1, 10_000_000),
        default=str(Limits().max_per_address),
        live=True,
    ),
    Option(
        name="max-message",
        help="How many bytes a message or a request's body may have; beyond, 1009 or 413.",
        parse=number(1, 1 << 30),
        default=str(Limits().max_message),
        live=True,
    ),
    Option(
        name="max-buffered",
        help="How many bytes may wait for one who does not read them; beyond, 1013.",
        parse=number(1, 1 << 30),
        default=str(Limits().max_buffered),
        live=True,
    ),
    Option(
        name="max-rate",
        help="How many messages a second one may send, ten times as many at once; beyond, 1008.",
        parse=number(1, 10_000_000),
        default=str(Limits().max_rate),
        live=True,
    ),
    Option(
        name="broker",
        help="What keeps the topics: memory, for one process, or a Redis for many: "
        "redis://[user:password@]host:port/db, rediss://, unix:///path, "
        "redis+sentinel://host,host/service/db.",
        parse=parse_broker,
        default="memory",
    ),
    Option(
        name="history-size",
        help="How many publications of each topic are kept for those who come back.",
        parse=number(0, 1_000_000),
        default=str(Retention.size),
    ),
    Option(
        name="history-ttl",
        help="How many seconds they are kept.",
        parse=number(1, 604_800),
        default=str(Retention.ttl),
    ),
    Option(
        name="history-bytes",
        help="How many bytes are kept of all topics together; the oldest go first.",
        parse=number(0, 1 << 40),
        default=str(Retention.bytes),
    ),
    Option(
        name="drain",
        help="How many seconds a stop takes to close everybody, one after the other; 0: at once.",
        parse=number(0, 3600),
        default=str(Limits().drain),
        live=True,
    ),
    Option(
        name="compression",
        help="Whether permessage-deflate is spoken: on or off.",
        parse=parse_switch,
        default="on",
        live=True,
    ),
    Option(
        name="fast-paths",
        help="Bypass the public interfaces of Twisted and Autobahn where that is faster: on or "
        "off.",
        parse=parse_switch,
        default="on",
    ),
    Option(
        name="log-format",
        help="How the log is written: text for people, json for machines, one object a line.",
        parse=one_of("text", "json"),
        default=Settings.log_format,
    ),
    Option(
        name="log-level",
        help="What is logged: debug, info, warn or error, and all that is worse.",
        parse=one_of(*LEVELS),
        default=Settings.log_level,
        live=True,
    ),
)


def _find_shared_doors(values: Mapping[str, Any]) -> Iterator[Clash]:
    """Find the endpoints that are named twice: who came second could not listen there."""
    for endpoint, count in Counter(values["listen"] + values["control"]).items():
        if count > 1 and not _ANY_PORT.match(endpoint):
            names = tuple(name for name in ("listen", "control") if endpoint in values[name])
            yield Clash(names, f"{endpoint} is named {count} times")


#: What can't be in force together: each takes the values of all options by name.
COMBINATIONS: tuple[Callable[[Mapping[str, Any]], Iterator[Clash]], ...] = (_find_shared_doors,)
