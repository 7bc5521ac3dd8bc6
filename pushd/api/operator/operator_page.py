"""The operator's page at the control port's ``/``, and the files that it loads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.web.resource import IResource

from pushd.api.operator.snapshots import SnapshotResource, Snapshots
from pushd.protocols.http.guard import PAGE_OFF
from pushd.protocols.http.response import AnswerResource, refusal
from pushd.protocols.http.static import StaticFiles

#: Where the files of the page are, below the folder of the shipped client.
FOLDER = "operator/"

# What it has in common with the pages of the public port.
_SHARED = ("/pushd.css", "/favicon.svg")

#: Headers of the page. It loads scripts, styles and data from its own port only, sends no form by
#: itself, and no page can have it in a frame: clicks there could be on its buttons.
PAGE_HEADERS = {
    b"content-security-policy": b"; ".join(
        [
            b"default-src 'none'",
            b"script-src 'self'",
            b"style-src 'self'",
            b"img-src 'self'",
            b"connect-src 'self'",
            b"base-uri 'none'",
            b"form-action 'none'",
            b"frame-ancestors 'none'",
        ]
    ),
    b"x-frame-options": b"DENY",
}

_OFF = refusal(404, "there is no operator's page: --control-page is off")


class OperatorPage:
    """The page's paths: ``/``, its files below ``/operator/``, and ``/snapshots``.

    :param mode: ``--control-page``.
    """

    def __init__(self, files: StaticFiles, snapshots: Snapshots, mode: str) -> None:
        self._files = files
        self._snapshots = snapshots
        self._is_off = mode == PAGE_OFF

    def find(self, path: str) -> IResource | None:
        """Return what answers requests to a path; None if it is not one of the page's."""
        find: Callable[[str], Any]
        if path == "/":
            find = self._find_start
        elif path == "/snapshots":
            find = self._find_snapshots
        elif path in _SHARED or (path.startswith(f"/{FOLDER}") and not path.endswith("/")):
            find = self._files.find
        else:
            return None
        found: IResource | None = AnswerResource(_OFF) if self._is_off else find(path)
        return found

    def _find_start(self, path: str) -> Any:
        return self._files.find(f"/{FOLDER}")

    def _find_snapshots(self, path: str) -> Any:
        return SnapshotResource(self._snapshots)
