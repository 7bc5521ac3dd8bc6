"""Messages of the Centrifuge client protocol in Protobuf, made from the schema when first needed.

The package protobuf is an extra: nothing else imports this module before a client may need it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from pushd.api.centrifuge.schema import MESSAGES, Field

_PACKAGE = "pushd.centrifuge"

_SCALARS = {
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
    "int32": FieldDescriptorProto.TYPE_INT32,
    "int64": FieldDescriptorProto.TYPE_INT64,
    "string": FieldDescriptorProto.TYPE_STRING,
    "uint32": FieldDescriptorProto.TYPE_UINT32,
    "uint64": FieldDescriptorProto.TYPE_UINT64,
}


def decode_command(data: bytes) -> dict[str, Any]:
    """Return the fields of a command that are set. Raises ValueError if it is malformed."""
    return _decode(_COMMAND(), data, "command is malformed")


def decode_emulation(data: bytes) -> dict[str, Any]:
    """Return the fields of a request with commands. Raises ValueError if it is malformed."""
    return _decode(_EMULATION(), data, "malformed Protobuf")


def encode_reply(reply: Mapping[str, Any]) -> bytes:
    """Return a reply as bytes."""
    message = _REPLY()
    _fill(message, reply)
    encoded: bytes = message.SerializeToString()
    return encoded


def _decode(message: Any, data: bytes, problem: str) -> dict[str, Any]:
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise ValueError(problem) from None
    return _read(message)


def _read(message: Any) -> dict[str, Any]:
    fields = {}
    for field, value in message.ListFields():
        if field.message_type is None:
            fields[field.name] = value
        elif field.message_type.GetOptions().map_entry:
            of_messages = field.message_type.fields_by_name["value"].message_type is not None
            fields[field.name] = {
                key: _read(one) if of_messages else one for key, one in value.items()
            }
        else:
            fields[field.name] = _read(value)
    return fields


def _fill(message: Any, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if isinstance(value, list):
            for one in value:
                _fill(getattr(message, name).add(), one)
        elif not isinstance(value, Mapping):
            setattr(message, name, value)
        elif _is_map(message, name):
            _fill_map(getattr(message, name), value)
        else:
            part = getattr(message, name)
            part.SetInParent()
            _fill(part, value)


def _is_map(message: Any, name: str) -> bool:
    field: FieldDescriptor = message.DESCRIPTOR.fields_by_name[name]
    return bool(field.message_type.GetOptions().map_entry)


def _fill_map(entries: Any, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            _fill(entries[key], value)
        else:
            entries[key] = value


def _describe(name: str, fields: Mapping[str, Field]) -> DescriptorProto:
    described = DescriptorProto(name=name)
    for field_name, field in fields.items():
        kind = field.kind
        if field.shape == "map":
            # Protobuf writes a map as a list of entries, each a message of its own.
            kind = f"{field_name.title().replace('_', '')}Entry"
            entry = described.nested_type.add(name=kind)
            entry.options.map_entry = True
            _add(entry, "key", Field(1, "string"), "string")
            _add(entry, "value", Field(2, field.kind), field.kind)
            kind = f"{name}.{kind}"
        _add(described, field_name, field, kind)
    return described


def _add(described: DescriptorProto, name: str, field: Field, kind: str) -> None:
    one = described.field.add(name=name, number=field.number)
    is_one = field.shape == "one"
    one.label = (
        FieldDescriptorProto.LABEL_OPTIONAL if is_one else FieldDescriptorProto.LABEL_REPEATED
    )
    if kind in _SCALARS:
        one.type = _SCALARS[kind]
    else:
        one.type = FieldDescriptorProto.TYPE_MESSAGE
        one.type_name = f".{_PACKAGE}.{kind}"


def _make(*names: str) -> list[Any]:
    """Return the classes of messages."""
    file = FileDescriptorProto(name="pushd/centrifuge.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in MESSAGES.items():
        file.message_type.append(_describe(name, fields))
    pool = DescriptorPool()
    pool.Add(file)
    return [GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in names]


_COMMAND, _REPLY, _EMULATION = _make("Command", "Reply", "EmulationRequest")
