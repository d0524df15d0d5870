"""PE files of UEFI: add sections to a stub, read sections, hash like Authenticode. Sans-I/O.

Source: Microsoft PE format; "Windows Authenticode Portable Executable Signature Format";
docs/spec/podvm-image.md 14.5, 16.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from podvm.errors import ImageError

_SECTION: Final = struct.Struct("<8sIIIIIIHHI")
_INITIALIZED_READ: Final = 0x40000040
_PE32_PLUS: Final = 0x20B


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One entry of the section table.

    Attributes:
        name: without padding, such as `.linux`.
        size: bytes in memory; file bytes beyond it are padding.
        address: relative to the image's base.
        raw_size: bytes in the file.
        raw_offset: where they are.
    """

    name: str
    size: int
    address: int
    raw_size: int
    raw_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Headers:
    """Where things are in one file; all numbers are offsets or sizes in bytes."""

    coff: int
    optional: int
    table: int
    sections: tuple[Section, ...]
    section_alignment: int
    file_alignment: int
    header_size: int

    @classmethod
    def decode(cls, data: bytes) -> "Headers":
        """Read the headers of a 64-bit PE file.

        Raises:
            ImageError: it is none.
        """
        try:
            return _headers(data)
        except struct.error as error:
            raise ImageError("PE file is cut short") from error


def _headers(data: bytes) -> Headers:
    (start,) = struct.unpack_from("<I", data, 0x3C)
    if data[:2] != b"MZ" or data[start : start + 4] != b"PE\0\0":
        raise ImageError("not a PE file")
    coff, optional = start + 4, start + 24
    count, size = (
        struct.unpack_from("<H", data, coff + 2)[0],
        struct.unpack_from("<H", data, coff + 16)[0],
    )
    if struct.unpack_from("<H", data, optional)[0] != _PE32_PLUS:
        raise ImageError("PE file is not 64-bit")
    alignment, file_alignment = struct.unpack_from("<II", data, optional + 32)
    (header_size,) = struct.unpack_from("<I", data, optional + 60)
    table = optional + size
    sections = []
    for number in range(count):
        name, *rest = _SECTION.unpack_from(data, table + number * _SECTION.size)
        virtual, address, raw_size, raw_offset = rest[:4]
        if raw_offset + raw_size > len(data):
            raise ImageError("PE section lies outside the file")
        label = name.rstrip(b"\0").decode("ascii", "replace")
        sections.append(
            Section(
                name=label, size=virtual, address=address, raw_size=raw_size, raw_offset=raw_offset
            )
        )
    return Headers(
        coff=coff,
        optional=optional,
        table=table,
        sections=tuple(sections),
        section_alignment=alignment,
        file_alignment=file_alignment,
        header_size=header_size,
    )


def sections(data: bytes) -> dict[str, bytes]:
    """Content by section name, `size` bytes each, as a stub sees it in memory.

    Raises:
        ImageError: not a PE file.
    """
    return {
        s.name: data[s.raw_offset : s.raw_offset + min(s.size, s.raw_size)].ljust(s.size, b"\0")
        for s in Headers.decode(data).sections
    }


def add_sections(stub: bytes, added: Mapping[str, bytes]) -> bytes:
    """A PE file with sections behind those of the stub, time stamp and checksum zero.

    Raises:
        ImageError: the stub is no PE file, or its header has no room.
    """
    headers = Headers.decode(stub)
    room = min(s.raw_offset for s in headers.sections if s.raw_size) - headers.table
    count = len(headers.sections) + len(added)
    if count * _SECTION.size > min(room, headers.header_size - headers.table):
        raise ImageError("the stub's header has no room for more sections")
    image = bytearray(stub)
    address = max(s.address + s.size for s in headers.sections)
    for number, (name, content) in enumerate(added.items(), start=len(headers.sections)):
        address = _up(address, headers.section_alignment)
        image += bytes(-len(image) % headers.file_alignment)
        raw_size = _up(len(content), headers.file_alignment)
        _SECTION.pack_into(
            image, headers.table + number * _SECTION.size, name.encode("ascii"), len(content),
            address, raw_size, len(image), 0, 0, 0, 0, _INITIALIZED_READ,
        )  # fmt: skip
        image += content.ljust(raw_size, b"\0")
        address += len(content)
    struct.pack_into("<H", image, headers.coff + 2, count)
    struct.pack_into("<I", image, headers.coff + 4, 0)
    struct.pack_into("<I", image, headers.optional + 56, _up(address, headers.section_alignment))
    struct.pack_into("<I", image, headers.optional + 64, 0)
    return bytes(image)


def authenticode(data: bytes, algorithm: str = "sha256") -> bytes:
    """The hash that firmware measures and that a signature covers.

    Raises:
        ImageError: not a PE file.
    """
    headers = Headers.decode(data)
    checksum, directory = headers.optional + 64, headers.optional + 112 + 4 * 8
    certificates = struct.unpack_from("<I", data, directory + 4)[0]
    digest = hashlib.new(algorithm)
    view = memoryview(data)
    digest.update(view[:checksum])
    digest.update(view[checksum + 4 : directory])
    digest.update(view[directory + 8 : headers.header_size])
    hashed = headers.header_size
    for section in sorted(headers.sections, key=lambda s: s.raw_offset):
        if section.raw_size:
            digest.update(view[section.raw_offset : section.raw_offset + section.raw_size])
            hashed += section.raw_size
    rest = view[hashed : len(data) - certificates]
    digest.update(rest)
    if len(rest) % 8:
        digest.update(bytes(-len(rest) % 8))
    return digest.digest()


def _up(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment
