"""Progress: a long job tells the browser how far it is.

Run it in this folder:

    twistd -n pushd --views progress:views --web web

and open http://127.0.0.1:8080/progress/
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import pbkdf2_hmac

from pushd.views import Page, Request, accept_websocket, page

# How long the job is: so many steps, each of so many rounds.
STEPS = 50
ROUNDS = 150_000


def stretch(word: str) -> Iterator[str]:
    """Do something that takes long, step by step: make a key of a word."""
    key = word.encode()
    for _ in range(STEPS):
        key = pbkdf2_hmac("sha256", key, b"an example", ROUNDS)
        yield key.hex()


# A plain def runs in a thread, so the job may keep it as long as it likes. When the browser
# leaves, the next send ends the view, and the job with it.
@accept_websocket
def progress(request: Request) -> Page | None:
    """Give the page, or do the job for the word in the query and tell of each step."""
    if not request.is_websocket():
        return page("progress.html")
    for done, key in enumerate(stretch(request.query.get("word", "")), start=1):
        news = {"done": done, "of": STEPS, "key": key if done == STEPS else None}
        request.websocket.send(json.dumps(news))
    return None


views = {"/progress/": progress}
