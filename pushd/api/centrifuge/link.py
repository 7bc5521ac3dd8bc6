"""What a Centrifuge client is connected by, as the parts that serve it need that."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Protocol

from pushd.access.closing import Closing
from pushd.protocols.websocket.send_queue import SendQueue
from pushd.protocols.websocket.socket import TopicSender
from pushd.protocols.websocket.subscriber import FrameWriter


class Link(Hashable, Protocol):
    """A ``WebSocket``, or a response that is streamed."""

    #: What closes in place of closings of the daemon.
    closings: Mapping[Closing, Closing]

    @property
    def transport(self) -> str:
        """The name of its transport, for the metrics and the log."""

    @property
    def wire(self) -> FrameWriter:
        """What writes to the connection, as long as there is one."""

    @property
    def send_queue(self) -> SendQueue:
        """What waits for room to send, and whether there is any."""

    def is_closed(self) -> bool:
        """Whether one side has closed, or the connection is lost."""

    def close_with(self, closing: Closing) -> Any:
        """Close, and tell the client why."""

    def end_subscriptions(self, matches: Callable[[str], bool], closing: Closing) -> int:
        """End the subscriptions to topics that match; return how many these are."""

    def attach(
        self, sender: TopicSender, end_topics: Callable[[Callable[[str], bool], Closing], int]
    ) -> None:
        """Have something send publications until the end.

        :param end_topics: takes the place of ``end_subscriptions``.
        """
