"""Messages whose fields are not what they should be."""

from __future__ import annotations

from tests.support.centrifuge_client import CentrifugeTestCase


class SchemaTests(CentrifugeTestCase):
    """What JSON may hold."""

    def test_malformed(self) -> None:
        """A frame that is no command ends the connection, with a reason that fits a frame."""
        for frame in (
            "x",
            "[1]",
            '{"id":-1}',
            '{"id":true}',
            '{"id":1,"subscribe":{"channel":1}}',
            '{"id":1,"subscribe":[]}',
            '{"id":1,"subscribe":{"recover":1}}',
            '{"id":1,"connect":{"headers":[]}}',
            '{"id":1,"publish":{"data":NaN}}',
            f'{{"id":{"1" * 5000}}}',
            "[" * 100_000,
            b"\xff",
            '{"ping":{}}',
        ):
            client = self.connect()
            client.browser.send(frame)
            assert client.browser.closing is not None, frame
            self.assertEqual(client.browser.closing.code, 3501, frame)
            self.assertTrue(client.browser.closing.reason.startswith("bad request: "))
