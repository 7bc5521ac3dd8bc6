"""Cross-origin resource sharing: which responses pages of allowed origins may read (WHATWG Fetch).

A page of another origin may send simple requests anywhere, as with a link or a form, but reads the
response only if this says that it may. It may read the responses of topics, refusals included, and
import the scripts of the client.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from pushd.access.origins import Origins
from pushd.protocols.http.guard import is_for_topics

# Headers of a response that a page may read, besides a few that it always may.
_EXPOSED = b"Retry-After, WWW-Authenticate"


class CrossOrigin:
    """Marks responses that pages of allowed origins may read.

    :param origins: the allowed origins, as they are at any moment.
    :param scripts: paths of the client's scripts.
    :param streams: further paths at which pages ask for topics.
    """

    def __init__(
        self,
        origins: Origins,
        scripts: Iterable[str] = (),
        streams: Collection[bytes] = frozenset(),
    ) -> None:
        self._origins = origins
        self._streams = streams
        self._scripts = frozenset(path.encode() for path in scripts)

    def share(self, request: Any) -> None:
        """Let a page of an allowed origin read the response to a request for a topic or script.

        To be called before anything is written. Requests with credentials (cookies, TLS client
        certificates, HTTP authentication), which only a proxy in front of pushd looks at, are for
        origins that are allowed by name.
        """
        if request.wants_websocket:
            return  # Only a browser sees the response to a handshake, and no page.
        is_script = request.path in self._scripts
        if is_script:
            # Without an Origin as well: caches must not give that response to a page.
            request.setHeader(b"vary", b"origin")
        origin = request.requestHeaders.last(b"Origin")
        if origin is None or not (is_script or is_for_topics(request, self._streams)):
            return
        host = request.requestHeaders.last(b"Host")
        if not self._origins.allows(origin, scheme=request.scheme, host=host or ""):
            return
        request.setHeader(b"access-control-allow-origin", origin.encode("latin-1"))
        request.setHeader(b"access-control-expose-headers", _EXPOSED)
        request.setHeader(b"vary", b"origin")
        if self._origins.names(origin):
            request.setHeader(b"access-control-allow-credentials", b"true")
