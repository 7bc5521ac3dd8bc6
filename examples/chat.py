"""Chat: everybody in a room hears what is said there.

Run it in this folder:

    twistd -n pushd --views chat:views --web web

and open http://127.0.0.1:8080/chat/lobby/ in two windows. Any other name makes a room as well.
"""

from __future__ import annotations

import json

from pushd.views import Page, Request, Response, WebSocket, accept_websocket, page

# How long a name and a message may be, in characters.
LONGEST_NAME = 30
LONGEST_TEXT = 1000


class Rooms:
    """Who is where. A room is there as long as somebody is in it."""

    def __init__(self) -> None:
        self._rooms: dict[str, set[WebSocket]] = {}

    def __len__(self) -> int:
        return len(self._rooms)

    def enter(self, room: str, websocket: WebSocket) -> None:
        """Let a browser hear what is said in a room."""
        self._rooms.setdefault(room, set()).add(websocket)

    def leave(self, room: str, websocket: WebSocket) -> None:
        """Let it hear no more."""
        self._rooms[room].remove(websocket)
        if not self._rooms[room]:
            del self._rooms[room]

    def say(self, room: str, **news: str) -> None:
        """Tell everybody in a room."""
        message = json.dumps(news)
        for websocket in list(self._rooms.get(room, ())):
            # Not awaited: nobody waits for a browser that is slow.
            websocket.send(message)


rooms = Rooms()


@accept_websocket
async def chat(request: Request) -> Page | None:
    """Give the page, or let somebody into the room that the path names."""
    if not request.is_websocket():
        return page("chat.html")
    room = request.parameters["room"]
    name = request.query.get("name", "")[:LONGEST_NAME] or "somebody"
    rooms.enter(room, request.websocket)
    try:
        rooms.say(room, name=name, event="enters")
        async for message in request.websocket:
            if isinstance(message, str):
                rooms.say(room, name=name, text=message[:LONGEST_TEXT])
    finally:
        rooms.leave(room, request.websocket)
        rooms.say(room, name=name, event="leaves")
    return None


async def lobby(request: Request) -> Response:
    """Show people in."""
    return Response(302, {"Location": "/chat/lobby/"})


views = {"/": lobby, "/chat/<room>/": chat}
