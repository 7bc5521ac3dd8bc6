"""Presence over the API: what subscribers ask for, and the lists for polls and for operators."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from hashlib import blake2s
from typing import Any

from twisted.python.failure import Failure

from pushd.api.publish import read_topic
from pushd.api.resource import AsyncResource, read_argument, require_known
from pushd.errors import BadRequest, Unavailable
from pushd.protocols.http.response import Response, json_response
from pushd.protocols.json_format import presence_json
from pushd.topics.attendance import Attendances
from pushd.topics.presence import Notice, Presence, PresenceList, Watch

# How a client may name its connection. Without a dot, so that no name is one of the daemon's own.
_CLIENT = re.compile(r"[A-Za-z0-9_-]{1,64}")

# What asks who is present: 1, or in a poll the version of the last list.
_ASKED = "1"
_VERSION = re.compile(r"[0-9a-z]{1,16}")

_NO_PRESENCE = "topic has no presence: its rule must say presence = true"

# How the path of a topic's presence ends.
SUFFIX = "/presence"


class PresenceResource(AsyncResource):
    """``/presence?topic=NAME``, and ``/topics/NAME/presence``: who is present at a topic.

    :param name: the topic; if it is empty, that of the query.
    """

    async def answer(self, request: Any) -> Response:
        """List the subjects, or count them."""
        if self._name:
            require_known(request)
            topic = read_topic(self._name, "topic")
        else:
            require_known(request, "topic")
            topic = read_topic(read_argument(request, "topic") or "", "topic")
        if not self._state.attendances.has(topic):
            raise BadRequest(_NO_PRESENCE, "topic", 404)
        listed = await self._state.attendances.describe(topic)
        return json_response(200, {"topic": topic, **presence_json(listed)})


def require_presence(attendances: Attendances, topic: str, where: str) -> None:
    """Raise BadRequest if a topic has no presence."""
    if not attendances.has(topic):
        raise BadRequest(_NO_PRESENCE, where)


def read_client(request: Any) -> str | None:
    """Read how the client names its connection, or None if it does not. Raises BadRequest."""
    given = read_argument(request, "client")
    if given is not None and not _CLIENT.fullmatch(given):
        raise BadRequest("client must be 1 to 64 letters, digits and -_", "client")
    return given


def read_presence(request: Any, *, is_poll: bool) -> str | None:
    """Read whether a subscriber asks who is present: ``1``, or the version that a poll has.

    Returns None if it does not ask. Raises BadRequest.
    """
    given = read_argument(request, "presence")
    if given is None or given == _ASKED or (is_poll and _VERSION.fullmatch(given)):
        return given
    rest = ", or the version of the last list" if is_poll else ""
    raise BadRequest(f"presence must be {_ASKED}{rest}", "presence")


class PresencePoll:
    """The presence of the topics of one long poll.

    :param version: of the list that the client has; ``1`` for none.
    """

    def __init__(self, presence: Presence, topics: Sequence[str], version: str) -> None:
        self._presence = presence
        self._version = version
        self._lists: dict[str, PresenceList | None] = dict.fromkeys(topics)
        self._watches: list[Watch] = []
        self._pending = len(topics)
        self._changed: Callable[[], object] | None = None

    def start(self, changed: Callable[[], object]) -> None:
        """Read who is present.

        :param changed: called when that is known, and whenever it has changed.
        """
        self._changed = changed
        for topic in self._lists:
            self._watches.append(self._presence.watch(topic, self))
            self._presence.describe(topic).addCallbacks(self._described, self._not_described)

    def stop(self) -> None:
        """Watch no more."""
        self._changed = None
        while self._watches:
            self._watches.pop().cancel()

    @property
    def is_ready(self) -> bool:
        """Whether it is known who is present, or that it cannot be known now."""
        return not self._pending

    @property
    def is_news(self) -> bool:
        """Whether it is known, and is not what the client has."""
        version = self._current()
        return self.is_ready and version is not None and version != self._version

    @property
    def is_first(self) -> bool:
        """Whether the client has no list yet."""
        return self._version == _ASKED

    def json(self) -> dict[str, Any] | None:
        """Return the JSON of who is present, by topic; None if the client has it, or unknown."""
        version = self._current()
        known = {topic: one for topic, one in self._lists.items() if one is not None}
        # Counts come with each answer, as their version does not change.
        if version is None or (
            version == self._version and all(one.subjects is not None for one in known.values())
        ):
            return None
        lists = {topic: presence_json(one) for topic, one in known.items()}
        return {"version": version, "topics": lists}

    def notify(self, notice: Notice) -> bool:
        """Take note that something has changed."""
        for topic in {event.topic for event in notice.events}:
            self._lists[topic] = self._presence.known(topic)
        self._tell()
        return True

    def _described(self, listed: PresenceList) -> None:
        self._pending -= 1
        if self._lists[listed.topic] is None:
            self._lists[listed.topic] = listed
        self._tell()

    def _not_described(self, failure: Failure) -> None:
        failure.trap(Unavailable)
        self._pending -= 1
        self._tell()

    def _tell(self) -> None:
        if self._changed is not None and self.is_ready:
            self._changed()

    def _current(self) -> str | None:
        """Return the version of all lists together; None if none is known."""
        versions = [one.version for one in self._lists.values() if one is not None]
        if len(versions) <= 1:
            return versions[0] if versions else None
        return blake2s(" ".join(versions).encode(), digest_size=8).hexdigest()
