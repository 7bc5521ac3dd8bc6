"""The access log, and the count of refused requests and connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from pushd.access.closing import US
from pushd.access.connections import emit_info
from pushd.protocols.http.policy import SitePolicy
from pushd.protocols.http.request import ChannelRequest, path_of

_log = Logger(namespace="pushd.protocols")

# The statuses of answers that count as failures for --max-rate-per-address: those with which a
# request is refused for what it is. Not 503, as that is not the client's fault.
_FAILURES = {400, 401, 403, 404, 408, 413, 414, 421, 426, 431}

# Values of the label ``reason`` of pushd_refused_total.
_REASONS = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    408: "request_timeout",
    413: "content_too_large",
    414: "uri_too_long",
    421: "misdirected",
    426: "upgrade_required",
    431: "headers_too_large",
    503: "busy",
}


class AccessLog:
    """Base of a site that writes one line for each request, however it ends, without its query.

    twisted.web calls ``log`` on the site.
    """

    policy: SitePolicy
    #: Whether a request to a path, as the client sent it, is answered while its body arrives.
    streams_body: Callable[[bytes], bool] = staticmethod(lambda path: False)

    def count_refusal(self, status: int) -> None:
        """Count a request, or a connection, that was refused."""
        self.policy.counters.refused.labels(reason=_REASONS.get(status, "other")).inc()

    def log_failure(self, peer: str) -> None:
        """Log an exception that was raised while a request was parsed."""
        _log.failure("failed to read a request of {peer}", event="request_failed", peer=peer)

    def log_connection_failure(self, peer: str) -> None:
        """Log an exception that kept a new connection from being served."""
        _log.failure(
            "failed to serve the new connection of {peer}: it was dropped",
            event="connection_failed",
            peer=peer,
        )

    def log_refusal(self, peer: str, status: int, line: str) -> None:
        """Count and log a refusal that comes too early for an access line."""
        self.count_refusal(status)
        self._count_failure(peer, status)
        _log.info(
            "{peer} refused {status}: {line}",
            event="refused",
            peer=peer,
            status=status,
            line=line,
        )

    def log(self, request: Any) -> None:
        """Write the line of a request that was answered, and count it if it was refused."""
        self._count_failure(request.peer, request.code)
        if not request.has_access_line:
            return
        facts = {
            "event": "request",
            **_facts(request),
            "status": request.code,
            "length": request.sentLength,
        }
        line = "{peer} {method} {path} {status} {length} after {seconds:.3f} s"
        if request.why_refused:
            facts["reason"] = request.why_refused
            line += ": {reason}"
        emit_info(_log, self.policy.wall(), line, facts)

    def log_left(self, request: ChannelRequest) -> None:
        """Write the line of a request whose client left before it was answered."""
        if request.has_access_line:
            _log.info(
                "{peer} {method} {path} left unanswered after {seconds:.3f} s",
                event="left",
                **_facts(request),
            )

    def log_cut_off(
        self, peer: str, reason: str, untaken: int, request: ChannelRequest | None = None
    ) -> None:
        """Write the line of a client that is dropped, with what it has not taken.

        :param untaken: how much that is, in bytes.
        :param request: which is being answered, if the response is not complete.
        """
        what = " by {by}: {reason}" + (", {bytes_untaken} bytes were not taken" if untaken else "")
        if request is None:
            _log.info(
                "{peer} cut off" + what,
                event="cut_off",
                peer=peer,
                by=US,
                reason=reason,
                bytes_untaken=untaken,
            )
            return
        request.has_access_line = False  # This is it, and its client has not left.
        _log.info(
            "{peer} {method} {path} cut off after {seconds:.3f} s" + what,
            event="cut_off",
            by=US,
            reason=reason,
            bytes_untaken=untaken,
            **_facts(request),
        )

    def _count_failure(self, peer: str, status: int) -> None:
        if status in _FAILURES:
            self.policy.throttle.count(peer)


def _facts(request: Any) -> dict[str, Any]:
    """Return the fields that the log has of every request."""
    return {
        "connection": request.connection,
        "peer": request.peer,
        "method": request.method.decode("latin-1"),
        "path": path_of(request),
        "seconds": request.seconds,
    }
