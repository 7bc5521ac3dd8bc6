"""Whether the daemon may have traffic, and if not, why."""

from __future__ import annotations

from collections.abc import Callable


class Readiness:
    """What a load balancer wants to know.

    :param checks: whom to ask beside: each gives why not, or None where all is well. One that
        speaks of a broker says here whether it can be reached.
    """

    def __init__(self, *checks: Callable[[], str | None]) -> None:
        self._checks = checks
        #: Whether the public door is open.
        self.listening = False
        #: Whether the daemon stops.
        self.draining = False

    def reason(self) -> str | None:
        """Why there should be no traffic; None if there may be."""
        if self.draining:
            return "draining"
        if not self.listening:
            return "not listening"
        return next((why for check in self._checks if (why := check()) is not None), None)
