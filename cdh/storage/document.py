"""The storage document of the command line tools: a mount request as JSON. Sans-I/O.

Source: docs/spec/confidential-data-hub.md 10.1.
"""

from typing import Final

import msgspec

from guest import jsonio

MAX_LENGTH: Final = 1024 * 1024
"""Most bytes of one document."""

MAX_DEPTH: Final = 4


class StorageDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One volume and where it goes; all members must be there.

    Attributes:
        volume_type: chooses the driver, in exactly this spelling.
        options: for the driver; every value is text, truth values too.
        flags: no driver reads them.
        mount_point: where the volume appears.
    """

    volume_type: str
    options: dict[str, str]
    flags: tuple[str, ...]
    mount_point: str


def decode_storage(data: bytes) -> StorageDocument:
    """Read a document; unknown members are skipped.

    Raises:
        DecodeError: not such an object, or a member twice.
    """
    return jsonio.decode(data, StorageDocument, max_depth=MAX_DEPTH, max_bytes=MAX_LENGTH)
