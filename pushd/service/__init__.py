"""The life of the daemon: built, started, reloaded, drained and watched."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pushd.options import Options
    from pushd.service.twistd import makeService

__all__ = ["Options", "makeService"]


def __getattr__(name: str) -> object:
    # Every program with Twisted imports our endpoint from here: spare it the daemon.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pushd.service import twistd

    return getattr(twistd, name)
