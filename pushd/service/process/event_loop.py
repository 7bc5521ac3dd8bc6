"""asyncio's event loop, if the reactor runs on one: its tasks, its errors, and its end."""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.schedule.asyncio_task import TaskFuture, make_task

_log = Logger(namespace="pushd.service")

#: Seconds that tasks which are left have for their end when the daemon stops.
TIMEOUT = 5


class EventLoopService(Service):
    """Lets tasks of asyncio's await Deferreds, logs their errors, and ends them at the stop.

    :param loop: asyncio's event loop, which the reactor runs on.
    """

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        loop.set_task_factory(make_task)
        loop.set_exception_handler(_log_error)

    def startService(self) -> None:
        """Say which loop it is."""
        super().startService()
        kind = type(self._loop)
        _log.info(
            "running on asyncio's event loop, {loop}: views can await what is asyncio's and what "
            "is Twisted's",
            event="event_loop",
            loop=f"{kind.__module__.partition('.')[0]}'s {kind.__name__.lstrip('_')}",
        )

    def stopService(self) -> Deferred[None]:
        """Cancel all tasks that are left but views, and wait for their ends, within TIMEOUT."""
        super().stopService()
        return Deferred.fromFuture(asyncio.Task(self._end_tasks(), loop=self._loop))

    async def _end_tasks(self) -> None:
        # Views that are left have had their grace.
        left = {
            task
            for task in asyncio.all_tasks() - {asyncio.current_task()}
            if not isinstance(task, TaskFuture)
        }
        for task in left:
            task.cancel()
        if left:
            _, still = await asyncio.wait(left, timeout=TIMEOUT)
            if still:
                _log.warn(
                    "{count} tasks of asyncio's ignore that they were cancelled, such as {task}",
                    event="tasks_left",
                    count=len(still),
                    task=repr(next(iter(still))),
                )
        await self._loop.shutdown_asyncgens()


def _log_error(loop: AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what asyncio reports: the exception of a task that nobody has asked for, for example."""
    error = context.get("exception")
    fields = {
        "report": context["message"],
        "task": repr(context.get("task") or context.get("future") or context.get("handle")),
    }
    if isinstance(error, BaseException):
        failure = Failure(error, type(error), error.__traceback__)
        line = "asyncio: {report} ({task})"
        _log.failure(line, failure=failure, event="task_failed", **fields)
    else:
        _log.error("asyncio: {report} ({task})", event="task_failed", **fields)
