"""A message that arrives in several frames: its payload so far, and what it costs to read."""

from __future__ import annotations

# Fragments that are free. From then on they must have this mean size in bytes, or most of the work
# would be spent on frame heads.
_FREE = 256
_MEAN_SIZE = 32


class FragmentedMessage:
    """A message that is assembled from fragments, and its share of the peer's rate."""

    __slots__ = ("_fragments", "_payload")

    def __init__(self) -> None:
        self._payload = bytearray()
        self._fragments = 0

    def add_fragment(self, total: int) -> bool:
        """Count a fragment; return False if there are too many that are too small.

        :param total: bytes of this fragment and of those before it.
        """
        self._fragments += 1
        return self._fragments <= _FREE or total >= self._fragments * _MEAN_SIZE

    def append(self, piece: bytes) -> None:
        """Append a piece of the payload: a list of small pieces would take far more memory."""
        self._payload += piece

    @property
    def payload(self) -> bytes:
        """The payload of all fragments that have arrived."""
        return bytes(self._payload)

    def cost(self, limit: int) -> int:
        """Return for how many messages this one counts against the peer's rate.

        Many fragments and many bytes, inflated ones above all, take more work than one message.

        :param limit: the most that its size alone may count for.
        """
        return 1 + (self._fragments >> 5) + min(len(self._payload) >> 16, limit)
