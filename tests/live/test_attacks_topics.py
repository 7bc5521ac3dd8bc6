"""Attacks on topics: over Redis, with tokens, and on the control port."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.attacked_daemon import MIB, control_url_of, run_daemon, url_of
from tests.live.raw_client import RawClient
from tests.support.daemon_process import DaemonProcess
from tests.support.keyring import SECRET, sign
from tests.support.redis_server import RedisServer

CONTROL = ("--control", "tcp:0:interface=127.0.0.1")

# An expiry in the year 2096.
NEVER = 4_000_000_000


@pytest.fixture(scope="module")
def redis_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """Run a daemon that keeps its topics in Redis and asks for tokens."""
    key: Path = tmp_path_factory.mktemp("keys") / "key"
    key.write_bytes(SECRET)
    with (
        RedisServer() as redis,
        run_daemon("--broker", redis.url, "--token-key", str(key), *CONTROL) as daemon,
    ):
        yield daemon


def test_malformed_subject(redis_daemon: DaemonProcess) -> None:
    """A token with half a surrogate pair is refused, and does not stop others from publishing."""
    good, bad = (
        sign({"sub": subject, "exp": NEVER, "publish": ["**"], "subscribe": ["**"]})
        for subject in ("ann", "\udc00")
    )
    with RawClient(url_of(redis_daemon)) as client:

        def publish(token: str, size: int) -> int:
            key = "Idempotency-Key: k"
            lines = f"Authorization: Bearer {token}", key, f"Content-Length: {size}"
            body = b"x" * size
            return client.request("/topics/a", *lines, method="POST", body=body).status

        # As much as may be on its way to Redis.
        assert {publish(bad, MIB) for _ in range(70)} == {401}
        assert client.request(f"/topics/a?wait=0&token={bad}").status == 401
        assert publish(good, 1) == 200
    with RawClient(control_url_of(redis_daemon)) as operator:
        assert operator.request("/connections").status == 200
