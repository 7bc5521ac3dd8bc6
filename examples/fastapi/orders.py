"""Orders whose page shows their status live: FastAPI, with a topic for each order.

Run it in this folder:

    twistd -n pushd --asgi orders:app --web web

and open http://127.0.0.1:8080/ in two windows.
"""

from __future__ import annotations

import asyncio
from secrets import token_urlsafe

from fastapi import BackgroundTasks, FastAPI, HTTPException
from pydantic import BaseModel, Field

from pushd.asgi import last_id, publish

# What happens to each order, and how many seconds each step takes.
STEPS = ("paid", "packed", "shipped", "delivered")
PAUSE = 1.0

app = FastAPI(title="Orders")


class NewOrder(BaseModel):
    """What a customer asks for."""

    item: str = Field(min_length=1, max_length=100)


class Order(NewOrder):
    """An order. Its id cannot be guessed, as whoever knows it can read the order and its topic."""

    id: str = Field(default_factory=lambda: token_urlsafe(16))
    status: str = "received"


class Shown(BaseModel):
    """What a page shows, and the id after which it subscribes to the topic of the order."""

    order: Order
    after: str


# In a shop, this is a database.
orders: dict[str, Order] = {}


@app.post("/orders", status_code=201)
async def create(new: NewOrder, tasks: BackgroundTasks) -> Shown:
    """Take an order; what happens to it goes on in the background."""
    order = Order(item=new.item)
    orders[order.id] = order
    tasks.add_task(fulfil, order)
    return await show(order.id)


@app.get("/orders/{id}")
async def show(id: str) -> Shown:
    """Return an order.

    The last id comes first: what changes between the two is published after it, so that a page
    that subscribes there misses nothing.
    """
    if id not in orders:
        raise HTTPException(404, "no such order")
    after = await last_id(f"orders/{id}")
    return Shown(order=orders[id], after=after)


async def fulfil(order: Order) -> None:
    """Take an order through all its steps. In a shop, its staff and its machines do this."""
    for status in STEPS:
        await asyncio.sleep(PAUSE)
        await set_status(order, status)


async def set_status(order: Order, status: str) -> None:
    """Change the status of an order, and tell all pages that show it."""
    order.status = status
    await publish(f"orders/{order.id}", {"status": status})
