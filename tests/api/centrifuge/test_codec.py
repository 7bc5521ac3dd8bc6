"""Commands and replies in JSON and in Protobuf."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.api.centrifuge.codec import (
    JsonCodec,
    ProtobufCodec,
    _delimit,
    _read_varint,
)


class CodecTests(SynchronousTestCase):
    """What conversations do not show."""

    def test_frames_of_bytes(self) -> None:
        """JSON may come in binary frames."""
        self.assertEqual(JsonCodec().read(b'{"id":1,"ping":{}}'), [{"id": 1, "ping": {}}])

    def test_long(self) -> None:
        """The length of a command or a reply may take several bytes."""
        codec = ProtobufCodec()
        written = codec.write([{"id": 1, "rpc": {"data": b"x" * 300}}])
        self.assertEqual(_read_varint(written, 0), (len(written) - 2, 2))
        command = b"\x08\x01\x62\x86\x01\x0a\x83\x01" + b"x" * 131
        self.assertEqual(codec.read(_delimit(command)), [{"id": 1, "send": {"data": b"x" * 131}}])

    def test_refresh_push(self) -> None:
        """A reply may have parts within parts, and lists."""
        codec = ProtobufCodec()
        publications = [{"data": b"a", "offset": 1, "tags": {"b": "c"}}]
        written = codec.write([{"id": 1, "subscribe": {"publications": publications}}])
        self.assertIn(b"\x0a\x01b\x12\x01c", written)
