"""Chat on topics: the room is a topic, so nobody keeps a list of who is there.

Run it in this folder:

    twistd -n pushd --views chat_topics:views --web web

and open http://127.0.0.1:8080/chat/lobby/ in two windows. Any other name makes a room as well.
What is said in a room can be heard elsewhere, too, by whoever listens to its topic, and a program
may have its say:

    curl 'http://127.0.0.1:8080/topics/chat/lobby?wait=60'
    curl --data '{"name": "robot", "text": "hello"}' http://127.0.0.1:8081/topics/chat/lobby
"""

from __future__ import annotations

import json

from pushd.views import Page, Request, Response, Unavailable, accept_websocket, page

# How long a name and a message may be, in characters.
LONGEST_NAME = 30
LONGEST_TEXT = 1000

# What a speaker is told while the topics can't be reached: with --broker they are in a Redis.
NOT_HEARD = "may not have been heard; try again in a moment"


@accept_websocket
async def chat(request: Request) -> Page | Response | None:
    """Give the page, or let somebody into the room that the path names."""
    if not request.is_websocket():
        return page("chat.html")
    topic = f"chat/{request.parameters['room']}"
    name = request.query.get("name", "")[:LONGEST_NAME] or "somebody"
    try:
        await request.websocket.subscribe(topic)
    except ValueError as error:
        return Response(404, body=f"no room has this name: {error}")
    async for text in request.websocket:
        if isinstance(text, str):
            said = json.dumps({"name": name, "text": text[:LONGEST_TEXT]})
            try:
                await request.publish(topic, said)
            except Unavailable:
                request.websocket.send(json.dumps({"name": name, "event": NOT_HEARD}))
    return None


async def lobby(request: Request) -> Response:
    """Show people in."""
    return Response(302, {"Location": "/chat/lobby/"})


views = {"/": lobby, "/chat/<room>/": chat}
