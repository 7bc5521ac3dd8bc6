"""``/snapshots`` of the control port: all metrics once a second, as an event stream for viewers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from pushd.api.resource import allowed_methods, refuse, require_known, require_method
from pushd.api.response_stream import STREAM_HEADERS
from pushd.errors import BadRequest
from pushd.protocols.http.response import Response, write_response
from pushd.protocols.json_format import to_json

#: Seconds between two snapshots, at least.
INTERVAL = 1.0

# They take at most one part in as many of the time: with very many connections, they come later.
_SHARE = 50

# Viewers at once: each takes a connection to the control port.
_MAX_VIEWERS = 32


class Snapshots:
    """Reads the metrics once a second while somebody looks, and sends them to all viewers alike.

    If to read them takes longer than a fiftieth of that, they are read less often.

    A viewer first gets all series, and then those that have changed. One that is slow to read is
    sent nothing until it has caught up, and then all series again: at most one event waits for it.
    Without viewers nothing is read, and no timer runs.

    :param read: returns the value of each series; see ``Counters.series``.
    :param now: the time of day, in seconds since 1970.
    :param about: what does not change: the first event.
    """

    def __init__(
        self,
        clock: IReactorTime,
        read: Callable[[], dict[str, float]],
        now: Callable[[], float],
        about: Mapping[str, object],
    ) -> None:
        self._clock = clock
        self._read = read
        self._now = now
        self._about = _event("about", about)
        self._viewers: dict[SnapshotStream, None] = {}
        self._last: dict[str, float] = {}
        self._call: IDelayedCall | None = None
        self._stopped = False

    def require_room(self) -> None:
        """Raise BadRequest (503) if there are too many viewers, or the daemon ends."""
        if self._stopped:
            raise BadRequest("server is shutting down", "snapshots", 503)
        if len(self._viewers) >= _MAX_VIEWERS:
            error = f"at most {_MAX_VIEWERS} viewers at once"
            raise BadRequest(error, "snapshots", 503, {"Retry-After": "5"})

    def add(self, viewer: SnapshotStream) -> None:
        """Send snapshots to a viewer, the first at once."""
        if not self._viewers:
            self._read_next()
        self._viewers[viewer] = None
        viewer.send(self._about + self._whole())

    def remove(self, viewer: SnapshotStream) -> None:
        """Send nothing more to a viewer; does nothing if it is not one."""
        self._viewers.pop(viewer, None)
        if not self._viewers and self._call is not None:
            self._call.cancel()
            self._call = None

    def stop(self) -> None:
        """End all streams, and accept no further ones."""
        self._stopped = True
        for viewer in list(self._viewers):
            viewer.end()

    def _read_next(self) -> None:
        """Read the metrics, and let them be read again later."""
        begin = self._clock.seconds()
        self._last = self._read()
        wait = max(INTERVAL, _SHARE * (self._clock.seconds() - begin))
        self._call = self._clock.callLater(wait, self._send_next)

    def _send_next(self) -> None:
        self._call = None
        before = self._last
        self._read_next()
        changed = {name: value for name, value in self._last.items() if before.get(name) != value}
        event = self._describe(changed)
        for viewer in list(self._viewers):
            if viewer.is_paused:
                viewer.is_behind = True
            elif viewer.is_behind:
                viewer.is_behind = False
                viewer.send(self._whole())
            else:
                viewer.send(event)

    def _whole(self) -> bytes:
        return self._describe(self._last)

    def _describe(self, series: Mapping[str, float]) -> bytes:
        return _event("snapshot", {"time": self._now(), "series": series})


@implementer(IPushProducer)
class SnapshotStream:
    """The response to one viewer."""

    def __init__(self, request: Any, snapshots: Snapshots) -> None:
        self._request = request
        self._snapshots = snapshots
        #: Whether the connection's buffer is full.
        self.is_paused = False
        #: Whether it has missed a snapshot.
        self.is_behind = False

    def start(self) -> None:
        """Send the headers, and the first snapshot."""
        request = self._request
        for name, value in STREAM_HEADERS.items():
            request.setHeader(name, value)
        request.registerProducer(self, True)
        request.notifyFinish().addErrback(lambda _: self._snapshots.remove(self))
        # The client has closed its side: nothing else could tell that it is gone.
        request.end_waiting = self.end
        self._snapshots.add(self)

    def send(self, data: bytes) -> None:
        """Write one event or several."""
        self._request.write(data)

    def end(self) -> None:
        """End the response; the browser comes back by itself."""
        self._snapshots.remove(self)
        self._request.unregisterProducer()
        self._request.finish()

    def pauseProducing(self) -> None:
        """Note that the connection's buffer is full."""
        self.is_paused = True

    def resumeProducing(self) -> None:
        """Note that there is room again."""
        self.is_paused = False

    def stopProducing(self) -> None:
        """Do nothing: the end of the request follows."""


class SnapshotResource(Resource):
    """Answers a GET with the stream."""

    isLeaf = True

    def __init__(self, snapshots: Snapshots) -> None:
        super().__init__()
        self._snapshots = snapshots

    def render(self, request: Any) -> int:
        """Start the stream, or refuse."""
        try:
            if request.method != b"OPTIONS":
                require_method(request, "GET")
                require_known(request)
                self._snapshots.require_room()
        except BadRequest as error:
            write_response(request, refuse(error))
            return NOT_DONE_YET
        if request.method == b"GET":
            SnapshotStream(request, self._snapshots).start()
        elif request.method == b"HEAD":
            write_response(request, Response(200, STREAM_HEADERS))
        else:
            write_response(request, Response(204, {"Allow": allowed_methods("GET")}))
        return NOT_DONE_YET


def _event(kind: str, value: Mapping[str, object]) -> bytes:
    return f"event: {kind}\ndata: {to_json(value)}\n\n".encode()
