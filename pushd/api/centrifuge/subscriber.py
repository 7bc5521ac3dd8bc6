"""Subscriber that delivers a topic to a Centrifuge client over its WebSocket."""

from __future__ import annotations

from collections.abc import Callable

from pushd.protocols.websocket.subscriber import Socket, WebSocketSubscriber
from pushd.protocols.websocket.subscriptions import TopicSubscriber
from pushd.topics.fanout import Form
from pushd.topics.publication import Id


class CentrifugeSubscriber(TopicSubscriber):
    """Delivers one topic, each publication as a push.

    :param grouped: as for ``TopicSubscriber``.
    :param form: writes publications as frames.
    :param began: called with the id that the first publication follows, and whether nothing is
        missing since the one that was asked for.
    :param lost: called once a publication is missing; with whether the client keeps up.
    """

    __slots__ = ("_began", "_lost")

    def __init__(
        self,
        socket: Socket,
        grouped: dict[TopicSubscriber, None],
        form: Form,
        *,
        began: Callable[[Id, bool], object],
        lost: Callable[[bool], object],
    ) -> None:
        super().__init__(socket, grouped, format_json=False)
        self._form = form
        self._began = began
        self._lost = lost

    def subscribed(self, topic: str, id: Id, recovered: bool) -> None:
        """Tell that the subscription has begun."""
        began, self._began = self._began, _ignore
        began(id, recovered)
        WebSocketSubscriber.subscribed(self, topic, id, recovered)

    def subscription_lost(self) -> None:
        """Tell that it has ended."""
        self._lost(self.keeps_up())


def _ignore(id: Id, recovered: bool) -> None:
    """Stand for a callback that was called, so that what it refers to takes no memory."""
