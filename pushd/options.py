"""The table of options, and the command line that it makes."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from twisted.internet.endpoints import serverFromString
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from pushd import __version__
from pushd.access import Origins
from pushd.config import (
    Clash,
    Given,
    Mistakes,
    Sources,
    describe_clash,
    parse,
    write_defaults,
    write_values,
)
from pushd.gateway import Application
from pushd.history import Retention
from pushd.logs import LEVELS
from pushd.option import Option
from pushd.protocol import Limits
from pushd.proxies import Proxies
from pushd.redis_url import parse_broker
from pushd.routes import Routes, load, load_routes
from pushd.settings import Settings, demo_views
from pushd.tokens import read_token_keys

# What stands for no endpoint at all.
_NONE = "none"

# An endpoint that the system finds a free port for, each time another.
_ANY_PORT = re.compile(r"(tcp6?|ssl):0(:|$)")

# An endpoint that systemd opens: what a check of the options can see of it, as the descriptors
# come to the daemon only.
_SYSTEMD = re.compile(r"systemd:domain=(INET6?|UNIX):(index=[0-9]{1,4}|name=[^:]+)")


class Options(UsageOptions):
    """The options of ``twistd pushd``; ``settings`` holds what they amount to.

    Mistakes end the process with exit code 1 and one line for each, which names the option, what
    was given, and what is allowed.

    :param environ: the environment; None for that of the process.
    """

    synopsis = "[options]"
    longdesc = "Serves views over WebSocket and HTTP, and the static client beside them."

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._given: dict[str, list[str]] = {}
        self._file = self._environ.get("PUSHD_CONFIG")
        self._check = False
        super().__init__()
        self.settings = Settings()
        #: What each option was given, and where.
        self.given: dict[str, Given] = {}

    def opt_config(self, path: str) -> None:
        """A TOML file with any of these options, by these names."""
        self._file = path

    def opt_check(self) -> None:
        """Print what would be in force, or every mistake, and exit."""
        self._check = True

    def opt_print_config(self) -> None:
        """Print a file for --config with all defaults, and exit."""
        print(write_defaults(OPTIONS), end="")  # noqa: T201 - the answer to the one who asked
        raise SystemExit(0)

    def opt_version(self) -> None:
        """Print the version and exit."""
        print(f"pushd {__version__}")  # noqa: T201 - the answer to the one who asked
        raise SystemExit(0)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse and validate the command line."""
        try:
            super().parseOptions(options)
        except UsageError as error:
            # twistd would print all the help above this line.
            raise SystemExit(f"pushd: {error}") from None

    def postOptions(self) -> None:
        """Make the settings of what was given."""
        try:
            self.settings, self.given = self.resolve()
        except Mistakes as mistakes:
            raise SystemExit("\n".join(f"pushd: {line}" for line in mistakes.lines)) from None
        if self._check:
            print(write_values(OPTIONS, self.given))  # noqa: T201 - the answer to the one who asked
            raise SystemExit(0)

    def resolve(self) -> tuple[Settings, dict[str, Given]]:
        """Give the settings, and what each option was given, the file being what it is now.

        Raises Mistakes.
        """
        given, mistakes = Sources(self._given, self._environ, self._file).collect(OPTIONS)
        values, wrong = parse(OPTIONS, given)
        mistakes += wrong
        if not wrong:
            clashes = [clash for find in COMBINATIONS for clash in find(values)]
            mistakes += [describe_clash(clash, given) for clash in clashes]
        if mistakes:
            # One line each, whatever an exception of others had to say.
            raise Mistakes([" ".join(mistake.split()) for mistake in mistakes])
        return self._make(values), given

    def _make(self, values: dict[str, Any]) -> Settings:
        return Settings(
            listen=values["listen"],
            control=values["control"],
            web=values["web"],
            # An application's site has no demo in it.
            routes=_routes(values["views"], demo=values["demo"] and values["wsgi"] is None),
            threads=values["threads"],
            wsgi=values["wsgi"],
            wsgi_threads=values["wsgi-threads"],
            limits=Limits(
                max_message=values["max-message"],
                max_buffered=values["max-buffered"],
                max_rate=values["max-rate"],
                compression=values["compression"],
            ),
            retention=Retention(
                size=values["history-size"],
                ttl=values["history-ttl"],
                bytes=values["history-bytes"],
            ),
            origins=values["origin"],
            token_keys=values["token-key"],
            proxies=values["trusted-proxy"],
            drain=values["drain"],
            broker=values["broker"],
            max_connections=values["max-connections"],
            max_per_address=values["max-per-address"],
            log_format=values["log-format"],
            log_level=values["log-level"],
        )


def _listen(given: tuple[str, ...]) -> tuple[str, ...]:
    if not given:
        raise ValueError("an endpoint like tcp:8080 or unix:/run/pushd.sock")
    for endpoint in given:
        if _SYSTEMD.fullmatch(endpoint):
            continue
        try:
            serverFromString(None, endpoint)
        except Exception as error:
            # Endpoint plugins raise what they like, for a mistake in any of their arguments.
            raise ValueError(
                f"no endpoint like tcp:8080 or unix:/run/pushd.sock ({error})"
            ) from None
    return given


def _control(given: tuple[str, ...]) -> tuple[str, ...]:
    if not given:
        return ()
    if _NONE not in given:
        return _listen(given)
    if len(given) > 1:
        raise ValueError(f"{_NONE} goes with no other --control")
    return ()


def _folder(given: str | None) -> Path | None:
    if given is None:
        return None
    folder = Path(given)
    # No name at all would be the current folder, which nobody means to show to the world.
    if not given or not folder.is_dir():
        raise ValueError("not a folder")
    return folder.resolve()


