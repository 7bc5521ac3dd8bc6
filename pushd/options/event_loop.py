"""``--loop``: asyncio's event loop is installed before anything imports the global reactor."""

from __future__ import annotations

import asyncio
import sys
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.main import installReactor

from pushd.options.sources import Given

#: Values of ``--loop``.
TWISTED, ASYNCIO = "twisted", "asyncio"

# Where Twisted keeps the global reactor once there is one.
_REACTOR = "twisted.internet.reactor"


def reason_for_asyncio(given: Mapping[str, Given]) -> Given | None:
    """Return the option that asks for asyncio's event loop; None if none does."""
    if given["asgi"].text is not None:
        return given["asgi"]
    return given["loop"] if given["loop"].text == ASYNCIO else None


def install_asyncio() -> None:
    """Make Twisted's asyncio reactor the global reactor, on uvloop if that is installed.

    It does nothing if the global reactor is of that kind. Raises RuntimeError if it is another.
    """
    reactor = sys.modules.get(_REACTOR)
    if reactor is None:
        loop = make_loop()
        asyncio.set_event_loop(loop)
        installReactor(AsyncioSelectorReactor(loop))
    elif not isinstance(reactor, AsyncioSelectorReactor):
        raise RuntimeError(
            f"{type(reactor).__name__} is installed already: start twistd without --reactor, or "
            "with --reactor asyncio"
        )


def name_loop(loop: AbstractEventLoop | None) -> str:
    """Return the name of an event loop: ``uvloop``, ``asyncio``, or without one ``twisted``."""
    if loop is None:
        return TWISTED
    return "uvloop" if type(loop).__module__.partition(".")[0] == "uvloop" else ASYNCIO


def make_loop(
    import_module: Callable[[str], ModuleType] = import_module,
) -> AbstractEventLoop:
    """Make an event loop: uvloop's if that is installed, else asyncio's own."""
    try:
        uvloop = import_module("uvloop")
    except ImportError:
        return asyncio.new_event_loop()
    loop: AbstractEventLoop = uvloop.new_event_loop()
    return loop
