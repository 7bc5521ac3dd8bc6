"""The pages, whose scripts open the WebSockets."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def index(request: HttpRequest) -> HttpResponse:
    """Ask for the name of a room."""
    return render(request, "chat/index.html")


def room(request: HttpRequest, room_name: str) -> HttpResponse:
    """Return the page of a room that is a group of Channels."""
    return render(request, "chat/room.html", {"room_name": room_name, "kind": "chat"})


def topic_room(request: HttpRequest, room_name: str) -> HttpResponse:
    """Return the page of a room that is a topic of pushd."""
    return render(request, "chat/room.html", {"room_name": room_name, "kind": "topic"})