def _number(least: int, most: int) -> Callable[[str], int]:
    def parse(given: str) -> int:
        # int() would take " 1_0 " as well, and raises for thousands of digits.
        if not re.fullmatch(r"[0-9]{1,12}", given) or not least <= int(given) <= most:
            raise ValueError(f"a number from {least} to {most}")
        return int(given)

    return parse


def _switch(given: str) -> bool:
    return _one_of("on", "off")(given) == "on"


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(given: str) -> str:
        if given not in allowed:
            raise ValueError(f"{', '.join(allowed[:-1])} or {allowed[-1]}")
        return given

    return parse


def _views(given: str | None) -> Routes | None:
    return None if given is None else load_routes(given)


def _routes(views: Routes | None, *, demo: bool) -> Routes:
    """The operator's views, and behind them the demo's where their paths are free."""
    if views is None:
        return demo_views() if demo else Routes({})
    if not demo:
        return views
    kept = [(path, view) for path, view in demo_views().items() if views.match(path) is None]
    return Routes([*views.items(), *kept], accept_all=views.accept_all)


def _find_shared_doors(values: Mapping[str, Any]) -> Iterator[Clash]:
    """Find the endpoints that are named twice: who came second could not listen there."""
    for endpoint, count in Counter(values["listen"] + values["control"]).items():
        if count > 1 and not _ANY_PORT.match(endpoint):
            names = tuple(name for name in ("listen", "control") if endpoint in values[name])
            yield Clash(names, f"{endpoint} is named {count} times")


#: What can't be in force together: each takes the values of all options by name.
COMBINATIONS: tuple[Callable[[Mapping[str, Any]], Iterator[Clash]], ...] = (_find_shared_doors,)


def _wsgi(given: str | None) -> Application | None:
    if given is None:
        return None
    application = load(given)
    if not callable(application):
        raise TypeError(f"no WSGI application but a {type(application).__name__}")
    return cast(Application, application)


#: Every option there is, in the order in which people should read of them.
OPTIONS = (
    Option(
        name="listen",
        help="Listen here for everybody; may be given more than once.",
        parse=_listen,
        default=Settings.listen,
    ),
    Option(
        name="control",
        help="Listen here for operators; may be given more than once; none: nowhere.",
        parse=_control,
        default=Settings.control,
    ),
    Option(
        name="web",
        help="A folder whose files are served before the shipped client's.",
        parse=_folder,
    ),
    Option(
        name="views",
        help="MODULE:NAME of a map from path to view (default: the demo).",
        parse=_views,
    ),
    Option(
        name="demo",
        help="Whether the demo's views, /test/ and /play/, are there as well: on or off.",
        parse=_switch,
        default="on",
    ),
    Option(
        name="threads",
        help="How many views may block at once.",
        parse=_number(1, 100_000),
        default=str(Settings.threads),
    ),
    Option(
        name="wsgi",
        help="MODULE:APPLICATION to answer at every path that pushd itself does not have.",
        parse=_wsgi,
    ),
    Option(
        name="wsgi-threads",
        help="How many of its pages may be made at once.",
        parse=_number(1, 10_000),
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
        "public door then: a secret, a public key in PEM or a JSON Web Key Set; may be given more "
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
        parse=_number(1, 10_000_000),
        default=str(Settings.max_connections),
        live=True,
    ),
    Option(
        name="max-per-address",
        help="How many of them from one address, this machine and trusted proxies excepted.",
        parse=_number(1, 10_000_000),
        default=str(Settings.max_per_address),
        live=True,
    ),
    Option(
        name="max-message",
        help="How many bytes a message or a request's body may have; beyond, 1009 or 413.",
        parse=_number(1, 1 << 30),
        default=str(Limits().max_message),
        live=True,
    ),
    Option(
        name="max-buffered",
        help="How many bytes may wait for one who does not read them; beyond, 1013.",
        parse=_number(1, 1 << 30),
        default=str(Limits().max_buffered),
        live=True,
    ),
    Option(
        name="max-rate",
        help="How many messages a second one may send, ten times as many at once; beyond, 1008.",
        parse=_number(1, 10_000_000),
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
        parse=_number(0, 1_000_000),
        default=str(Retention.size),
    ),
    Option(
        name="history-ttl",
        help="How many seconds they are kept.",
        parse=_number(1, 604_800),
        default=str(Retention.ttl),
    ),
    Option(
        name="history-bytes",
        help="How many bytes are kept of all topics together; the oldest go first.",
        parse=_number(0, 1 << 40),
        default=str(Retention.bytes),
    ),
    Option(
        name="drain",
        help="How many seconds a stop takes to close everybody, one after the other; 0: at once.",
        parse=_number(0, 3600),
        default=str(Settings.drain),
        live=True,
    ),
    Option(
        name="compression",
        help="Whether permessage-deflate is spoken: on or off.",
        parse=_switch,
        default="on",
        live=True,
    ),
    Option(
        name="log-format",
        help="How the log is written: text for people, json for machines, one object a line.",
        parse=_one_of("text", "json"),
        default=Settings.log_format,
    ),
    Option(
        name="log-level",
        help="What is logged: debug, info, warn or error, and all that is worse.",
        parse=_one_of(*LEVELS),
        default=Settings.log_level,
        live=True,
    ),
)


def _add_to_command_line(option: Option) -> None:
    """Give usage.Options the method that it looks for."""

    def opt(self: Options, value: str) -> None:
        self._given.setdefault(option.name, []).append(value)

    default = option.default if isinstance(option.default, str) else " ".join(option.default or ())
    opt.__doc__ = f"{option.help} [default: {default}]" if default else option.help
    setattr(Options, f"opt_{option.name.replace('-', '_')}", opt)


for _option in OPTIONS:
    _add_to_command_line(_option)
