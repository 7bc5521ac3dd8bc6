"""Static files that take precedence over an application's URLs."""

from __future__ import annotations

from typing import Any

from twisted.web.resource import IResource

from pushd.protocols.http.static import StaticFiles

# The path of the shipped client: "/" is the application's.
_SHIPPED = "/pushd/"


class ApplicationFiles:
    """Finds the operator's files, and the client that is part of pushd.

    :param files: files that take precedence over the application's URLs.
    :param shipped: the client that is part of pushd.
    """

    def __init__(self, files: StaticFiles, shipped: StaticFiles) -> None:
        self._files = files
        self._shipped = shipped

    def find(self, request: Any, path: str) -> IResource | None:
        """Return the file at a path; None if the application answers."""
        if request.wants_websocket:
            return None
        file = self._files.find(path)
        # Scripts and styles only: the pages are those of the demo, which is not served.
        if file is None and path.startswith(_SHIPPED) and not path.endswith(("/", ".html")):
            file = self._shipped.find(path.removeprefix(_SHIPPED))
        return file
