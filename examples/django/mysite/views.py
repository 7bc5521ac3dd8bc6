"""The views: plain functions, each in a thread, that talk as long as their browser listens."""

from __future__ import annotations

import json
import time
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from pushd.django import accept_websocket, publish, require_websocket
from pushd.views import Unavailable

# How long a message may be, in characters.
LONGEST_TEXT = 1000

# What a speaker is told while the topics can't be reached: with --broker they are in a Redis.
NOT_HEARD = "Nobody may have heard that. Try again in a moment."


def index(request: HttpRequest) -> HttpResponse:
    """Give the page, which asks for a WebSocket of its own."""
    return render(request, "index.html")


@require_websocket
def ticks(request: Any) -> None:
    """Wait until the page says something, then push ten times, half a second apart."""
    request.websocket.wait()
    for number in range(10):
        request.websocket.send(f"service message: {number}")
        time.sleep(0.5)


@accept_websocket
def chat(request: Any, room: str) -> HttpResponse | None:
    """Let somebody into a room, which is a topic: all who are there hear what is published.

    What is posted here is said there as well, so a page needs no WebSocket to have its say.
    """
    topic = f"chat/{room}"
    if request.method == "POST":
        try:
            say(topic, "somebody", request.POST.get("text", ""))
        except Unavailable as error:
            return HttpResponse(NOT_HEARD, status=503, headers={"Retry-After": error.retry_after})
        return HttpResponse(status=204)
    if not request.is_websocket():
        return render(request, "chat.html", {"room": room})
    name = request.GET.get("name", "")[:30] or "somebody"
    request.websocket.subscribe(topic)
    for message in request.websocket:
        if not message:
            break
        try:
            say(topic, name, message.decode())
        except Unavailable:
            request.websocket.send(json.dumps({"name": "The chat", "text": NOT_HEARD}))
    return None


def say(topic: str, name: str, text: str) -> None:
    """Publish what somebody says. This works in any code of the site: in signals, in the admin."""
    publish(topic, json.dumps({"name": name, "text": text[:LONGEST_TEXT]}))
