"""The ASGI application of a Django site whose ``async def`` views serve WebSockets.

A handshake passes the middleware as a GET does, and reaches the view by its URL. What the decorated
view returns there is a ``Handshake``: the conversation itself begins when the middleware is done,
so that no middleware, and no thread of a synchronous one, waits for its end.

Pages have a ``ThreadSensitiveContext`` each, with a thread and connections to databases of its own.
Thousands of WebSockets have none: their synchronous code shares one thread, as in Channels.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import Any

import django
from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.core.handlers.exception import response_for_exception
from django.core.signals import request_started
from django.db import close_old_connections
from django.http import HttpResponse, HttpResponseBase
from django.urls import set_script_prefix

from pushd.django.async_websocket import AsyncWebSocket
from pushd.errors import NoMoreMessages
from pushd.gateways.asgi.scope import Application, Message, Receive, Scope, Send
from pushd.protocols.http.response import phrase_of


class Handshake(HttpResponse):
    """The response of a view that serves WebSockets, and has not been called yet.

    :param view: calls it.
    """

    def __init__(self, view: Callable[[], Awaitable[Any]]) -> None:
        super().__init__()
        self.view = view


def get_asgi_application() -> Application:
    """Set Django up, and return the application of the site, WebSockets included.

    It takes the place of ``django.core.asgi.get_asgi_application``.
    """
    django.setup(set_prefix=False)
    return WebSocketASGIHandler()


class WebSocketASGIHandler(ASGIHandler):
    """Serves WebSockets by the URLs of the site; HTTP is served as Django does it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request or a WebSocket."""
        if scope["type"] != "websocket":
            await super().__call__(scope, receive, send)
            return
        await receive()
        websocket = AsyncWebSocket(scope, receive, send)
        body = BytesIO()
        scheme = "https" if scope.get("scheme") == "wss" else "http"
        as_http = {**scope, "type": "http", "method": "GET", "scheme": scheme}
        set_script_prefix(get_script_prefix(scope))
        await request_started.asend(sender=type(self), scope=as_http)
        request, response = self.create_request(as_http, body)
        if request is not None:
            request.META["pushd.websocket"] = websocket
            response = await self.run_get_response(request)
        if not isinstance(response, Handshake):
            await self._refuse(response, scope, send)
            await sync_to_async(response.close)()
            return
        await sync_to_async(response.close)()
        websocket.headers = [
            (b"set-cookie", morsel.output(header="").strip().encode("latin-1"))
            for morsel in response.cookies.values()
        ]
        # With subprotocols on offer, the view chooses one.
        if not scope.get("subprotocols"):
            await websocket.accept()
        await self._converse(websocket, request, response, send)
        await sync_to_async(close_old_connections)()

    async def _converse(
        self, websocket: AsyncWebSocket, request: Any, handshake: Handshake, send: Send
    ) -> None:
        """Call the view; refuse the handshake with its response, if it is not accepted by then."""
        response: Any = handshake
        try:
            while isinstance(response, Handshake):  # Again, for a view that is decorated twice.
                response = await response.view()
        except NoMoreMessages:
            response = None
        except Exception as error:
            # Reports it as for a page: by the signal, and to the loggers.
            response = await sync_to_async(response_for_exception)(request, error)
            if response.status_code >= 500:
                raise
        if response is None:
            response = HttpResponse()
        if not websocket.opened:
            await self._refuse(response, request.scope, send)
        elif 400 <= response.status_code < 500:
            # As with --wsgi: see HandshakeResponse.
            await websocket.close(1008, phrase_of(response.status_code))

    async def _refuse(self, response: HttpResponseBase, scope: Scope, send: Send) -> None:
        """Refuse the handshake with a response; with 403 if the server knows no other way."""
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close"})
            return

        async def send_refusal(message: Message) -> None:
            await send({**message, "type": f"websocket.{message['type']}"})

        await self.send_response(response, send_refusal)
