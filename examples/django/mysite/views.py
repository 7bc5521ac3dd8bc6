"""The views: plain functions; a WebSocket keeps the thread of its view until it is closed."""

from __future__ import annotations

import json
import time
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from pushd.django import accept_websocket, publish, require_websocket
from pushd.views import Unavailable

# The maximum length of a message, in characters.
MAX_TEXT = 1000

# Shown to the sender while the Redis of --broker cannot be reached.
NOT_DELIVERED = "Your message may not have been delivered. Try again in a moment."


def index(request: HttpRequest) -> HttpResponse:
    """Return the page, which then opens a WebSocket to ``/ticks/``."""
    return render(request, "index.html")


@require_websocket
def ticks(request: Any) -> None:
    """Wait for a message from the page, then push ten times, half a second apart."""
    request.websocket.wait()
    for number in range(10):
        request.websocket.send(f"service message: {number}")
        time.sleep(0.5)


@accept_websocket
def chat(request: Any, room: str) -> HttpResponse | None:
    """Join a room, which is a topic: each publication goes to every browser in the room.

    A POST publishes to the room as well, so a page can take part without a WebSocket.
    """
    topic = f"chat/{room}"
    if request.method == "POST":
        try:
            send(topic, "anonymous", request.POST.get("text", ""))
        except Unavailable as error:
            return HttpResponse(
                NOT_DELIVERED, status=503, headers={"Retry-After": error.retry_after}
            )
        return HttpResponse(status=204)
    if not request.is_websocket():
        return render(request, "chat.html", {"room": room})
    name = request.GET.get("name", "")[:30] or "anonymous"
    request.websocket.subscribe(topic)
    for message in request.websocket:
        if not message:
            break
        try:
            send(topic, name, message.decode())
        except Unavailable:
            request.websocket.send(json.dumps({"name": "The chat", "text": NOT_DELIVERED}))
    return None


def send(topic: str, name: str, text: str) -> None:
    """Publish a message. Any code of the site may do this, such as a signal or the admin."""
    publish(topic, json.dumps({"name": name, "text": text[:MAX_TEXT]}))
