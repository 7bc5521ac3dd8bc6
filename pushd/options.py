"""The command line, validated into one frozen value."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import serverFromString
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from pushd import __version__
from pushd.access import Origins
from pushd.history import Retention
from pushd.playground import Playground
from pushd.protocol import Limits
from pushd.proxies import Proxies
from pushd.redis_url import RedisAddress, mask, parse_broker
from pushd.routes import Routes, load_routes
from pushd.ticker import ticker

# What stands for no endpoint at all.
_NONE = "none"


def _demo() -> Routes:
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
    routes: Routes = field(default_factory=_demo)
    #: How many views may block in threads at once.
    threads: int = 64
    #: What one connection may take.
    limits: Limits = field(default_factory=Limits)
    #: How much of the past of topics is kept.
    retention: Retention = field(default_factory=Retention)
    #: The origins whose pages may open WebSockets, beside our own.
    origins: Origins = field(default_factory=Origins)
    #: The proxies whose word on who asks counts.
    proxies: Proxies = field(default_factory=Proxies)
    #: The Redis behind the topics; None where they are kept in this process.
    broker: RedisAddress | None = None
    #: How many connections there may be at the public door.
    max_connections: int = 10_000
    #: How many of them from one address.
    max_per_address: int = 100


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option: its name, what it is for, and how its text becomes a value.

    ``parse`` raises ValueError or TypeError that say what is allowed.
    """

    name: str
    help: str
    parse: Callable[[Any], Any]
    default: str | tuple[str, ...] | None = None
    #: Takes out of the text what nobody may read in a message.
    mask: Callable[[str], str] = str

    @property
    def repeatable(self) -> bool:
        """Whether it may be given more than once."""
        return isinstance(self.default, tuple)


class Options(UsageOptions):
    """The options of ``twistd pushd``; ``settings`` holds what they amount to.

    A mistake ends the process with exit code 1 and one line that names the option, what was
    given, and what is allowed.
    """

    synopsis = "[options]"
    longdesc = "Serves views over WebSocket and HTTP, and the static client beside them."

    def __init__(self) -> None:
        self._given: dict[str, list[str]] = {}
        super().__init__()
        self.settings = Settings()

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
        values = {option.name: self._value_of(option) for option in OPTIONS}
        self.settings = Settings(
            listen=values["listen"],
            control=values["control"],
            web=values["web"],
            routes=_routes(values["views"], demo=values["demo"]),
            threads=values["threads"],
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
            proxies=values["trusted-proxy"],
            broker=values["broker"],
            max_connections=values["max-connections"],
            max_per_address=values["max-per-address"],
        )

    def _value_of(self, option: Option) -> Any:
        given: Any = self._given.get(option.name)
        if option.repeatable:
            given = option.default if given is None else tuple(given)
        else:
            given = option.default if given is None else given[-1]
        try:
            return option.parse(given)
        except (TypeError, ValueError) as error:
            shown = option.mask(" ".join(given) if option.repeatable else given)
            # One line, whatever an exception of others had to say.
            raise UsageError(" ".join(f"--{option.name} {shown}: {error}".split())) from None


def _listen(given: tuple[str, ...]) -> tuple[str, ...]:
    for endpoint in given:
        try:
            serverFromString(None, endpoint)
        except Exception as error:
            # Endpoint plugins raise what they like, for a mistake in any of their arguments.
            raise ValueError(
                f"no endpoint like tcp:8080 or unix:/run/pushd.sock ({error})"
            ) from None
    return given


def _control(given: tuple[str, ...]) -> tuple[str, ...]:
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
    if given not in ("on", "off"):
        raise ValueError("on or off")
    return given == "on"


def _views(given: str | None) -> Routes | None:
    return None if given is None else load_routes(given)


def _routes(views: Routes | None, *, demo: bool) -> Routes:
    """The operator's views, and behind them the demo's where their paths are free."""
    if views is None:
        return _demo() if demo else Routes({})
    if not demo:
        return views
    kept = [(path, view) for path, view in _demo().items() if views.match(path) is None]
    return Routes([*views.items(), *kept], accept_all=views.accept_all)


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
        name="origin",
        help="An origin whose pages may open WebSockets beside our own, such as "
        "https://example.com or https://*.example.com; may be given more than once; *: all.",
        parse=Origins,
        default=(),
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
    ),
    Option(
        name="max-per-address",
        help="How many of them from one address, this machine and trusted proxies excepted.",
        parse=_number(1, 10_000_000),
        default=str(Settings.max_per_address),
    ),
    Option(
        name="max-message",
        help="How many bytes a message or a request's body may have; beyond, 1009 or 413.",
        parse=_number(1, 1 << 30),
        default=str(Limits().max_message),
    ),
    Option(
        name="max-buffered",
        help="How many bytes may wait for one who does not read them; beyond, 1013.",
        parse=_number(1, 1 << 30),
        default=str(Limits().max_buffered),
    ),
    Option(
        name="max-rate",
        help="How many messages a second one may send, ten times as many at once; beyond, 1008.",
        parse=_number(1, 10_000_000),
        default=str(Limits().max_rate),
    ),
    Option(
        name="broker",
        help="What keeps the topics: memory, for one process, or a Redis for many: "
        "redis://[user:password@]host:port/db, rediss://, unix:///path, "
        "redis+sentinel://host,host/service/db.",
        parse=parse_broker,
        default="memory",
        mask=mask,
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
        name="compression",
        help="Whether permessage-deflate is spoken: on or off.",
        parse=_switch,
        default="on",
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
