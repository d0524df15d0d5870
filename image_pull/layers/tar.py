"""A tar archive read as a stream: bytes in, entries and their data out. Sans-I/O.

Reads v7, ustar, GNU and PAX archives with long names, extended attributes, and all sparse
forms. Strict where leniency would let two readers see two archives: checksums, numbers, double or
empty extended headers, data of what is no file, global headers that change entries. What follows
the end marker is ignored, as Go's reader and GNU tar do.

Source: POSIX.1-2017 pax; GNU tar manual "Basic Tar Format"; docs/spec/image-pull.md §12.3.
"""

from collections.abc import Iterator
from enum import Enum, auto
from typing import Final, NamedTuple

from guest.errors import DecodeError
from image_pull.layers import header, pax
from image_pull.layers.header import BLOCK, GNU_SPARSE, KINDS, Entry, Kind
from image_pull.layers.pax import Segment

MAX_META: Final = 1 << 20
"""Most bytes of one extended header, long name or sparse map."""

ZERO: Final = bytes(BLOCK)
LONG_LINK: Final = ord("K")
LONG_NAME: Final = ord("L")
PAX: Final = ord("x")
PAX_GLOBAL: Final = ord("g")
META_FLAGS: Final = b"xgLK"
SPARSE: Final = b"GNU.sparse."
NAMED_BY: Final = {b"path": LONG_NAME, b"GNU.sparse.name": LONG_NAME, b"linkpath": LONG_LINK}
"""PAX record to the type of the GNU header that says the same."""
LINKS: Final = (Kind.HARD_LINK, Kind.SYMLINK)
AMBIGUOUS_FLAGS: Final = b"DMNVX"
"""GNU tar's dumps, parts of volumes, old names and volume labels; Solaris' extended header."""


class Data(NamedTuple):
    """Bytes of the last entry, at an offset of its file; valid until the next step."""

    offset: int
    view: memoryview


class _State(Enum):
    HEADER = auto()
    META = auto()
    GNU_SPARSE = auto()
    PAX_SPARSE = auto()


