"""Memory whose address a driver may be given.

An `ioctl` that names buffers by address is made of one argument and some of these. They stay where
they are for as long as somebody holds them, so whoever calls holds them until the call returns.

Source: docs/spec/attesters.md 4.2, 12.1, 12.2, 12.3.
"""

import ctypes
import mmap
from typing import Final

PAGE_BYTES: Final = 4096


class Pages:
    """Whole pages of zeros, at the start of a page.

    Attributes:
        address: of the first byte.
        length: in bytes, a multiple of `PAGE_BYTES`.
    """

    __slots__ = ("_anchor", "_map", "address", "length")

    def __init__(self, length: int) -> None:
        """At least `length` bytes."""
        self.length: Final = max(1, -(-length // PAGE_BYTES)) * PAGE_BYTES
        self._map = mmap.mmap(-1, self.length)
        self._anchor = ctypes.c_char.from_buffer(self._map)
        self.address: Final = ctypes.addressof(self._anchor)

    def read(self, length: int, offset: int = 0) -> bytes:
        """Bytes that are there now; all of them must be inside."""
        assert 0 <= offset <= offset + length <= self.length
        return self._map[offset : offset + length]

    def write(self, data: bytes, offset: int = 0) -> None:
        """Put bytes there; all of them must fit."""
        assert 0 <= offset <= offset + len(data) <= self.length
        self._map[offset : offset + len(data)] = data
