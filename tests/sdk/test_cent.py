"""PyPI's cent, with which servers call the HTTP API: sync and async."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from cent import (
    AsyncClient,
    BatchRequest,
    BroadcastRequest,
    CentApiResponseError,
    CentUnauthorizedError,
    ChannelsRequest,
    Client,
    DisconnectRequest,
    HistoryRemoveRequest,
    HistoryRequest,
    InfoRequest,
    PresenceRequest,
    PresenceStatsRequest,
    PublishRequest,
    RefreshRequest,
    StreamPosition,
    UnsubscribeRequest,
)

from tests.sdk.daemon import API_KEY, SdkDaemon


def test_sync(tmp_path: Path) -> None:
    """Each method that is supported works."""
    with SdkDaemon(tmp_path) as daemon:
        client: Any = Client(daemon.api, API_KEY)
        first = client.publish(PublishRequest(channel="news", data={"text": "é"}))
        assert (first.offset, bool(first.epoch)) == (1, True)
        again = PublishRequest(channel="news", data=2, idempotency_key="two")
        assert client.publish(again) == client.publish(again)
        answers = client.broadcast(BroadcastRequest(channels=["news", "a b"], data=3)).responses
        assert (answers[0].result.offset, answers[1].error.code) == (3, 107)
        page = client.history(HistoryRequest(channel="news", limit=2, reverse=True))
        assert [one.data for one in page.publications] == [3, 2]
        since = StreamPosition(offset=1, epoch=page.epoch)
        page = client.history(HistoryRequest(channel="news", limit=1, since=since))
        assert [one.offset for one in page.publications] == [2]
        client.history_remove(HistoryRemoveRequest(channel="news"))
        assert not client.history(HistoryRequest(channel="news", limit=-1)).publications
        assert client.presence(PresenceRequest(channel="news")).presence == {}
        assert client.presence_stats(PresenceStatsRequest(channel="news")).num_clients == 0
        assert client.channels(ChannelsRequest(pattern="*")).channels == {}
        client.disconnect(DisconnectRequest(user="ann"))
        client.unsubscribe(UnsubscribeRequest(user="ann", channel="news"))
        client.refresh(RefreshRequest(user="ann", expired=True))
        assert client.info(InfoRequest()).nodes[0].name == "pushd"
        batch = BatchRequest(
            requests=[
                PublishRequest(channel="news", data=4),
                PresenceStatsRequest(channel="news"),
            ]
        )
        assert client.batch(batch).replies[0].offset == 4
        with pytest.raises(CentApiResponseError) as caught:
            client.presence(PresenceRequest(channel="private/x"))
        assert caught.value.code == 108
        with pytest.raises(CentUnauthorizedError):
            Client(daemon.api, "wrong").info(InfoRequest())


def test_async(tmp_path: Path) -> None:
    """The asynchronous client works as well."""

    async def call(daemon: SdkDaemon) -> None:
        async with AsyncClient(daemon.api, API_KEY) as client:
            result = await client.publish(PublishRequest(channel="news", data=1))
            assert result.offset == 1
            stats = await client.presence_stats(PresenceStatsRequest(channel="news"))
            assert stats.num_clients == 0

    with SdkDaemon(tmp_path) as daemon:
        asyncio.run(call(daemon))
