"""What a layer holds, and its tar: PAX, deterministic.

Source: OCI image-spec "Layer"; POSIX.1-2001 pax.
"""

import io
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

MTIME: Final = 1_700_000_000
WHITEOUT_PREFIX: Final = ".wh."
OPAQUE_NAME: Final = ".wh..wh..opq"


class Kind(StrEnum):
    """What an entry is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARD_LINK = "hard-link"
    CHARACTER = "character"
    BLOCK = "block"
    FIFO = "fifo"
    WHITEOUT = "whiteout"
    OPAQUE = "opaque"


TYPES: Final[Mapping[Kind, bytes]] = {
    Kind.FILE: tarfile.REGTYPE,
    Kind.DIRECTORY: tarfile.DIRTYPE,
    Kind.SYMLINK: tarfile.SYMTYPE,
    Kind.HARD_LINK: tarfile.LNKTYPE,
    Kind.CHARACTER: tarfile.CHRTYPE,
    Kind.BLOCK: tarfile.BLKTYPE,
    Kind.FIFO: tarfile.FIFOTYPE,
    Kind.WHITEOUT: tarfile.REGTYPE,
    Kind.OPAQUE: tarfile.REGTYPE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of a layer.

    Attributes:
        path: relative, no leading `/`, no `.wh.`: of a whiteout, what it hides; of an opaque
            marker, the directory it empties.
        data: bytes of a file.
        mode: permission bits with setuid, setgid and sticky.
        mtime: seconds since the epoch; a fraction makes a PAX record.
        target: of a symbolic link, its text; of a hard link, the path it is another name of.
        xattrs: values by full name (`user.a`), written as `SCHILY.xattr` records.
        major: device number.
        minor: device number.
    """

    kind: Kind = Kind.FILE
    path: str
    data: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: float = MTIME
    target: str = ""
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    major: int = 0
    minor: int = 0

    @property
    def archive_name(self) -> str:
        """The name in the tar."""
        parent, slash, base = self.path.rpartition("/")
        if self.kind is Kind.WHITEOUT:
            return f"{parent}{slash}{WHITEOUT_PREFIX}{base}"
        if self.kind is Kind.OPAQUE:
            return f"{self.path}/{OPAQUE_NAME}" if self.path else OPAQUE_NAME
        return self.path


def tar_bytes(entries: Iterable[Entry]) -> bytes:
    """The layer's tar, the same bytes for the same entries."""
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8"
    ) as archive:
        for entry in entries:
            archive.addfile(tar_info(entry), io.BytesIO(entry.data))
    return buffer.getvalue()


def tar_info(entry: Entry) -> tarfile.TarInfo:
    """The header of an entry, PAX records included."""
    info = tarfile.TarInfo(entry.archive_name)
    info.type = TYPES[entry.kind]
    info.size = len(entry.data) if entry.kind is Kind.FILE else 0
    info.mode = entry.mode
    info.uid, info.gid = entry.uid, entry.gid
    info.mtime = entry.mtime
    info.linkname = entry.target
    info.devmajor, info.devminor = entry.major, entry.minor
    # tarfile writes PAX records as UTF-8 text; surrogate escapes carry any byte through.
    info.pax_headers = {
        f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape")
        for name, value in sorted(entry.xattrs.items())
    }
    return info
