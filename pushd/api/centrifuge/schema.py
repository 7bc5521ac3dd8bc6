"""Messages of the Centrifuge client protocol: their fields, with the numbers that Protobuf uses.

Only what pushd reads or writes is listed. Protobuf and JSON clients may send further fields, which
are ignored, as both formats demand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pushd.protocols.json_format import is_encodable


class Field(NamedTuple):
    """One field of a message."""

    number: int
    #: A scalar type of Protobuf, or the name of a message. In JSON, ``bytes`` is any value.
    kind: str
    #: ``one``, ``many`` for a list, or ``map`` for an object with strings as keys.
    shape: str = "one"


# The least and the greatest value of each kind of integer.
_INTEGERS = {
    "int32": (-(1 << 31), (1 << 31) - 1),
    "int64": (-(1 << 63), (1 << 63) - 1),
    "uint32": (0, (1 << 32) - 1),
    "uint64": (0, (1 << 64) - 1),
}

#: All messages, by name.
MESSAGES: Mapping[str, Mapping[str, Field]] = {
    "Error": {
        "code": Field(1, "uint32"),
        "message": Field(2, "string"),
        "temporary": Field(3, "bool"),
    },
    "Command": {
        "id": Field(1, "uint32"),
        "connect": Field(4, "ConnectRequest"),
        "subscribe": Field(5, "SubscribeRequest"),
        "unsubscribe": Field(6, "ChannelRequest"),
        "publish": Field(7, "PublishRequest"),
        "presence": Field(8, "ChannelRequest"),
        "presence_stats": Field(9, "ChannelRequest"),
        "history": Field(10, "HistoryRequest"),
        "ping": Field(11, "Empty"),
        "send": Field(12, "Message"),
        "rpc": Field(13, "RPCRequest"),
        "refresh": Field(14, "RefreshRequest"),
        "sub_refresh": Field(15, "SubRefreshRequest"),
    },
    "Reply": {
        "id": Field(1, "uint32"),
        "error": Field(2, "Error"),
        "push": Field(4, "Push"),
        "connect": Field(5, "ConnectResult"),
        "subscribe": Field(6, "SubscribeResult"),
        "unsubscribe": Field(7, "Empty"),
        "publish": Field(8, "Empty"),
        "presence": Field(9, "PresenceResult"),
        "presence_stats": Field(10, "PresenceStatsResult"),
        "history": Field(11, "HistoryResult"),
        "ping": Field(12, "Empty"),
        "rpc": Field(13, "Message"),
        "refresh": Field(14, "RefreshResult"),
        "sub_refresh": Field(15, "SubRefreshResult"),
    },
    "Push": {
        "channel": Field(2, "string"),
        "pub": Field(4, "Publication"),
        "join": Field(5, "Presence"),
        "leave": Field(6, "Presence"),
        "unsubscribe": Field(7, "Unsubscribe"),
        "message": Field(8, "Message"),
        "subscribe": Field(9, "SubscribeResult"),
        "connect": Field(10, "ConnectResult"),
        "disconnect": Field(11, "Disconnect"),
        "refresh": Field(12, "Refresh"),
    },
    "Empty": {},
    "Message": {"data": Field(1, "bytes")},
    "ChannelRequest": {"channel": Field(1, "string")},
    "ClientInfo": {
        "user": Field(1, "string"),
        "client": Field(2, "string"),
        "conn_info": Field(3, "bytes"),
        "chan_info": Field(4, "bytes"),
    },
    "Publication": {
        "data": Field(4, "bytes"),
        "info": Field(5, "ClientInfo"),
        "offset": Field(6, "uint64"),
        "tags": Field(7, "string", "map"),
    },
    "Presence": {"info": Field(1, "ClientInfo")},
    "Unsubscribe": {"code": Field(2, "uint32"), "reason": Field(3, "string")},
    "Disconnect": {
        "code": Field(1, "uint32"),
        "reason": Field(2, "string"),
        "reconnect": Field(3, "bool"),
    },
    "Refresh": {"expires": Field(1, "bool"), "ttl": Field(2, "uint32")},
    "ConnectRequest": {
        "token": Field(1, "string"),
        "data": Field(2, "bytes"),
        "subs": Field(3, "SubscribeRequest", "map"),
        "name": Field(4, "string"),
        "version": Field(5, "string"),
        "headers": Field(6, "string", "map"),
    },
    "ConnectResult": {
        "client": Field(1, "string"),
        "version": Field(2, "string"),
        "expires": Field(3, "bool"),
        "ttl": Field(4, "uint32"),
        "data": Field(5, "bytes"),
        "subs": Field(6, "SubscribeResult", "map"),
        "ping": Field(7, "uint32"),
        "pong": Field(8, "bool"),
        "session": Field(9, "string"),
        "node": Field(10, "string"),
    },
    "RefreshRequest": {"token": Field(1, "string")},
    "RefreshResult": {
        "client": Field(1, "string"),
        "version": Field(2, "string"),
        "expires": Field(3, "bool"),
        "ttl": Field(4, "uint32"),
    },
    "SubscribeRequest": {
        "channel": Field(1, "string"),
        "token": Field(2, "string"),
        "recover": Field(3, "bool"),
        "epoch": Field(6, "string"),
        "offset": Field(7, "uint64"),
        "data": Field(8, "bytes"),
        "positioned": Field(9, "bool"),
        "recoverable": Field(10, "bool"),
        "join_leave": Field(11, "bool"),
        "delta": Field(12, "string"),
        "tf": Field(13, "FilterNode"),
        "flag": Field(14, "int64"),
        "type": Field(15, "int32"),
    },
    "FilterNode": {"op": Field(1, "string")},
    "SubscribeResult": {
        "expires": Field(1, "bool"),
        "ttl": Field(2, "uint32"),
        "recoverable": Field(3, "bool"),
        "epoch": Field(6, "string"),
        "publications": Field(7, "Publication", "many"),
        "recovered": Field(8, "bool"),
        "offset": Field(9, "uint64"),
        "positioned": Field(10, "bool"),
        "data": Field(11, "bytes"),
        "was_recovering": Field(12, "bool"),
        "delta": Field(13, "bool"),
    },
    "SubRefreshRequest": {
        "channel": Field(1, "string"),
        "token": Field(2, "string"),
        "type": Field(3, "int32"),
    },
    "SubRefreshResult": {"expires": Field(1, "bool"), "ttl": Field(2, "uint32")},
    "PublishRequest": {
        "channel": Field(1, "string"),
        "data": Field(2, "bytes"),
        "type": Field(3, "int32"),
    },
    "PresenceResult": {"presence": Field(1, "ClientInfo", "map")},
    "PresenceStatsResult": {"num_clients": Field(1, "uint32"), "num_users": Field(2, "uint32")},
    "StreamPosition": {"offset": Field(1, "uint64"), "epoch": Field(2, "string")},
    "HistoryRequest": {
        "channel": Field(1, "string"),
        "limit": Field(7, "int32"),
        "since": Field(8, "StreamPosition"),
        "reverse": Field(9, "bool"),
    },
    "HistoryResult": {
        "publications": Field(1, "Publication", "many"),
        "epoch": Field(2, "string"),
        "offset": Field(3, "uint64"),
    },
    "EmulationRequest": {
        "node": Field(1, "string"),
        "session": Field(2, "string"),
        "data": Field(3, "bytes"),
    },
    "RPCRequest": {"data": Field(1, "bytes"), "method": Field(2, "string")},
}


def read_message(
    name: str, value: Any, messages: Mapping[str, Mapping[str, Field]] = MESSAGES
) -> dict[str, Any]:
    """Return the known fields of a message that was parsed as JSON.

    Those that are null are left out, except for data, which may be null.

    Raises ValueError for a value of another type than its field has.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object")
    return {
        key: _read_field(key, field, value[key], messages)
        for key, field in messages[name].items()
        if value.get(key) is not None or (field.kind == "bytes" and key in value)
    }


def _read_field(
    name: str, field: Field, value: Any, messages: Mapping[str, Mapping[str, Field]]
) -> Any:
    if field.shape == "map":
        if not isinstance(value, dict) or not all(map(is_encodable, value)):
            raise ValueError(f"{name} must be an object")
        return {key: _read_value(name, field.kind, one, messages) for key, one in value.items()}
    if field.shape == "many":
        if not isinstance(value, list):
            raise ValueError(f"{name} must be a list")
        return [_read_value(name, field.kind, one, messages) for one in value]
    return _read_value(name, field.kind, value, messages)


def _read_value(
    name: str, kind: str, value: Any, messages: Mapping[str, Mapping[str, Field]]
) -> Any:
    if kind in _INTEGERS:
        least, most = _INTEGERS[kind]
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"{name} must be an integer from {least} to {most}")
    elif kind == "string":
        if not isinstance(value, str) or not is_encodable(value):
            raise ValueError(f"{name} must be a string")
    elif kind == "bool":
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false")
    elif kind != "bytes":
        return read_message(kind, value, messages)
    return value
