"""Progress: a long job reports its progress to the browser.

Run it in this folder:

    twistd -n pushd --views progress:views --web web

and open http://127.0.0.1:8080/progress/
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import pbkdf2_hmac

from pushd.views import Page, Request, accept_websocket, page

# The length of the job: the number of steps, and of rounds in each step.
STEPS = 50
ROUNDS = 150_000


def stretch(word: str) -> Iterator[str]:
    """Derive a key from a word, which takes a long time; yield after every step."""
    key = word.encode()
    for _ in range(STEPS):
        key = pbkdf2_hmac("sha256", key, b"an example", ROUNDS)
        yield key.hex()


# A plain def runs in a thread, which the job may block. Once the browser has left, the next send
# ends the view, and the job with it.
@accept_websocket
def progress(request: Request) -> Page | None:
    """Return the page, or do the job for the word in the query and report every step."""
    if not request.is_websocket():
        return page("progress.html")
    for done, key in enumerate(stretch(request.query.get("word", "")), start=1):
        report = {"done": done, "of": STEPS, "key": key if done == STEPS else None}
        request.websocket.send(json.dumps(report))
    return None


views = {"/progress/": progress}
