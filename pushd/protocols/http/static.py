"""Static files: regular files below a folder, with ranges and conditional requests."""

from __future__ import annotations

import mimetypes
import os
import re
import stat
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from twisted.internet.interfaces import IPushProducer
from twisted.web.http import NOT_MODIFIED
from zope.interface import implementer

with warnings.catch_warnings():
    # It imports what Twisted has deprecated: tests that run with -W error must not fail by that.
    warnings.simplefilter("ignore", DeprecationWarning)
    from twisted.web.static import File, SingleRangeStaticProducer

# Ranges and tags are not parsed by werkzeug.http, which is more lenient than these patterns: it
# takes blanks and upper case in a range, and tags without quotes, and ignores an empty suffix
# ("bytes=-0"), which must be 416. To check for all of these first would take more code than this.

# One range of bytes (RFC 9110 §14.1.2), with numbers that fit any file.
_PLAIN_RANGE = re.compile(rb"bytes=(?:\d{1,18}-\d{0,18}|-(?P<suffix>\d{1,18}))")

# An entity tag; If-None-Match ignores that it is weak (RFC 9110 §8.8.3, §13.1.2).
_TAG = re.compile(rb'(?:W/)?("[^"]*")')

# Bytes of a file that are read at a time.
_CHUNK = 1 << 16

# Files that may be open while their clients are slow, of each ``StaticFiles``. A daemon has at most
# three of those, and allow_connections leaves 192 descriptors for such.
_MAX_WAITING = 16

# Types without which browsers refuse to run or show a file; the machine's own table of types may
# differ.
_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".wasm": "application/wasm",
}


class StaticFiles:
    """Folders of files; a file is served from the first folder that has it.

    Only regular files below a folder are served: no listings, no dotfiles, no devices, and nothing
    outside to which a symbolic link leads.

    :param hidden: beginnings of the paths, below the last folder, of files that are not served,
        such as ``demo/``.
    """

    def __init__(self, folders: Sequence[Path], hidden: tuple[str, ...] = ()) -> None:
        self._folders = [folder.resolve() for folder in folders]
        self._hidden = hidden
        # Producers whose files are open while their clients are slow.
        self._waiting: set[FileProducer] = set()

    def find(self, path: str) -> StaticFile | None:
        """Return the file of a URL's decoded path, or None; ``/a/`` means ``/a/index.html``."""
        segments = path.removeprefix("/").split("/")
        if segments[-1] == "":
            segments[-1] = "index.html"
        for segment in segments:
            if segment == "" or segment.startswith(".") or "\0" in segment or "\\" in segment:
                return None
        is_hidden = "/".join(segments).startswith(self._hidden)
        for folder in self._folders[:-1] if is_hidden else self._folders:
            file = folder.joinpath(*segments)
            if _is_served(file, folder):
                return StaticFile(str(file), self._waiting)
        return None


class StaticFile(File):
    """One file: GET and HEAD, at most one range, conditional requests."""

    isLeaf = True

    def __init__(self, path: str, waiting: set[FileProducer]) -> None:
        super().__init__(path)
        self._waiting = waiting
        self.type, self.encoding = _type_of(path), None

    def render_GET(self, request: Any) -> Any:
        """Answer with the file, a range of it, or 304."""
        self.restat(False)
        self._simplify_range(request)
        request.setHeader(b"cache-control", b"no-cache")
        etag = b'"%x-%x"' % (int(self.getModificationTime() * 1e9), self.getsize())
        known = self._is_known(request, etag)
        request.setETag(etag)
        if known:
            request.setResponseCode(NOT_MODIFIED)
            return b""
        return super().render_GET(request)

    def render(self, request: Any) -> Any:
        """Answer GET, HEAD and OPTIONS; refuse other methods."""
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader(b"allow", b"GET, HEAD, OPTIONS")
            if request.method == b"OPTIONS":
                request.setResponseCode(204)
                return b""
            request.setResponseCode(405)
            request.setHeader(b"content-type", b"text/plain; charset=utf-8")
            return b"use GET or HEAD for a file\n"
        return self.render_GET(request)

    def makeProducer(self, request: Any, fileForReading: BinaryIO) -> FileProducer:
        """Send the file, or the requested range, as fast as the client reads."""
        # This sets status and headers; the producer that it makes would use the global reactor.
        pull = super().makeProducer(request, fileForReading)
        offset, size = 0, self.getsize()
        if isinstance(pull, SingleRangeStaticProducer):
            offset, size = pull.offset, pull.size
        return FileProducer(request, fileForReading, offset, size, self._waiting)

    def _is_known(self, request: Any, etag: bytes) -> bool:
        """Return whether the client has this version of the file, by If-None-Match.

        Headers that twisted.web would misread are removed: it knows neither lists of tags nor weak
        ones, and raises on a date that has nothing but a parameter.
        """
        tags = request.requestHeaders.getRawHeaders(b"if-none-match")
        request.requestHeaders.removeHeader(b"if-none-match")
        since = request.getHeader(b"if-modified-since") or b""
        # With If-None-Match, If-Modified-Since is ignored (RFC 9110 §13.2.2).
        if tags is not None or not since.partition(b";")[0].strip():
            request.requestHeaders.removeHeader(b"if-modified-since")
        joined = b",".join(tags or ())
        return etag in _TAG.findall(joined) or joined.strip() == b"*"

    def _simplify_range(self, request: Any) -> None:
        """Ignore a Range that is not one plain range, as a server may (RFC 9110 §14.2).

        twisted.web raises on some others, and takes long for many ranges.
        """
        ranges = request.requestHeaders.getRawHeaders(b"range", ())
        plain = len(ranges) == 1 and _PLAIN_RANGE.fullmatch(ranges[0])
        if not plain or request.getHeader(b"if-range") is not None:
            request.requestHeaders.removeHeader(b"range")
        elif plain["suffix"] and int(plain["suffix"]) > self.getsize():
            # A suffix longer than the file is the whole file.
            request.requestHeaders.removeHeader(b"range")


