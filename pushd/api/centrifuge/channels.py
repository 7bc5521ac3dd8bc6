"""The channels of one Centrifuge client: each is a topic that it subscribes to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from math import inf
from typing import Any

from twisted.internet.defer import DeferredLock

from pushd.access.closing import TOKEN_EXPIRED, Closing
from pushd.access.tokens import LEEWAY, Identity
from pushd.api.centrifuge.codec import Codec
from pushd.api.centrifuge.codes import (
    INSUFFICIENT_STATE,
    REVOKED,
    SERVER_UNSUBSCRIBED,
    SLOW,
    STATE_LOST,
    SUBSCRIPTION_EXPIRED,
    ErrorCode,
    Unsubscription,
)
from pushd.api.centrifuge.dependencies import CentrifugeDependencies
from pushd.api.centrifuge.link import Link
from pushd.api.centrifuge.presence import JoinLeaveWatcher, changes_form, changes_form_of
from pushd.api.centrifuge.subscriber import CentrifugeSubscriber
from pushd.api.centrifuge.tokens import lifetime, read_subscription_token, subject_of
from pushd.api.topic_access import Caller
from pushd.errors import BadRequest, BadToken, CommandRefused, Denied, TokenExpired
from pushd.protocols.websocket.subscriptions import WebSocketSubscriptions
from pushd.topics.attendance import Participant
from pushd.topics.cursor import LOST
from pushd.topics.publication import Id, Replay, check_topic

# A flag of a subscription: it is to fail if it cannot resume.
_REJECT_UNRECOVERED = 2

# How a client begins the name of the channel of its own user.
_PERSONAL = "#"


class Channel:
    """A channel of a client: asked for, then subscribed to.

    :param name: as the client knows it; ``topic`` is the topic.
    :param channels: those that it is one of.
    """

    __slots__ = (
        "_channels",
        "expires",
        "has_token",
        "identity",
        "name",
        "replied",
        "topic",
        "watcher",
    )

    def __init__(self, name: str, topic: str, channels: Channels) -> None:
        self.name = name
        self.topic = topic
        self._channels = channels
        #: With which identity the client subscribes; None if it has none.
        self.identity: Identity | None = None
        #: Whether a token of its own permits it, and when that expires.
        self.has_token = False
        self.expires = inf
        #: Whether the client knows that it has begun.
        self.replied = False
        #: Tells who joins and leaves, if the topic has presence.
        self.watcher: JoinLeaveWatcher | None = None

    def expire(self) -> None:
        """End the subscription, as the permission for it has ended."""
        self._channels.expire(self)

    def lost(self, keeps_up: bool) -> None:
        """End the subscription, as it lacks a publication.

        :param keeps_up: whether the client reads fast enough.
        """
        self._channels.lose(self, keeps_up)


class Channels:
    """The subscriptions of one client.

    Commands about one channel are carried out one after the other, as a client may unsubscribe
    before its subscription has begun.

    :param client: the name of the client's connection.
    :param send: sends a reply or a push.
    """

    __slots__ = (
        "_channels",
        "_client",
        "_codec",
        "_dependencies",
        "_link",
        "_locks",
        "_send",
        "_state",
        "_subscriptions",
        "caller",
    )

    def __init__(
        self,
        dependencies: CentrifugeDependencies,
        link: Link,
        codec: Codec,
        client: str,
        send: Callable[[Mapping[str, Any]], object],
    ) -> None:
        self._dependencies = dependencies
        self._state = dependencies.state
        self._link = link
        self._codec = codec
        self._client = client
        self._send = send
        #: The client as its request and its token identify it.
        self.caller = Caller()
        self._subscriptions = WebSocketSubscriptions(link, self._state.hub)
        # By name, those that are asked for among them.
        self._channels: dict[str, Channel] = {}
        self._locks: dict[str, DeferredLock] = {}
        link.attach(self._subscriptions, self._end_matching)
        self._state.connections.set_topics(link, self._channels)

    def stop(self) -> None:
        """Forget all channels: the conversation is over."""
        while self._channels:
            self._forget(next(iter(self._channels)))

    def topic_of(self, name: str) -> str:
        """Return the topic of a channel. Raises CommandRefused if there is none."""
        if name.startswith(_PERSONAL):
            user = subject_of(self.caller.identity)
            topic = self._dependencies.personal_topic(user)
            if topic is not None and name == f"{_PERSONAL}{user}":
                return topic
        try:
            return check_topic(name)
        except ValueError as error:
            raise CommandRefused(ErrorCode.UNKNOWN_CHANNEL, str(error)) from None

    @property
    def personal(self) -> list[str]:
        """The channel of the client's own user, if there is one."""
        user = subject_of(self.caller.identity)
        has_one = self._dependencies.personal_topic(user) is not None
        return [f"{_PERSONAL}{user}"] if has_one else []

    async def require(self, action: Any, name: str) -> str:
        """Return the topic of a channel if the client may act on it. Raises RequestRefused.

        A token for a channel permits all but publishing, as long as the client is subscribed.
        """
        topic, channel = self.topic_of(name), self._channels.get(name)
        if action != "publish" and channel is not None and channel.has_token:
            return topic
        await self._dependencies.access.authorize(self.caller, action, topic)
        return topic

    def info_of(self, name: str) -> dict[str, Any]:
        """Return what others may know of the client that publishes to a channel."""
        channel = self._channels.get(name)
        identity = self.caller.identity if channel is None else channel.identity
        info: dict[str, Any] = {"user": subject_of(identity), "client": self._client}
        if identity is not None and identity.info is not None:
            info["conn_info"] = identity.info
        return info

    # Commands

    async def subscribe(
        self, request: dict[str, Any], reply: Callable[[dict[str, Any]], object]
    ) -> None:
        """Subscribe to a channel.

        :param reply: called with the result, before the first publication.
        """
        name = request.get("channel", "")
        topic = self.topic_of(name)
        _refuse_others(request)
        async with self._turn(name):
            channel = self._add(name, topic)
            try:
                await self._permit(channel, request.get("token", ""))
                await self._begin(channel, request, reply)
            except BaseException:
                if self._channels.get(name) is channel:
                    self._forget(name)
                raise

    async def unsubscribe(self, request: dict[str, Any]) -> None:
        """Unsubscribe from a channel; do nothing if the client is not subscribed."""
        name = request.get("channel", "")
        async with self._turn(name):
            if name in self._channels:
                self._forget(name)

    async def refresh(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take a fresh token for a channel; return the result."""
        name = request.get("channel", "")
        if request.get("type"):
            raise CommandRefused(ErrorCode.NOT_AVAILABLE, "keys of a channel are not available")
        async with self._turn(name):
            channel = self._channels.get(name)
            if channel is None:
                raise CommandRefused(ErrorCode.BAD_REQUEST, "not subscribed to this channel")
            await self._permit(channel, request.get("token", ""))
            return lifetime(self._dependencies.authorizer, channel.expires)

    async def authorize_again(self) -> None:
        """End what the client may not subscribe to any more, as it has another token."""
        for channel in tuple(self._channels.values()):
            async with self._turn(channel.name):
                if channel.has_token or self._channels.get(channel.name) is not channel:
                    continue
                try:
                    await self._permit(channel, "")
                except (Denied, BadRequest) as refused:
                    self._end(channel, Unsubscription(REVOKED.code, refused.reason))

    # Subscriptions of the server

    async def prepare(
        self, names: list[str], positions: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, tuple[Id, dict[str, Any]]]:
        """Look where the subscriptions begin that a client has without asking for them.

        Returns for each the id after which it begins, and the result for the client.
        """
        prepared = {}
        for name in names:
            topic = self.topic_of(name)
            request = positions.get(name, {})
            channel = self._add(name, topic)
            channel.identity = self.caller.identity
            channel.has_token = True
            after = await self._position(topic, request)
            replay: Replay = await self._state.broker.replay(topic, after, 0)
            recovered = replay.recovered and after is not None
            result = self._result(channel, replay.id, recovered, was_recovering=after is not None)
            prepared[name] = replay.id, result
        return prepared

    def start(self, prepared: Mapping[str, tuple[Id, dict[str, Any]]]) -> None:
        """Begin these subscriptions; the client knows of them."""

        def began(id: Id, recovered: bool) -> None:
            if not recovered:
                self._link.close_with(STATE_LOST)

        for name, (after, _) in prepared.items():
            if self._link.is_closed():
                return
            channel = self._channels[name]
            channel.replied = True
            subscriber = self._subscribe(channel, after, began)
            self._attend(channel, subscriber)

    # What a channel calls

    def expire(self, channel: Channel) -> None:
        """End a subscription, as the permission for it has ended."""
        self._end(channel, SUBSCRIPTION_EXPIRED)

    def lose(self, channel: Channel, keeps_up: bool) -> None:
        """End a subscription that lacks a publication, so that the client begins it anew."""
        if not keeps_up:
            self._link.close_with(SLOW)
        elif channel.replied:
            self._end(channel, INSUFFICIENT_STATE)
        else:
            self._forget(channel.name)

    # Private

    @asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[None]:
        """Wait until no other command about a channel is under way."""
        lock = self._locks.setdefault(name, DeferredLock())
        await lock.acquire()
        try:
            yield
        finally:
            lock.release()
            if not lock.locked:
                self._locks.pop(name, None)
                if not self._locks:
                    self._locks.clear()  # Without it, Python keeps room for what was in it.

    def _add(self, name: str, topic: str) -> Channel:
        # It may know the topic of its user by two names.
        names = (name, topic, *(one for one in self.personal if self.topic_of(one) == topic))
        if not self._channels.keys().isdisjoint(names):
            raise CommandRefused(ErrorCode.ALREADY_SUBSCRIBED, "already subscribed")
        most = self._state.limits.max_topics
        if len(self._channels) >= most:
            line = f"a connection may have {most} channels at most (--max-topics)"
            raise CommandRefused(ErrorCode.LIMIT_EXCEEDED, line)
        channel = self._channels[name] = Channel(name, topic, self)
        return channel

    async def _permit(self, channel: Channel, token: str) -> None:
        """Find out whether and for how long the client may subscribe. Raises RequestRefused."""
        dependencies, own = self._dependencies, None
        if token:
            try:
                own = read_subscription_token(
                    dependencies.authorizer, token, channel.name, self.caller.identity
                )
            except TokenExpired as expired:
                raise CommandRefused(ErrorCode.TOKEN_EXPIRED, str(expired)) from None
            except BadToken as bad:
                raise CommandRefused(ErrorCode.PERMISSION_DENIED, str(bad)) from None
        identity = own
        if own is None or dependencies.access.needs("subscribe", channel.topic) in (
            "authorize",
            "nobody",
        ):
            allowed = dependencies.access.authorize(self.caller, "subscribe", channel.topic)
            identity = await allowed or own
        if self._channels.get(channel.name) is not channel or self._link.is_closed():
            raise _ended()
        channel.identity = identity
        channel.has_token = own is not None
        channel.expires = inf if own is None else own.expires
        connection = self._state.connections.find(self._link)
        if connection is not None and identity is not None and connection.subject is None:
            connection.subject = identity.subject or None
        ends = channel.expires + LEEWAY
        if identity is not None and identity is not own and identity.closing is not TOKEN_EXPIRED:
            ends = min(ends, dependencies.authorizer.end_of_connection(identity))
        if ends < inf:
            dependencies.expiries.start(channel, ends)
        else:  # It ends with the connection.
            dependencies.expiries.stop(channel)

    async def _position(self, topic: str, request: Mapping[str, Any]) -> Id | None:
        """Return the id after which a client resumes; None if it does not.

        Without an epoch, its offset is one of the current epoch.
        """
        if not request.get("recover"):
            return None
        epoch, offset = request.get("epoch", ""), request.get("offset", 0)
        if not epoch:
            replay: Replay = await self._state.broker.replay(topic, None, 0)
            return Id(replay.last.epoch, offset)
        try:
            return Id.parse(f"{epoch}:{offset}")
        except ValueError:
            return LOST

    async def _begin(
        self,
        channel: Channel,
        request: dict[str, Any],
        reply: Callable[[dict[str, Any]], object],
    ) -> None:
        """Subscribe to a channel, which the client may do."""
        after = await self._position(channel.topic, request)
        if self._channels.get(channel.name) is not channel or self._link.is_closed():
            raise _ended()
        refused: list[CommandRefused] = []

        def began(id: Id, recovered: bool) -> None:
            was_recovering = after is not None
            if was_recovering and not recovered and request.get("flag", 0) & _REJECT_UNRECOVERED:
                line = "unrecoverable position"
                refused.append(CommandRefused(ErrorCode.UNRECOVERABLE_POSITION, line))
                self._forget(channel.name)
                return
            channel.replied = True
            recovered = recovered and was_recovering
            reply(self._result(channel, id, recovered, was_recovering=was_recovering))

        subscriber = self._subscribe(channel, after, began)
        # It fires at the end, too.
        await subscriber.recovered
        if refused:
            raise refused[0]
        if not channel.replied:
            raise _ended()
        self._attend(channel, subscriber)

    def _subscribe(
        self, channel: Channel, after: Id | None, began: Callable[[Id, bool], object]
    ) -> CentrifugeSubscriber:
        bits = self._link.wire.window_bits
        is_alias = channel.name != channel.topic
        subscriber = CentrifugeSubscriber(
            self._link,
            self._subscriptions.grouped,
            self._codec.form_of(bits, channel.name) if is_alias else self._codec.form(bits),
            began=began,
            lost=channel.lost,
        )
        self._subscriptions.start(channel.topic, subscriber, after)
        return subscriber

    def _attend(self, channel: Channel, subscriber: CentrifugeSubscriber) -> None:
        """Take part in the presence of a channel, if it has that."""
        attendances, topic = self._state.attendances, channel.topic
        has_ended = self._channels.get(channel.name) is not channel or self._link.is_closed()
        if has_ended or not attendances.has(topic):
            return
        codec, name = self._codec, channel.name
        form = changes_form(codec) if name == topic else changes_form_of(codec, name)
        # First, as a client is told that it has joined itself.
        channel.watcher = JoinLeaveWatcher(self._link, form, attendances.presence, topic)
        participant = Participant(attendances, self._link, channel.identity, self._client)
        subscriber.attend(participant.join(topic))

    def _result(
        self, channel: Channel, id: Id, recovered: bool, *, was_recovering: bool
    ) -> dict[str, Any]:
        """Return the result of a subscription; what was missed is pushed after it."""
        result: dict[str, Any] = {
            "recoverable": True,
            "positioned": True,
            "epoch": id.epoch,
            "offset": id.offset,
            "recovered": recovered,
            "was_recovering": was_recovering,
            **lifetime(self._dependencies.authorizer, channel.expires),
        }
        # As in Protobuf, what is false is left out.
        return {key: value for key, value in result.items() if value is not False}

    def _end_matching(self, matches: Callable[[str], bool], closing: Closing) -> int:
        """End the subscriptions to topics that match, as a permission was revoked."""
        ended = [one for one in self._channels.values() if matches(one.topic)]
        for channel in ended:
            self._end(channel, REVOKED)
        return len(ended)

    def end(self, name: str) -> None:
        """End a subscription, if there is one, as an operator asks for it."""
        if name in self._channels:
            self._end(self._channels[name], SERVER_UNSUBSCRIBED)

    def _end(self, channel: Channel, why: Unsubscription) -> None:
        """End a subscription, and tell the client why.

        Does nothing if it has ended, as what was sent before has ended the connection.
        """
        if self._channels.get(channel.name) is not channel:
            return
        self._forget(channel.name)
        if channel.replied:
            pushed = {"code": why.code, "reason": why.reason}
            self._send({"push": {"channel": channel.name, "unsubscribe": pushed}})

    def _forget(self, name: str) -> None:
        channel = self._channels.pop(name)
        self._dependencies.expiries.stop(channel)
        self._subscriptions.unsubscribe(channel.topic)
        watcher, channel.watcher = channel.watcher, None
        if watcher is not None:
            watcher.stop()


def _refuse_others(request: dict[str, Any]) -> None:
    """Refuse a subscription of a kind that pushd does not have."""
    if request.get("type"):
        line = "map and shared poll subscriptions are not available"
        raise CommandRefused(ErrorCode.NOT_AVAILABLE, line)
    if "tf" in request:
        raise CommandRefused(ErrorCode.NOT_AVAILABLE, "filters by tags are not available")


def _ended() -> CommandRefused:
    return CommandRefused(ErrorCode.INTERNAL_ERROR, "subscription was ended", temporary=True)
