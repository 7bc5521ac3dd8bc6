"""Chat on topics: each room is a topic, so there is no list of members to maintain.

Run it in this folder:

    twistd -n pushd --views chat_topics:views --web web

and open http://127.0.0.1:8080/chat/lobby/ in two windows. Any other name is a room, too.
Any other client can subscribe to the topic of a room, and a program can publish to it:

    curl 'http://127.0.0.1:8080/topics/chat/lobby?wait=60'
    curl --data '{"name": "robot", "text": "hello"}' http://127.0.0.1:8081/topics/chat/lobby
"""

from __future__ import annotations

import json

from pushd.views import Page, Request, Response, Unavailable, accept_websocket, page

# The maximum length of a name and of a message, in characters.
MAX_NAME = 30
MAX_TEXT = 1000

# Shown to the sender, after its name, while the Redis of --broker cannot be reached.
NOT_HEARD = "may not have been heard; try again in a moment"


@accept_websocket
async def chat(request: Request) -> Page | Response | None:
    """Return the page, or join the room named in the path."""
    if not request.is_websocket():
        return page("chat.html")
    topic = f"chat/{request.parameters['room']}"
    name = request.query.get("name", "")[:MAX_NAME] or "anonymous"
    try:
        await request.websocket.subscribe(topic)
    except ValueError as error:
        return Response(404, body=f"no room has this name: {error}")
    async for text in request.websocket:
        if isinstance(text, str):
            message = json.dumps({"name": name, "text": text[:MAX_TEXT]})
            try:
                await request.publish(topic, message)
            except Unavailable:
                request.websocket.send(json.dumps({"name": name, "event": NOT_HEARD}))
    return None


async def lobby(request: Request) -> Response:
    """Redirect to the lobby."""
    return Response(302, {"Location": "/chat/lobby/"})


views = {"/": lobby, "/chat/<room>/": chat}
