"""HTTP requests of the asyncio client."""

from __future__ import annotations

import asyncio
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pushd.aio.http import AsyncHttp
from pushd.errors import Refused
from pushd.testing import Daemon
from tests.support.loopback import Loopback


async def bearer() -> dict[str, str]:
    """Return the headers of a token."""
    return {"Authorization": "Bearer x"}


class AskTests(SynchronousTestCase):
    def test_request(self) -> None:
        """A path in the URL precedes all others, and the token is sent."""

        async def run() -> Any:
            async with asyncio.timeout(30), Loopback(daemon) as loopback:
                http = AsyncHttp(
                    f"{loopback.control}/base/", authorize=bearer, timeout=5, context=None
                )
                try:
                    await http.ask("GET", "/topics", {"a": "b c"})
                except Refused as refused:
                    self.assertEqual(refused.status, 404)
                await http.close()
                return loopback.heads

        with Daemon({}) as daemon:
            [head] = asyncio.run(run())
        self.assertIn("GET /base/topics?a=b+c HTTP", head)
        self.assertIn("authorization: bearer x", head.lower())

    def test_refused(self) -> None:
        """A refusal has the seconds after which another attempt may succeed."""

        async def run() -> Any:
            async with asyncio.timeout(30), Loopback(daemon) as loopback:
                loopback.canned = (
                    b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nlate"
                )
                http = AsyncHttp(loopback.url, authorize=bearer, timeout=5, context=None)
                caught = []
                for request in (http.ask("GET", "/x"), anext(http.stream("/x"))):
                    try:
                        await request
                    except Refused as refused:
                        caught.append(refused)
                await http.close()
                return caught

        with Daemon({}) as daemon:
            caught = asyncio.run(run())
        self.assertEqual([(one.status, one.retry_after) for one in caught], [(503, 7.0)] * 2)
        self.assertEqual(str(caught[0]), "late (503)")
