"""The switch for fast paths: code that relies on private names of Twisted, Autobahn or pyOpenSSL.

Fast paths stand in three modules: ``service/process/reactor``, ``protocols/twisted_internals`` and
``protocols/websocket/protocol``. Each asks here whether it may be taken. If the installed version
of a library lacks a name that it relies on, the public way is taken, and the log says so once. A
private name that has no public way is a requirement: if it is missing, the log says so as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from twisted.logger import Logger

_log = Logger(namespace="pushd.protocols")


def missing(owner: object, names: Iterable[str]) -> list[str]:
    """Return those of the names that an object, or the instances of a class, do not have."""
    place = getattr(owner, "__name__", type(owner).__name__)
    return [f"{place}.{name}" for name in names if not hasattr(owner, name)]


class FastPaths:
    """Decides whether the fast paths of this process may be taken (``--fast-paths``)."""

    def __init__(self, *, enabled: bool = True) -> None:
        #: False for ``--fast-paths off``: every fast path falls back to the public way.
        self.enabled = enabled
        self._reported: set[str] = set()

    def allow(self, path: str, lacking: Collection[str] = ()) -> bool:
        """Return whether a fast path may be taken.

        :param path: its name in the log, such as ``direct writes``.
        :param lacking: what it relies on and does not find, such as ``Server.dataBuffer``. The log
            names it once for each path.
        """
        if not self.enabled:
            return False
        if lacking:
            self._report(
                path,
                lacking,
                "fast path {path} is off: the installed version of its library lacks {lacking}",
                event="fast_path_off",
            )
        return not lacking

    def require(self, feature: str, lacking: Collection[str]) -> None:
        """Report what is lacking of private names that have no public way, once.

        :param feature: what does not work without them, such as ``limits on unsent data``.
        """
        if lacking:
            self._report(
                feature,
                lacking,
                "{path} cannot be relied on: the installed version of its library lacks {lacking}",
                event="requirement_missing",
            )

    def _report(self, path: str, lacking: Collection[str], line: str, event: str) -> None:
        if path not in self._reported:
            self._reported.add(path)
            _log.warn(line, event=event, path=path, lacking=", ".join(sorted(lacking)))


#: The switch of this process: patches of a reactor or a class cannot be had for one daemon only.
FAST_PATHS = FastPaths()
