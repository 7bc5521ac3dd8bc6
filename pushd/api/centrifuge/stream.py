"""A Centrifuge client over a response that is streamed: events, lines, or messages in Protobuf."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed

from pushd.access.closing import US, Closing, Ending
from pushd.api.centrifuge.codec import Codec
from pushd.api.centrifuge.codes import SLOW
from pushd.api.response_stream import ResponseStream, chunk
from pushd.protocols.cork import Cork
from pushd.protocols.websocket.send_queue import SendQueue
from pushd.protocols.websocket.socket import TopicSender

# Codes from here on are those of the protocol, and are told to its clients.
_FIRST_CODE = 3000

_NO_CLOSINGS: Mapping[Closing, Closing] = MappingProxyType({})


class Served(Protocol):
    """What serves the client of a stream, a ``Connection``."""

    def stop(self) -> None:
        """Forget everything: the conversation is over."""


class CentrifugeStream(ResponseStream):
    """The link to one client, and what writes to its connection.

    :param transport: ``sse`` or ``http_stream``.
    :param codec: frames what is sent.
    """

    window_bits = 0

    def __init__(
        self, request: Any, cork: Cork, max_buffered: int, transport: str, codec: Codec
    ) -> None:
        super().__init__(request, cork, max_buffered)
        self.transport = transport
        self._codec = codec
        #: Subscribers that wait for room to send.
        self.send_queue = SendQueue()
        #: What is told in place of closings of the daemon.
        self.closings = _NO_CLOSINGS
        self._sender: TopicSender | None = None
        # Ends subscriptions.
        self._end_topics: Callable[[Callable[[str], bool], Closing], int] | None = None
        self._served: Served | None = None

    def serve(self, served: Served) -> None:
        """Set what is stopped at the end."""
        self._served = served

    # What the connection of the client, and its subscribers, call

    @property
    def wire(self) -> CentrifugeStream:
        """Itself: it writes to the connection."""
        return self

    def is_closed(self) -> bool:
        """Whether the response is over."""
        return not self._open

    def attach(
        self, sender: TopicSender, end_topics: Callable[[Callable[[str], bool], Closing], int]
    ) -> None:
        """Have something send publications until the end.

        :param end_topics: takes the place of ``end_subscriptions``.
        """
        self._sender = sender
        self._end_topics = end_topics

    def push(self, payload: bytes, *, binary: bool) -> None:
        """Send one message, or abort the connection if too much waits."""
        if self.is_full():
            self._cut_off(SLOW)
            return
        data = self._codec.frame(payload)
        self.traffic.messages_out += 1
        self.traffic.bytes_out += len(data)
        self._buffer(data)

    def push_frames(self, frames: bytes) -> None:
        """Send messages that are complete, and have been counted."""
        self._buffer(frames)

    def is_full(self, more: int = 0) -> bool:
        """Whether more than ``--max-buffered`` waits to be sent, or would with ``more`` bytes."""
        return self._unsent() + more > self._max_buffered

    # What the connection and the daemon call

    def close_with(self, closing: Closing) -> Deferred[None]:
        """Tell the client why, and end the response. One that is too slow is cut off."""
        if self._open and self._sender is not None:
            self._sender.catch_up()
        if self._open:
            closing = self.closings.get(closing, closing)
            if closing.code == SLOW.code:
                self._cut_off(closing)
            else:
                self._end(closing)
        return succeed(None)

    def break_off(self, closing: Closing) -> None:
        """End the response at once; the log has the code of these clients."""
        super().break_off(self.closings.get(closing, closing))

    def end_subscriptions(self, matches: Callable[[str], bool], closing: Closing) -> int:
        """End the subscriptions to topics that match; return how many these are."""
        return 0 if self._end_topics is None else self._end_topics(matches, closing)

    def writing_deferred(self) -> None:
        """Leave fan-out groups: the kernel did not take all, and the rest must go first."""
        if self._sender is not None:
            self._sender.leave_group()

    def pauseProducing(self) -> None:
        """Note that the connection's buffer is full."""
        super().pauseProducing()
        self.send_queue.pause()

    def _end(self, closing: Closing) -> None:
        if closing.code >= _FIRST_CODE:
            told = {"code": closing.code, "reason": closing.reason}
            self.push(self._codec.write([{"push": {"disconnect": told}}]), binary=False)
        if self._open:
            self.ending = Ending(closing.code, US, closing.reason)
            self.end_waiting()

    def _resume(self) -> None:
        self.send_queue.resume()

    def _stop(self) -> None:
        super()._stop()
        # They refer to this stream, which would keep what is buffered until garbage is collected.
        sender, self._sender, self._end_topics = self._sender, None, None
        if sender is not None:
            sender.cancel()
            sender.stop()
        served, self._served = self._served, None
        if served is not None:
            served.stop()


def event(payload: bytes, window_bits: int) -> bytes:
    """Return a payload, which is one line, as an event (WHATWG HTML §9.2)."""
    return b"data: %b\n\n" % payload


def event_chunk(payload: bytes, window_bits: int) -> bytes:
    """Return the same as a chunk of HTTP/1.1."""
    return chunk(event(payload, 0))


def line(payload: bytes, window_bits: int) -> bytes:
    """Return a payload as a line."""
    return payload + b"\n"


def line_chunk(payload: bytes, window_bits: int) -> bytes:
    """Return the same as a chunk of HTTP/1.1."""
    return chunk(line(payload, 0))


def delimited(payload: bytes, window_bits: int) -> bytes:
    """Return a payload that says itself where it ends."""
    return payload


def delimited_chunk(payload: bytes, window_bits: int) -> bytes:
    """Return the same as a chunk of HTTP/1.1."""
    return chunk(payload)
