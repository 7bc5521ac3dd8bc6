"""Which broker keeps the topics: this process, or a Redis."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pushd.topics.broker import Broker, MemoryBroker
from pushd.topics.history import History, Retention
from pushd.topics.redis.address import RedisAddress
from pushd.topics.redis.broker import RedisBroker


def check_redis(address: RedisAddress) -> None:
    """End the process if this Redis can't be used without somebody changing something."""
    try:
        from pushd.topics.redis.session import probe
    except ImportError as error:
        raise SystemExit(
            f"pushd: --broker {address}: pip install 'pushd[redis]' ({error})"
        ) from None
    if (reason := probe(address)) is not None:
        raise SystemExit(f"pushd: --broker {address}: {reason}")


def make_broker(
    address: RedisAddress | None, reactor: Any, retention: Retention, make_name: Callable[[], str]
) -> Broker:
    """Make the broker over this Redis, or the one in memory where there is none.

    :param retention: how much of the past is kept.
    :param make_name: gives a random name that nobody had before.
    """
    if address is None:
        return MemoryBroker(reactor, History(reactor, retention, make_name))
    # Not above: its library is an extra, and imports the global reactor.
    from pushd.topics.redis.session import open_session

    return RedisBroker(
        reactor,
        partial(open_session, reactor, address),
        name=str(address),
        db=address.db,
        retention=retention,
        make_name=make_name,
    )
