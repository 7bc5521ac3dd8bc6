"""Decorators of views: which requests a view serves, and whether it needs a token."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any, TypeVar

from pushd.views.request import View

# A decorated function may be a method, or get further arguments from a partial.
AnyView = TypeVar("AnyView", bound=Callable[..., Any])


class Handshakes(Enum):
    """Which requests a view serves."""

    REFUSED = "plain HTTP only"
    ACCEPTED = "plain HTTP and WebSocket handshakes"
    REQUIRED = "WebSocket handshakes only"


def accept_websocket(view: AnyView) -> AnyView:
    """Let a view serve WebSockets and plain HTTP, for which ``request.websocket`` is None."""
    return _decorate(view, "pushd_handshakes", Handshakes.ACCEPTED)


def require_websocket(view: AnyView) -> AnyView:
    """Let a view serve WebSockets only; plain HTTP is answered with 426 (RFC 9110 §15.5.22)."""
    return _decorate(view, "pushd_handshakes", Handshakes.REQUIRED)


def require_token(view: AnyView) -> AnyView:
    """Require a valid token for a view; other requests are answered with 401 (RFC 6750 §3).

    The view finds the token's owner in ``request.identity``. Without ``--token-key`` no token is
    valid.
    """
    return _decorate(view, "pushd_token", True)


def heed_tokens(view: AnyView) -> AnyView:
    """Require a valid token for a view if ``--token-key`` is given, and no token otherwise.

    With ``--token-key`` ``request.identity`` is the token's owner, without it it is None.
    """
    return _decorate(view, "pushd_token", False)


def _decorate(view: AnyView, name: str, value: object) -> AnyView:
    if isinstance(view, type) or not hasattr(view, "__dict__"):
        raise TypeError(f"a view must be a function or a callable object, not {view!r}")
    view.__dict__[name] = value
    return view


def handshakes_of(view: View) -> Handshakes:
    """Return which requests a view serves, according to its decorators."""
    handshakes = _decoration(view, "pushd_handshakes")
    return handshakes if isinstance(handshakes, Handshakes) else Handshakes.REFUSED


def token_of(view: View) -> bool | None:
    """Return whether a view requires a valid token, according to its decorators.

    True means always, False with ``--token-key`` only, and None never.
    """
    always = _decoration(view, "pushd_token")
    return always if isinstance(always, bool) else None


def _decoration(view: View, name: str) -> object:
    while isinstance(view, partial) and name not in view.__dict__:
        view = view.func
    found = getattr(view, name, None)
    return found if found is not None else getattr(type(view).__call__, name, None)
