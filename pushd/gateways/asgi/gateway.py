"""AsgiGateway: serves an ASGI application, its pages and its WebSockets (ASGI 3.0)."""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop, Task
from collections.abc import Coroutine
from contextvars import copy_context
from functools import partial
from typing import Any

from twisted.internet import defer
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET

from pushd.gateways.asgi.extension import Topics
from pushd.gateways.asgi.http import HttpConversation
from pushd.gateways.asgi.lifespan import Lifespan
from pushd.gateways.asgi.scope import Application, Scope, http_scope, websocket_scope
from pushd.gateways.asgi.websocket import WebSocketConversation
from pushd.gateways.files import ApplicationFiles
from pushd.protocols.http.request import path_of
from pushd.protocols.http.response import write_failure
from pushd.protocols.websocket.socket import WebSocket
from pushd.schedule.asyncio_task import AsyncioTask
from pushd.views.decorators import Handshakes
from pushd.views.exchange import HandshakeResponse, ViewDependencies
from pushd.views.request import Request
from pushd.views.resource import ViewResource
from pushd.views.routes import Match

_log = Logger(namespace="pushd.gateways")

# The name of a parameter that no route can have: the path as the client sent it.
_RAW_PATH = "raw path"


class AsgiGateway:
    """Serves an application: finds what answers a request, and runs the application for it.

    :param root: the path at which a proxy mounts the application, which it removes from requests.
    :param loop: asyncio's event loop, on which the reactor runs.
    :param files: files that take precedence over the application's URLs.
    """

    def __init__(
        self,
        application: Application,
        views: ViewDependencies,
        *,
        root: str,
        loop: AbstractEventLoop,
        files: ApplicationFiles,
    ) -> None:
        self.application = application
        self.views = views
        self.root = root
        self.loop = loop
        self.lifespan = Lifespan(application, loop)
        self._topics = Topics(views.publisher, loop)
        self._files = files
        # What each call begins with. The reactor may run in the context of another call, whose task
        # has let reading go on: its variables are not for the next request on the connection.
        self._context = copy_context()
        self._view = WebSocketView(self)
        # The calls for HTTP requests that have not ended.
        self._calls: dict[HttpConversation, AsyncioTask] = {}
        self._settled: Deferred[None] | None = None
        self._stopping = False

    def find(self, request: Any, path: str) -> IResource:
        """Return the resource for a path that pushd itself does not serve."""
        file = self._files.find(request, path)
        if file is not None:
            return file
        if request.wants_websocket:
            match = Match(self._view, {_RAW_PATH: request.path}, Handshakes.ACCEPTED)
            return ViewResource(self.views, match, path)
        return ApplicationResource(self, path)

    def complete(self, scope: Scope, websocket: WebSocket | None = None) -> Scope:
        """Add what is not of the request: the application's state, and pushd's extension."""
        if self.lifespan.state is not None:
            # The same objects, in a dictionary of its own.
            scope["state"] = dict(self.lifespan.state)
        self._topics.extend(scope, websocket)
        return scope

    def call(self, http: Any, path: str) -> None:
        """Call the application for an HTTP request.

        It runs until it first has to wait: a page that need not wait is answered within the same
        iteration of the loop. A task of asyncio's begins in the next one, and ends in a third.
        """
        scope = self.complete(http_scope(http, path, self.root))
        conversation = HttpConversation(http, self.loop)
        run = conversation.run(self.application, scope)
        ended = partial(self._ended, http, conversation)
        # The call gets a copy of this context.
        call = self._context.run(AsyncioTask, run, self.views.clock, id, ended, loop=self.loop)
        self._calls[conversation] = call
        call.advance()

    def make_task(self, call: Coroutine[Any, Any, Any]) -> Task[Any]:
        """Run a call of the application in a task, with context variables of its own."""
        return self.loop.create_task(call, context=self._context.copy())

    def settled(self) -> Deferred[None]:
        """Return a Deferred that fires when no call for an HTTP request goes on."""
        self._settled = Deferred()
        settled = self._settled
        self._check_settled()
        return settled

    def stop(self) -> Deferred[Any]:
        """Cancel the calls that go on, and end the application; fires when all have ended."""
        self._stopping = True
        for call in tuple(self._calls.values()):
            call.cancel_now()
        return DeferredList([self.settled(), Deferred.fromFuture(self.lifespan.stop())])

    def _ended(self, http: Any, conversation: HttpConversation, result: object) -> None:
        """Answer 500, or break off, if the application failed."""
        del self._calls[conversation]
        self._check_settled()
        if not isinstance(result, Failure):
            return
        if not result.check(asyncio.CancelledError):
            if not (conversation.is_gone and result.check(OSError)):
                self._log_failure(http, result)
        elif not self._stopping:
            # The application has raised it by itself.
            self._log_failure(http, Failure(defer.CancelledError("it raised CancelledError")))
        if not (conversation.is_gone or http.finished):
            write_failure(http)

    def _log_failure(self, http: Any, failure: Failure) -> None:
        self.views.counters.view_errors.inc()
        _log.failure(
            "the application failed at {path} for {peer}",
            failure=failure,
            event="view_failed",
            path=path_of(http),
            peer=http.peer,
        )

    def _check_settled(self) -> None:
        if self._settled is not None and not self._calls:
            settled, self._settled = self._settled, None
            settled.callback(None)


class ApplicationResource(Resource):
    """An application at a URL, for requests over plain HTTP."""

    isLeaf = True

    def __init__(self, gateway: AsgiGateway, path: str) -> None:
        super().__init__()
        self._gateway = gateway
        self._path = path

    def render(self, request: Any) -> int:
        """Call the application."""
        self._gateway.call(request, self._path)
        return NOT_DONE_YET


class WebSocketView:
    """A view that calls the application for a WebSocket handshake."""

    def __init__(self, gateway: AsgiGateway) -> None:
        self._gateway = gateway
        # The log names the application, not this view.
        application = gateway.application
        self.__module__ = getattr(application, "__module__", type(application).__module__)
        self.__qualname__ = getattr(application, "__qualname__", type(application).__qualname__)

    def __call__(self, request: Request) -> Deferred[HandshakeResponse | None]:
        """Call the application, in a task of its own."""
        gateway = self._gateway
        scope = websocket_scope(request, request.parameters[_RAW_PATH], gateway.root)
        conversation = WebSocketConversation(request.websocket, gateway.loop)
        run = conversation.run(gateway.application, gateway.complete(scope, request.websocket))
        return TaskResult(gateway.make_task(run))


class TaskResult(Deferred[Any]):
    """Fires with the result of a task of asyncio's, and cancels it if it is cancelled itself.

    Unlike ``Deferred.fromFuture``, it does not fire until the task has ended, however often it is
    cancelled; and it fails with Twisted's CancelledError in place of asyncio's.
    """

    def __init__(self, task: Task[Any]) -> None:
        super().__init__()
        self._task = task
        task.add_done_callback(self._ended)

    def cancel(self) -> None:
        """Ask the task to end."""
        self._task.cancel()

    def _ended(self, task: Task[Any]) -> None:
        if task.cancelled():
            self.errback(defer.CancelledError("the task was cancelled"))
        elif error := task.exception():
            self.errback(Failure(error))
        else:
            self.callback(task.result())
