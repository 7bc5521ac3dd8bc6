"""Requests without a pause, each over a connection of its own, and what became of them."""

from __future__ import annotations

from threading import Event, Thread
from types import TracebackType

from tests.support.systemd_unit import CONTROL, PUBLIC, Unit, fetch, wait_until

# Clients at each port.
_CLIENTS = 4

# Requests that are answered before and after a restart.
_WARM = 50


def restart_under_load(unit: Unit) -> None:
    """Restart a service while clients send requests. Raises AssertionError if any is refused."""
    with Load() as load:
        wait_until(lambda: load.answered > _WARM, "load")
        unit.restart()
        answered = load.answered
        wait_until(lambda: load.answered > answered + _WARM, "load after the restart")
    assert "\n".join(load.failures) == ""


class Load:
    """A context manager: clients get a page from the public port and publish at the control port.

    A client sends its next request when the one before it is answered.
    """

    def __init__(self) -> None:
        #: How many requests were answered with 200.
        self.answered = 0
        #: What else became of requests.
        self.failures: list[str] = []
        self._over = Event()
        tasks = [(PUBLIC, "GET", b""), (f"{CONTROL}topics/load", "POST", b"load")]
        self._threads = [
            Thread(target=self._run, args=task) for task in tasks for _ in range(_CLIENTS)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, url: str, method: str, body: bytes) -> None:
        while not self._over.is_set():
            try:
                answer = fetch(url, method, body, "Connection: close")
            except (OSError, AssertionError) as error:
                self.failures.append(f"{method} {url}: {error!r}")
                continue
            if answer.status == 200:
                self.answered += 1
            else:
                self.failures.append(f"{method} {url}: {answer.status} {answer.body!r}")
