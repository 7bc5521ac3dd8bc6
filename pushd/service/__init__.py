"""The daemon as a service: how it is built, started, reloaded, stopped and monitored."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pushd.options import Options
    from pushd.service.twistd import makeService

__all__ = ["Options", "makeService"]


def __getattr__(name: str) -> object:
    # Every Twisted program that parses an endpoint imports this package for reuse_port: do not
    # import the whole daemon into it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pushd.service import twistd

    return getattr(twistd, name)
