"""Chat: everybody in a room gets every message sent to it.

Run it in this folder:

    twistd -n pushd --views chat:views --web web

and open http://127.0.0.1:8080/chat/lobby/ in two windows. Any other name is a room, too.
"""

from __future__ import annotations

import json

from pushd.views import Page, Request, Response, WebSocket, accept_websocket, page

# The maximum length of a name and of a message, in characters.
MAX_NAME = 30
MAX_TEXT = 1000


class Rooms:
    """The members of each room. A room exists as long as it has members."""

    def __init__(self) -> None:
        self._rooms: dict[str, set[WebSocket]] = {}

    def __len__(self) -> int:
        return len(self._rooms)

    def enter(self, room: str, websocket: WebSocket) -> None:
        """Add a WebSocket to a room."""
        self._rooms.setdefault(room, set()).add(websocket)

    def leave(self, room: str, websocket: WebSocket) -> None:
        """Remove a WebSocket from a room."""
        self._rooms[room].remove(websocket)
        if not self._rooms[room]:
            del self._rooms[room]

    def send(self, room: str, **event: str) -> None:
        """Send to every WebSocket in a room."""
        message = json.dumps(event)
        for websocket in list(self._rooms.get(room, ())):
            # Not awaited, so that a slow browser does not delay the others.
            websocket.send(message)


rooms = Rooms()


@accept_websocket
async def chat(request: Request) -> Page | None:
    """Return the page, or join the room named in the path."""
    if not request.is_websocket():
        return page("chat.html")
    room = request.parameters["room"]
    name = request.query.get("name", "")[:MAX_NAME] or "anonymous"
    rooms.enter(room, request.websocket)
    try:
        rooms.send(room, name=name, event="enters")
        async for message in request.websocket:
            if isinstance(message, str):
                rooms.send(room, name=name, text=message[:MAX_TEXT])
    finally:
        rooms.leave(room, request.websocket)
        rooms.send(room, name=name, event="leaves")
    return None


async def lobby(request: Request) -> Response:
    """Redirect to the lobby."""
    return Response(302, {"Location": "/chat/lobby/"})


views = {"/": lobby, "/chat/<room>/": chat}
