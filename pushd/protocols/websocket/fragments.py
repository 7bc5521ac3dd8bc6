"""A message that arrives in several frames: its payload so far, and what it costs to read."""

from __future__ import annotations

# Fragments that are free. From then on they must have this mean size in bytes, or most of the work
# would be spent on frame heads.
_FREE = 256
_MEAN_SIZE = 32


class FragmentedMessage:
    """A message that is assembled from fragments, and its share of the peer's rate.

    :param compressed: whether the fragments are compressed; they are kept as they arrive.
    """

    __slots__ = ("_fragments", "compressed", "received")

    def __init__(self, *, compressed: bool = False) -> None:
        #: The bytes of all fragments that have arrived.
        self.received = bytearray()
        self.compressed = compressed
        self._fragments = 0

    def add_fragment(self, total: int) -> bool:
        """Count a fragment; return False if there are too many that are too small.

        :param total: bytes of this fragment and of those before it.
        """
        self._fragments += 1
        return self._fragments <= _FREE or total >= self._fragments * _MEAN_SIZE

    def append(self, piece: bytes) -> None:
        """Append a piece of the payload: a list of small pieces would take far more memory."""
        self.received += piece

    def cost(self, size: int, limit: int) -> int:
        """Return for how many messages this one counts against the peer's rate.

        Many fragments and many bytes, inflated ones above all, take more work than one message.

        :param size: bytes of its payload, decompressed.
        :param limit: the most that its size alone may count for.
        """
        return 1 + (self._fragments >> 5) + min(size >> 16, limit)
