"""Routing: which view serves which path."""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from werkzeug.exceptions import NotFound
from werkzeug.routing import Map, RequestRedirect, Rule

from pushd.views.decorators import Handshakes, handshakes_of, token_of
from pushd.views.request import View

# A variable part of a path: <room>, <int:number>.
_PART = re.compile(r"<(?:(?P<kind>[^<>:]+):)?[^<>]+>")


class Match(NamedTuple):
    """The view for a path."""

    view: View
    #: The values of the path's variable parts.
    parameters: Mapping[str, Any]
    handshakes: Handshakes
    #: Whether the view requires a token: True for always, False with ``--token-key`` only.
    token: bool | None = None


class Routes(Mapping[str, View]):
    """A map from path to view: ``Routes({"/chat/<room>/": chat})``.

    A plain dict does as well, unless ``accept_all`` is needed. Paths are written as in werkzeug's
    routing: ``<name>`` matches one segment, ``<int:name>`` a number, ``<path:name>`` everything
    that follows.

    :param views: the views by path, or pairs of path and view.
    :param accept_all: let every view serve WebSockets, as ``accept_websocket`` does.

    Raises ValueError for a path that cannot be parsed or that two views have, and TypeError for a
    view that is not callable.
    """

    def __init__(
        self,
        views: Mapping[str, View] | Iterable[tuple[str, View]],
        *,
        accept_all: bool = False,
    ) -> None:
        pairs = views.items() if isinstance(views, Mapping) else views
        self._views: dict[str, View] = {}
        self.accept_all = accept_all or getattr(views, "accept_all", False)
        shapes: dict[str, str] = {}
        rules: list[Rule] = []
        for path, view in pairs:
            if not isinstance(path, str) or not path.startswith("/"):
                raise ValueError(f"{path!r} is not a path: a path is a str that starts with /")
            if not callable(view):
                raise TypeError(f"the view at {path} is not callable: {type(view).__name__}")
            shape = _PART.sub(lambda part: f"<{part['kind'] or 'string'}>", path)
            if shape in shapes:
                raise ValueError(f"{path} has two views (the other one at {shapes[shape]})")
            shapes[shape] = path
            self._views[path] = view
            rules.append(Rule(path, endpoint=path))
        # No slashes are merged and nothing is redirected, as WebSocket clients follow no redirect.
        try:
            self._map = Map(rules, strict_slashes=False, merge_slashes=False).bind("pushd")
            self._map.test("/")
        except Exception as error:
            raise ValueError(f"cannot parse a path: {error}") from error
        # Paths without variable parts are looked up in a dict: to ask the router takes as long as
        # the rest of a handshake.
        self._plain = {path: self._match_to(path) for path in self._views if "<" not in path}
        self._all_plain = len(self._plain) == len(self._views)
        if self._all_plain:
            # A trailing slash is optional, unless two views differ by it.
            for path, match in tuple(self._plain.items()):
                other = path[:-1] if path.endswith("/") else f"{path}/"
                if path != "/":
                    self._plain.setdefault(other, match)

    def __getitem__(self, path: str) -> View:
        return self._views[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def match(self, path: str) -> Match | None:
        """Return the view for a decoded path, or None."""
        plain = self._plain.get(path)
        # The router ignores the number of slashes at the start.
        if plain is not None or self._all_plain or path[:2] == "//" or path[:1] != "/":
            return plain
        try:
            endpoint, parameters = self._map.match(path, method="GET")
        except (NotFound, RequestRedirect):
            return None
        # The router takes two slashes at the end for one.
        if path.endswith("//") and endpoint.endswith("/"):
            return None
        return self._match_to(str(endpoint), parameters)

    def _match_to(self, path: str, parameters: Mapping[str, Any] = MappingProxyType({})) -> Match:
        view = self._views[path]
        handshakes = handshakes_of(view)
        if self.accept_all and handshakes is Handshakes.REFUSED:
            handshakes = Handshakes.ACCEPTED
        return Match(view, parameters, handshakes, token_of(view))


def load_routes(text: str) -> Routes:
    """Import the map of views that ``MODULE:NAME`` names; see ``load`` for errors."""
    views = load(text)
    if not isinstance(views, Mapping):
        name = text.partition(":")[2]
        raise TypeError(f"{name} must map paths to views, but is of type {type(views).__name__}")
    return Routes(views)


def load(text: str) -> Any:
    """Import the object that ``MODULE:NAME`` names.

    Modules in the current folder can be imported, as with ``python -m``. Raises ValueError with
    one line that says what is wrong.
    """
    module_name, colon, name = text.partition(":")
    if not (module_name and colon and name):
        raise ValueError("expected MODULE:NAME")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module_name), name)
    except (Exception, SystemExit) as error:
        # A module may raise anything, or call sys.exit(); its author needs to know where.
        raise ValueError(explain_import(error, __file__)) from error


def explain_import(error: BaseException, importer: str) -> str:
    """Describe in one line what the import of a module raised, and where in its code.

    :param importer: the file of the code that imports, whose lines are not named.
    """
    message = " ".join(str(error).split())
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    last = frames[-1]
    place = "" if last.filename == importer else f" ({last.filename}, line {last.lineno})"
    return f"{type(error).__name__}: {message}{place}"