class TarReader:
    """Feed it the archive in any pieces, in order, then `finish`."""

    def __init__(self) -> None:
        self._state = _State.HEADER
        self._held = bytearray()
        self._want = BLOCK
        self._zero_seen = False
        self._ended = False
        self._meta_flag = 0
        self._meta_size = 0
        self._records: list[tuple[bytes, bytes]] | None = None
        self._long: dict[int, bytes] = {}
        # data of the entry at hand: bytes still to come, and where they go
        self._left = 0
        self._padding = 0
        self._offset = 0
        self._reversed: list[Segment] = []
        # a sparse entry whose map is being read: its stored bytes and what is known of the map
        self._partial: Entry | None = None
        self._stored = 0
        self._segments: list[Segment] = []
        self._map = bytearray()
        self._lines = self._lines_wanted = 0

    @property
    def ended(self) -> bool:
        """Whether the end marker was read; whatever follows is ignored."""
        return self._ended

    def feed(self, data: bytes) -> Iterator[Entry | Data]:
        """The events that `data` completes; exhaust the iterator before the next call.

        Raises:
            DecodeError: the archive is malformed.
        """
        view = memoryview(data)
        position, end = 0, len(view)
        while position < end and not self._ended:
            if self._left:
                piece = view[position : position + self._left]
                position += len(piece)
                self._left -= len(piece)
                if self._reversed:
                    yield from self._scatter(piece)
                else:
                    yield Data(self._offset, piece)
                    self._offset += len(piece)
            elif self._padding:
                step = min(self._padding, end - position)
                position += step
                self._padding -= step
            elif self._state is _State.HEADER and position + BLOCK <= end and not self._held:
                # the usual case, without a detour over what is held
                block = data[position : position + BLOCK]
                position += BLOCK
                entry = self._on_header(block)
                if entry is not None:
                    yield entry
            else:
                step = min(self._want - len(self._held), end - position)
                block = self._collect(view[position : position + step])
                position += step
                entry = self._collected(block) if block else None
                if entry is not None:
                    yield entry

    def finish(self) -> None:
        """Check that nothing is missing; an archive may end without its marker.

        Raises:
            DecodeError: it ends inside an entry or after an extended header without its entry.
        """
        # Compat: umoci, whose `insert` leaves out what fills the last block; Go reads that too
        padding = self._padding >= BLOCK
        inside = self._held or self._left or padding or self._state is not _State.HEADER
        if not self._ended and (inside or self._records is not None or self._long):
            raise DecodeError("tar archive is truncated")

    def _scatter(self, piece: memoryview) -> Iterator[Data]:
        while len(piece):
            offset, length = self._reversed[-1]
            part = piece[:length]
            yield Data(offset, part)
            piece = piece[len(part) :]
            if len(part) == length:
                self._reversed.pop()
            else:
                self._reversed[-1] = (offset + len(part), length - len(part))

    def _collect(self, piece: memoryview) -> bytes:
        """What is wanted once it is complete, else nothing."""
        if len(piece) == self._want:
            return piece.tobytes()
        self._held += piece
        if len(self._held) < self._want:
            return b""
        block = bytes(self._held)
        self._held.clear()
        return block

    def _collected(self, block: bytes) -> Entry | None:
        if self._state is _State.HEADER:
            return self._on_header(block)
        match self._state:
            case _State.META:
                self._on_meta(block)
                return None
            case _State.GNU_SPARSE:
                self._take_segments(block[:504])
                return None if block[504] else self._sparse_ready()
            case _State.PAX_SPARSE:
                return self._on_pax_sparse(block)

    def _on_header(self, block: bytes) -> Entry | None:
        if block == ZERO:
            self._ended = self._zero_seen
            self._zero_seen = True
            return None
        if self._zero_seen:
            raise DecodeError("tar archive goes on after one block of zeros")
        common = header.read_header(block)
        flag = common.flag
        if flag in META_FLAGS:
            self._begin_meta(flag, block)
            return None
        if self._records is None and not self._long:
            entry = header.plain_entry(block, common)
            if entry is not None:
                self._left, self._offset = entry.size, 0
                self._padding = -entry.size % BLOCK
                return entry
        return self._on_entry(flag, block)

    def _begin_meta(self, flag: int, block: bytes) -> None:
        size = header.number(block[124:136], "size")
        if not 0 <= size <= MAX_META:
            raise DecodeError(f"extended tar header of {size} bytes exceeds {MAX_META}")
        if (self._records is not None) if flag == PAX else flag in self._long:
            raise DecodeError("tar entry has two extended headers of one kind")
        if flag == PAX_GLOBAL and (self._records is not None or self._long):
            # readers differ in whether the entry keeps its own
            raise DecodeError("global tar header stands between an entry and its extended header")
        self._meta_flag, self._meta_size = flag, size
        if size:
            self._state, self._want = _State.META, size + -size % BLOCK
        else:
            self._on_meta(b"")

    def _on_meta(self, payload: bytes) -> None:
        self._state, self._want = _State.HEADER, BLOCK
        payload, flag = payload[: self._meta_size], self._meta_flag
        if flag == PAX:
            self._records = pax.parse_records(payload)
        elif flag == PAX_GLOBAL:
            pax.verify_global(pax.parse_records(payload))
        elif flag in (LONG_LINK, LONG_NAME):
            name, _, rest = payload.partition(b"\0")
            if not name or rest or len(name) == len(payload):
                raise DecodeError("long name of a tar entry is empty or not one string")
            self._long[flag] = name

    def _on_entry(self, flag: int, block: bytes) -> Entry | None:
        if flag in AMBIGUOUS_FLAGS:
            raise DecodeError(f"tar entry has the type {chr(flag)}, which no two readers agree on")
        kind = KINDS.get(flag, Kind.REGULAR)
        records, long = self._records or [], self._long
        values: dict[bytes, bytes] = {}
        if self._records is not None or long:
            values = _effective(records, long, kind)
            self._records, self._long = None, {}
        name = values.get(b"path") or long.get(LONG_NAME) or header.header_name(block)
        link = values.get(b"linkpath") or long.get(LONG_LINK) or header.link_target(block)
        stored = header.stored_size(block, values)
        is_sparse = bool(values) and any(key.startswith(SPARSE) for key in values)
        if kind is not Kind.REGULAR and (stored or is_sparse):
            raise DecodeError("tar entry is no file and has data or a sparse map")
        self._left, self._padding, self._offset = stored, -stored % BLOCK, 0
        if kind is Kind.REGULAR and name.endswith(b"/"):
            if flag:
                raise DecodeError("tar entry is a file by its type, a directory by its name")
            # whatever a v7 directory has stored is nobody's data
            kind, self._left, self._padding, stored = Kind.DIRECTORY, 0, stored + self._padding, 0
        xattrs = pax.xattrs_of(records) if records else {}
        entry = header.decode_entry(
            kind, block, values, name=name, link=link, size=stored, xattrs=xattrs
        )
        if flag == GNU_SPARSE:
            return self._begin_gnu_sparse(entry, block)
        if is_sparse:
            return self._begin_pax_sparse(entry, records, values)
        return entry

    def _hold_data(self, entry: Entry) -> None:
        """Set the data aside until the map is known."""
        self._partial, self._stored = entry, self._left
        self._left = self._padding = 0
        self._segments = []

    def _begin_gnu_sparse(self, entry: Entry, block: bytes) -> Entry | None:
        size = header.in_range(header.number(block[483:495], "size"), pax.MAX_SIZE, "size")
        self._hold_data(entry._replace(size=size))
        self._take_segments(block[386:482])
        if not block[482]:
            return self._sparse_ready()
        self._state = _State.GNU_SPARSE
        return None

    def _take_segments(self, fields: bytes) -> None:
        for start in range(0, len(fields), 24):
            if not fields[start]:
                return
            offset = header.number(fields[start : start + 12], "offset")
            length = header.number(fields[start + 12 : start + 24], "length")
            if offset < 0 or length < 0 or len(self._segments) >= MAX_META // 24:
                raise DecodeError("sparse map is out of range or too long")
            self._segments.append((offset, length))

    def _begin_pax_sparse(
        self, entry: Entry, records: list[tuple[bytes, bytes]], values: dict[bytes, bytes]
    ) -> Entry | None:
        size = pax.sparse_size(values)
        name = values.get(b"GNU.sparse.name", entry.name)
        self._hold_data(entry._replace(name=name, size=size))
        match pax.sparse_version(values):
            case pax.SparseVersion.HEAD_OF_DATA:
                self._state = _State.PAX_SPARSE
                self._map.clear()
                self._lines = self._lines_wanted = 0
                return None
            case pax.SparseVersion.RECORDS:
                self._segments = pax.sparse_0x_map(records)
        return self._sparse_ready()

    def _on_pax_sparse(self, block: bytes) -> Entry | None:
        """Format 1.0: the map is the head of the stored bytes, padded to whole blocks."""
        self._map += block
        self._stored -= BLOCK
        if self._stored < 0 or len(self._map) > MAX_META:
            raise DecodeError("sparse map has no end or is too long")
        self._lines += block.count(b"\n")
        if not self._lines_wanted and self._lines:
            self._lines_wanted = pax.sparse_10_lines(self._map)
        if not self._lines_wanted or self._lines < self._lines_wanted:
            return None
        self._segments = pax.sparse_10_map(bytes(self._map))
        return self._sparse_ready()

    def _sparse_ready(self) -> Entry:
        entry = self._partial
        assert entry is not None
        segments = pax.check_segments(self._segments, self._stored, entry.size)
        self._state, self._partial = _State.HEADER, None
        self._left, self._padding = self._stored, -self._stored % BLOCK
        self._reversed = list(reversed(segments))
        return entry._replace(segments=segments)


def _effective(
    records: list[tuple[bytes, bytes]], long: dict[int, bytes], kind: Kind
) -> dict[bytes, bytes]:
    """The records that apply to an entry, after checking that every reader would apply them.

    Raises:
        DecodeError: two names of one kind, a name taken back, or a target of what is no link.
    """
    values = dict(records)
    if long and any(NAMED_BY.get(key) in long for key in values):
        raise DecodeError("tar entry has a GNU and a PAX long name")
    pax.verify_not_empty(values)
    if kind not in LINKS and (b"linkpath" in values or LONG_LINK in long):
        raise DecodeError("tar entry is no link and has a target")
    return values
