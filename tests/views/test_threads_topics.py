"""Topics in views that block: an end that comes while they wait."""

from __future__ import annotations

from threading import current_thread, main_thread
from typing import Any

from pushd.views.request import Request, require_websocket
from pushd.views.threads import BlockingScheduledPublication
from tests.listeners import TopicTestCase


class BlockingTests(TopicTestCase):
    """A view in a thread."""

    def test_end_while_it_begins(self) -> None:
        """A subscription that waits for room is over when the browser leaves; so is the view."""
        ids = self.publish_many("t", ["1", "2"])
        noted: list[Any] = []

        @require_websocket
        def view(request: Request) -> None:
            request.websocket.accept()
            request.websocket._websocket.writing_paused()
            try:
                noted.append(request.websocket.subscribe("t", ids[0]))
                noted.append(request.websocket.wait())
            finally:
                noted.append("over")

        self.start({"/view": view})
        ids = self.publish_many("t", ["1", "2"])
        browser = self.daemon.connect("/view")
        self.assertEqual(noted, [])
        browser.leave()
        self.assertEqual(noted, [False, None, "over"])

    def test_handle(self) -> None:
        """What a timed push gives is used from the view's thread, and works on the reactor's."""
        handles: list[BlockingScheduledPublication] = []
        noted: list[bool] = []

        def view(request: Request) -> None:
            push = request.publish("t", "x", every=1, count=3)
            cancel = push._push.cancel

            def note() -> None:
                noted.append(current_thread() is main_thread())
                cancel()

            push._push.cancel = note
            push.cancel()
            handles.append(push)

        self.start({"/view": view})
        self.daemon.get("/view")
        self.assertEqual((len(handles[0].id), handles[0].done, noted), (18, 1, [True]))
        self.assertEqual(self.control("GET", "/schedules").body, b'{"schedules":[]}\n')
