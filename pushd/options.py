"""The command line, validated into one frozen value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from twisted.internet.endpoints import serverFromString
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from pushd.protocol import Limits
from pushd.routes import Routes, load_routes
from pushd.ticker import ticker


def _demo() -> Routes:
    return Routes({"/test/": ticker})


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


class Options(UsageOptions):
    """The options of ``twistd pushd``; ``settings`` holds what they amount to.

    A mistake ends the process with exit code 1 and one line that names the option, what was
    given, and what is allowed.
    """

    synopsis = "[options]"
    longdesc = "Serves views over WebSocket and HTTP, and the static client beside them."
    optParameters = [
        ["web", None, None, "A folder whose files are served before the shipped client's."],
        ["views", None, None, "MODULE:NAME of a map from path to view (default: the demo)."],
        ["threads", None, str(Settings.threads), "How many views may block at once."],
    ]

    def __init__(self) -> None:
        super().__init__()
        self._listen: list[str] = []
        self._control: list[str] = []
        self.settings = Settings()

    def opt_listen(self, endpoint: str) -> None:
        """Listen here for everybody; may be given more than once.
        [default: tcp:8080:interface=127.0.0.1]"""
        self._listen.append(endpoint)

    def opt_control(self, endpoint: str) -> None:
        """Listen here for operators, may be given more than once; none: nowhere.
        [default: tcp:8081:interface=127.0.0.1]"""
        self._control.append(endpoint)

    def opt_version(self) -> None:
        """Print the version and exit."""
        from pushd import __version__

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
        defaults = Settings()
        self.settings = Settings(
            listen=_endpoints("listen", self._listen) or defaults.listen,
            control=_control(self._control, defaults.control),
            web=_folder("web", self["web"]),
            routes=_routes(self["views"]),
            threads=_count("threads", self["threads"]),
        )


def _mistake(option: str, given: object, allowed: object) -> UsageError:
    return UsageError(f"--{option} {given}: {allowed}")


def _endpoints(option: str, given: list[str]) -> tuple[str, ...]:
    for endpoint in given:
        try:
            serverFromString(None, endpoint)
        except Exception as error:
            # Endpoint plugins raise what they like, for a mistake in any of their arguments.
            allowed = f"no endpoint like tcp:8080 or unix:/run/pushd.sock ({error})"
            raise _mistake(option, endpoint, allowed) from None
    return tuple(given)


def _control(given: list[str], default: tuple[str, ...]) -> tuple[str, ...]:
    if "none" not in given:
        return _endpoints("control", given) or default
    if len(given) > 1:
        raise _mistake("control", "none", "goes with no other --control")
    return ()


def _folder(option: str, given: str | None) -> Path | None:
    if given is None:
        return None
    folder = Path(given)
    if not folder.is_dir():
        raise _mistake(option, given, "not a folder")
    return folder.resolve()


def _count(option: str, given: str) -> int:
    # int() would take " 1_0 " as well.
    if not given.isascii() or not given.isdecimal() or not 1 <= int(given) <= 100_000:
        raise _mistake(option, given, "a number from 1 to 100000")
    return int(given)


def _routes(given: str | None) -> Routes:
    demo = _demo()
    if given is None:
        return demo
    try:
        routes = load_routes(given)
    except (TypeError, ValueError) as error:
        raise _mistake("views", given, error) from None
    kept = [(path, view) for path, view in demo.items() if routes.match(path) is None]
    return Routes([*routes.items(), *kept], accept_all=routes.accept_all)
