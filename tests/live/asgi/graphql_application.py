"""A GraphQL subscription over the protocol graphql-transport-ws, with strawberry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import strawberry
from strawberry.asgi import GraphQL

stopped: list[int] = []


@strawberry.type
class Query:
    """What can be asked."""

    @strawberry.field
    def stopped(self) -> list[int]:
        """The subscriptions that have ended early."""
        return stopped


@strawberry.type
class Subscription:
    """What can be subscribed to."""

    @strawberry.subscription
    async def count(self, to: int) -> AsyncGenerator[int, None]:
        """Count."""
        try:
            for number in range(to):
                yield number
                await asyncio.sleep(0.01)
        except (asyncio.CancelledError, GeneratorExit):
            stopped.append(to)
            raise


application: GraphQL = GraphQL(strawberry.Schema(Query, subscription=Subscription))
