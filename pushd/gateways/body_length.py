"""BodyLength: compares the body of a response with its Content-Length."""

from __future__ import annotations


class BodyLength:
    """Counts the bytes of a body.

    A body of another length would make the client misread the next response on the connection.

    :param length: the Content-Length in bytes; None without one.
    """

    def __init__(self, length: int | None) -> None:
        self.length = length
        self._given = 0

    def take(self, piece: bytes) -> bytes:
        """Return what may be sent of a piece: no more than was announced."""
        before = self._given
        self._given += len(piece)
        return piece if self.length is None else piece[: max(0, self.length - before)]

    def check(self, *, ended: bool = False) -> None:
        """Raise ValueError if the body is longer than announced, or has ended and is shorter."""
        if self.length is None or self._given == self.length:
            return
        if ended or self._given > self.length:
            raise ValueError(
                f"Content-Length is {self.length}, but the body has {self._given} bytes"
            )
