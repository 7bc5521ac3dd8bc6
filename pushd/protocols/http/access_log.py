"""What the log says of requests, and what is counted of those that were turned away."""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger

from pushd.protocols.http.guard import SitePolicy
from pushd.protocols.http.request import ChannelRequest, path_of

_log = Logger(namespace="pushd.protocols")

# Under which names refusals are counted.
_REASONS = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    408: "request_timeout",
    413: "content_too_large",
    414: "uri_too_long",
    426: "upgrade_required",
    431: "headers_too_large",
    503: "busy",
}


class AccessLog:
    """The lines of a door's requests: one for each, however it ended, and none with its query.

    A Site extends it, as twisted.web calls ``log`` on that.
    """

    # What the door asks of all who come; it is another one after a reload.
    policy: SitePolicy

    def count_refusal(self, status: int) -> None:
        """Count a request that was turned away."""
        self.policy.metrics.refused.labels(reason=_REASONS.get(status, "other")).inc()

    def log_failure(self, peer: str) -> None:
        """Log an exception that twisted.web raised over what a client sent."""
        _log.failure("failed to read a request of {peer}", event="request_failed", peer=peer)

    def log_connection_failure(self, peer: str) -> None:
        """Log an exception that kept a new connection from being served."""
        _log.failure(
            "failed to serve the new connection of {peer}: it was dropped",
            event="connection_failed",
            peer=peer,
        )

    def log_refusal(self, peer: str, status: int, line: str) -> None:
        """Count a request that did not come far enough for an access line, and write its line."""
        self.count_refusal(status)
        _log.info(
            "{peer} refused {status}: {line}",
            event="refused",
            peer=peer,
            status=status,
            line=line,
        )

    def log(self, request: Any) -> None:
        """Write the access line."""
        if request.has_access_line:
            _log.info(
                "{peer} {method} {path} {status} {length} after {seconds:.3f} s",
                event="request",
                **_facts(request),
                status=request.code,
                length=request.sentLength,
            )

    def log_left(self, request: ChannelRequest) -> None:
        """Write the line of a client that left before it was answered."""
        if request.has_access_line:
            _log.info(
                "{peer} {method} {path} left unanswered after {seconds:.3f} s",
                event="left",
                **_facts(request),
            )


def _facts(request: Any) -> dict[str, Any]:
    """What the log has of every request."""
    return {
        "connection": request.connection,
        "peer": request.peer,
        "method": request.method.decode("latin-1"),
        "path": path_of(request),
        "seconds": request.seconds,
    }
