"""Presence as Centrifuge clients know it: of connections, each with the user that it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from pushd.api.centrifuge.codec import Codec
from pushd.api.centrifuge.codes import ErrorCode
from pushd.api.centrifuge.link import Link
from pushd.errors import CommandRefused
from pushd.topics.presence import ConnectionChange, Notice, Presence, PresenceList, Present


def clients_of(listed: PresenceList, value: Callable[[Any], Any]) -> dict[str, dict[str, Any]]:
    """Return the connections of all subjects, by name; of one subject, a hundred at most.

    :param value: returns what is known of a client as the format has it.

    Raises CommandRefused if there are too many subjects to list.
    """
    if listed.subjects is None:
        raise CommandRefused(ErrorCode.LIMIT_EXCEEDED, "too many clients to list (--max-present)")
    return {
        connection: _info(present, connection, value)
        for present in listed.subjects
        for connection in present.connections
    }


def stats_of(listed: PresenceList) -> dict[str, int]:
    """Return the number of connections, and of subjects that have one.

    If there are too many subjects to list, those count that have left within five seconds.
    """
    users = listed.count
    if listed.subjects is not None:
        users = sum(1 for present in listed.subjects if present.count)
    return {"num_clients": listed.connections, "num_users": users}


class JoinLeaveWatcher:
    """Tells a client which connections join and leave a topic from now on.

    What happens while it has no room is not told.

    :param form: writes changes as frames.
    """

    __slots__ = ("_form", "_link", "_watch")

    def __init__(
        self,
        link: Link,
        form: Callable[[Sequence[ConnectionChange]], bytes],
        presence: Presence,
        topic: str,
    ) -> None:
        self._link = link
        self._form = form
        self._watch = presence.watch(topic, self, connections=True)

    def stop(self) -> None:
        """Tell nothing more."""
        self._watch.cancel()

    def notify(self, notice: Notice) -> bool:
        """Send changes, if there is room."""
        link = self._link
        if not link.is_closed() and not link.send_queue.paused:
            frames, wire = notice.render(self._form), link.wire
            wire.traffic.messages_out += len(notice.events)
            wire.traffic.bytes_out += len(frames)
            wire.push_frames(frames)
        return True


@cache
def changes_form(codec: Codec) -> Callable[[Sequence[ConnectionChange]], bytes]:
    """Return the format of changes that name their topic as the channel."""
    return _make_form(codec, None)


def changes_form_of(codec: Codec, channel: str) -> Callable[[Sequence[ConnectionChange]], bytes]:
    """Return the format of changes for a client that knows the topic by another name."""
    return _make_form(codec, channel)


def _make_form(codec: Codec, channel: str | None) -> Callable[[Sequence[ConnectionChange]], bytes]:
    def form(events: Sequence[ConnectionChange]) -> bytes:
        pushes = [
            {
                "push": {
                    "channel": channel or event.topic,
                    "join" if event.joined else "leave": {
                        "info": _info(event.present, event.connection, codec.value)
                    },
                }
            }
            for event in events
        ]
        # Not compressed, so that all connections take the same.
        return b"".join(codec.frame(codec.write([one])) for one in pushes)

    return form


def _info(present: Present, connection: str, value: Callable[[Any], Any]) -> dict[str, Any]:
    info: dict[str, Any] = {"user": present.subject or "", "client": connection}
    if present.info is not None:
        info["conn_info"] = value(present.info)
    return info
