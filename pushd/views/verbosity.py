"""How much the log wants to hear, for those to whom it costs something to say it."""

from __future__ import annotations


class Verbosity:
    """Which lines are read by somebody: all, as long as nobody says otherwise.

    An event that is said to Twisted's log goes to every observer, and each of them finds out that
    it is not to be written. Who has something to say for every message asks here first.
    """

    __slots__ = ("_told", "debug")

    def __init__(self) -> None:
        self._told: dict[object, bool] = {}
        #: Whether those for debugging are.
        self.debug = True

    def tell(self, who: object, *, debug: bool) -> None:
        """Say what somebody reads by whose style the log is written; what any of them does, is."""
        self._told[who] = debug
        self.debug = any(self._told.values())


#: That of this process's log.
VERBOSITY = Verbosity()