@implementer(IPushProducer)
class FileProducer:
    """Writes a part of a file to a request whenever its connection can take more.

    While a client is slow, its file is closed if too many others are open for the same reason: each
    would take a descriptor in addition to that of the connection. It goes on with the same file, or
    not at all if that has changed.

    :param waiting: the producers of the folder whose files are open while they are paused.
    """

    def __init__(
        self,
        request: Any,
        file: BinaryIO,
        offset: int,
        size: int,
        waiting: set[FileProducer],
    ) -> None:
        self._request = request
        # None while it is closed because its client is slow.
        self._file: BinaryIO | None = file
        self._path = file.name
        self._version = _version_of(file)
        self._end = offset + size
        self._left = size
        self._waiting = waiting
        self._paused = False
        self._finished = False
        file.seek(offset)

    def start(self) -> None:
        """Start to write."""
        self._request.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        """Write until the connection's buffer is full, or all is written."""
        self._paused = False
        self._waiting.discard(self)
        while not self._paused and not self._finished:
            data = self._read()
            if data:
                self._left -= len(data)
                self._request.write(data)
            else:
                self._finish()

    def pauseProducing(self) -> None:
        """Stop until the connection can take more."""
        self._paused = True
        if self._left and len(self._waiting) < _MAX_WAITING:
            self._waiting.add(self)
        else:
            self._close()

    def stopProducing(self) -> None:
        """Close the file, as the client has left."""
        self._finished = True
        self._close()

    def _read(self) -> bytes:
        if self._file is None and self._left:
            self._file = self._reopen()
        return b"" if self._file is None else self._file.read(min(self._left, _CHUNK))

    def _reopen(self) -> BinaryIO | None:
        """Open the file again; return None if it is gone or has changed."""
        try:
            # Something else may have taken its place, and to open a FIFO would block.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return None
        file = os.fdopen(descriptor, "rb")
        if _version_of(file) != self._version:
            file.close()
            return None
        file.seek(self._end - self._left)
        return file

    def _finish(self) -> None:
        self.stopProducing()
        self._request.unregisterProducer()
        if self._left:
            # The file became shorter: the next response would be taken for the rest of it.
            self._request.loseConnection()
        else:
            self._request.finish()

    def _close(self) -> None:
        self._waiting.discard(self)
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _version_of(file: BinaryIO) -> tuple[int, ...]:
    """Return what another file, or another version of it, does not have in common with a file."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _is_served(file: Path, folder: Path) -> bool:
    try:
        return stat.S_ISREG(file.stat().st_mode) and Path(os.path.realpath(file)).is_relative_to(
            folder
        )
    except OSError:
        return False


def _type_of(path: str) -> str:
    suffix = Path(path).suffix.lower()
    guessed, packed = mimetypes.guess_type(path)
    # A compressed file is sent as it is, so it does not have the type of its contents.
    kind = _TYPES.get(suffix) or (not packed and guessed) or "application/octet-stream"
    textual = kind.startswith("text/") or kind in ("application/json", "image/svg+xml")
    return f"{kind}; charset=utf-8" if textual else kind
