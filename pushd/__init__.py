"""pushd: a push daemon on Twisted and Autobahn. The server talks first."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pushd.client.anywhere import last_id, publish

__version__ = "1.0.0"

__all__ = ["__version__", "last_id", "publish"]


def __getattr__(name: str) -> object:
    # Imported when it is used: twistd imports this package with every program.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pushd.client import anywhere

    return getattr(anywhere, name)
