"""DER as CMS messages need it: one value after the other, nothing interpreted. Sans-I/O.

Source: docs/spec/ocicrypt.md §9.2; ITU-T X.690 sections 8.1 and 10.
"""

from typing import Final

from guest.errors import DecodeError

INTEGER: Final = 0x02
OCTET_STRING: Final = 0x04
OID: Final = 0x06
SEQUENCE: Final = 0x30
SET: Final = 0x31
BARE_SEQUENCE: Final = 0x10
"""A SEQUENCE that does not say that it is constructed, as ocicrypt writes one."""

CONTEXT_0: Final = 0xA0
BARE_CONTEXT_0: Final = 0x80
CONTEXT_4: Final = 0x84


class DerReader:
    """The values of one constructed value, in order."""

    def __init__(self, data: bytes) -> None:
        """Read `data` from its beginning."""
        self._data = data
        self._at = 0

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return self._at == len(self._data)

    def peek(self) -> int:
        """The next value's tag; 0 where there is none."""
        return 0 if self.is_done else self._data[self._at]

    def read(self, *tags: int) -> bytes:
        """The content of the next value, which has one of these tags; any tag if none is named.

        Raises:
            DecodeError: another tag, a length that is not DER's, or the data ends.
        """
        start = self._at
        if start + 2 > len(self._data):
            raise DecodeError("DER ends too early")
        tag, length = self._data[start], self._data[start + 1]
        if (tags and tag not in tags) or tag & 0x1F == 0x1F:
            raise DecodeError(f"DER has the tag 0x{tag:02x} at an unexpected place")
        at = start + 2
        if length & 0x80:
            count = length & 0x7F
            encoded = self._data[at : at + count]
            if not 1 <= count <= 4 or len(encoded) != count:
                raise DecodeError("DER has a length of no or too many bytes")
            length, at = int.from_bytes(encoded), at + count
            if length < 0x80 or encoded[0] == 0:
                raise DecodeError("DER has a length that is not the shortest")
        if at + length > len(self._data):
            raise DecodeError("DER ends too early")
        self._at = at + length
        return self._data[at : self._at]

    def enter(self, *tags: int) -> "DerReader":
        """A reader of the next value's content; see `read`."""
        return DerReader(self.read(*tags))

    def finish(self) -> None:
        """Require that nothing is left.

        Raises:
            DecodeError: something is.
        """
        if not self.is_done:
            raise DecodeError("DER has something behind its end")


def decode_oid(content: bytes) -> str:
    """Dotted digits of an object identifier.

    Raises:
        DecodeError: not one, or with a part beyond 28 bits.
    """
    if not content or content[-1] & 0x80:
        raise DecodeError("DER has an object identifier without an end")
    parts: list[int] = []
    value, length = 0, 0
    for byte in content:
        value, length = value << 7 | byte & 0x7F, length + 1
        if length > 4 or (length > 1 and value < 0x80):
            raise DecodeError("DER has an object identifier with a bad part")
        if not byte & 0x80:
            parts.append(value)
            value, length = 0, 0
    first = min(parts[0] // 40, 2)
    return ".".join(map(str, [first, parts[0] - 40 * first, *parts[1:]]))
