"""Clients that speak Protobuf."""

from __future__ import annotations

import json

from pushd.api.centrifuge.codec import PROTOBUF
from pushd.topics.rules import Rule, Rules
from tests.support.centrifuge_client import PATH, CentrifugeTestCase, ProtobufClient
from tests.support.keyring import secret_keys, sign

PUBLIC = Rules([Rule(match="**", publish="anyone", subscribe="anyone")])


class ProtobufTests(CentrifugeTestCase):
    """Clients that speak Protobuf."""

    def setUp(self) -> None:
        """Let anyone publish."""
        self.start(rules=Rules([Rule(match="**", publish="anyone")]))

    def test_conversation(self) -> None:
        """Everything works as in JSON; the data are bytes."""
        client = self.connect_protobuf()
        self.assertEqual(client.browser.subprotocol, PROTOBUF)
        epoch = client.ask("subscribe", channel="a")["epoch"]
        other = self.connect()
        other.ask("subscribe", channel="a")
        for data in (b'{"x":1}', b"text", b"\xff\x00"):
            self.assertEqual(client.ask("publish", channel="a", data=data), {})
        pushes = client.pushes
        for push in pushes:
            self.assertEqual(len(push["pub"].pop("info")["client"]), 18)
        self.assertEqual(
            pushes,
            [
                {"channel": "a", "pub": {"data": b'{"x":1}', "offset": 1}},
                {"channel": "a", "pub": {"data": b"text", "offset": 2}},
                {"channel": "a", "pub": {"data": b"\xff\x00", "offset": 3}},
            ],
        )
        self.assertEqual([one["pub"]["data"] for one in other.pushes], [{"x": 1}, "text", "/wA="])
        self.assertEqual(client.error("publish", channel="a"), 107)
        since = {"epoch": epoch, "offset": 2}
        page = client.ask("history", channel="a", limit=-1, since=since)
        [last] = page["publications"]
        self.assertEqual((last["data"], last["offset"]), (b"\xff\x00", 3))
        self.daemon.advance(25)
        self.assertEqual(client.heard(), [{}])
        client.send({})
        self.daemon.advance(25)
        self.assertEqual(client.heard(), [{}])

    def test_metadata(self) -> None:
        """The info of the client that published is bytes of JSON; tags are strings."""
        self.start(rules=PUBLIC, token_keys=secret_keys())
        client = ProtobufClient(self.daemon.connect(PATH, subprotocols=[PROTOBUF]))
        client.connect(token=sign({"sub": "ann", "info": {"n": 1}}))
        client.ask("subscribe", channel="a")
        client.ask("publish", channel="a", data=b"x")
        body = json.dumps({"channel": "a", "data": 1, "tags": {"a": "é"}}).encode()
        self.control("POST", "/api/publish", body)
        info, tags = client.pushes
        self.assertEqual(info["pub"]["info"]["conn_info"], b'{"n":1}')
        self.assertEqual(info["pub"]["info"]["user"], "ann")
        self.assertEqual(tags["pub"]["tags"], {"a": "é"})

    def test_server_channels(self) -> None:
        """Maps are read and written."""
        self.start(token_keys=secret_keys(), centrifuge_personal="users/*")
        self.publish("users/ann", "x")
        client = ProtobufClient(self.daemon.connect(PATH, subprotocols=[PROTOBUF]))
        position = {"#ann": {"recover": True, "offset": 0}}
        request = {"token": sign({"sub": "ann"}), "subs": position, "headers": {"a": "b"}}
        self.assertTrue(client.connect(**request)["subs"]["#ann"]["recovered"])
        self.assertEqual(client.pushes[0]["pub"]["data"], b"x")

    def test_malformed(self) -> None:
        """A frame that cannot be read ends the connection."""
        for frame in ("{}", b"\x05a", b"\x02\xff\xff", b"\xff\xff\xff\xff\xff", b"\x80"):
            client = self.connect_protobuf()
            client.browser.send(frame)
            assert client.browser.closing is not None, frame
            self.assertEqual(client.browser.closing.code, 3501, frame)

    def test_unknown(self) -> None:
        """A command that is not known has no fields that are."""
        client = self.connect_protobuf()
        client.browser.send(b"\x05\x08\x09\xf2\x03\x00")
        self.assertEqual(client.reply(9)["error"]["code"], 104)
