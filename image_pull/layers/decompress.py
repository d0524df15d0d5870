"""The bytes of a tar out of a layer's compressed bytes, piece by piece, bounded in memory.

Source: docs/spec/image-pull.md §10.2 and 10.3; RFC 1952; RFC 8878.
"""

from collections.abc import Callable, Iterator
from typing import Final, Protocol

import zstandard
from isal import igzip_lib

from guest.errors import DecodeError
from image_pull.layers.media_types import Compression

OUTPUT: Final = 256 * 1024
"""Most bytes of one piece that comes out."""

INPUT: Final = 128 * 1024
"""Most compressed bytes taken at a time."""

FIRST_INPUT: Final = 1024
"""Compressed bytes given to a new gzip member first: what it leaves is copied, so that many tiny
members must not each be given a lot."""

MAX_WINDOW: Final = 1 << 27
"""Largest zstd window, in bytes; it is allocated whole."""


class Source(Protocol):
    """Where compressed bytes come from; a file's or a socket's reading end."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, nothing only at the end."""
        ...


def decompress(compression: Compression, source: Source) -> Iterator[bytes]:
    """All of the source, to its very end, in pieces of at most `OUTPUT` bytes.

    Raises:
        DecodeError: the compressed form is broken, cut short or has something after it, or a
            zstd window exceeds `MAX_WINDOW`.
    """
    return _READERS[compression](source)


def _plain(source: Source) -> Iterator[bytes]:
    while piece := source.read(OUTPUT):
        yield piece


def _gzip(source: Source) -> Iterator[bytes]:
    """Every member; anything else after the last one is an error."""
    held = b""
    inside = False
    while held or (held := source.read(INPUT)):
        member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        inside, step = True, FIRST_INPUT
        while not member.eof:
            if not member.needs_input:
                piece = b""
            elif held or (held := source.read(INPUT)):
                piece, held = held[:step], held[step:]
                step *= 4
            else:
                break
            try:
                output = member.decompress(piece, max_length=OUTPUT)
            except igzip_lib.error as error:  # type: ignore[misc]  # its stub has an instance
                raise DecodeError(f"gzip data is broken: {error}") from error
            if output:
                yield output
        if not member.eof:
            raise DecodeError("gzip data is cut short")
        held = member.unused_data + held
    if not inside:
        raise DecodeError("gzip data is empty")


def _zstd(source: Source) -> Iterator[bytes]:
    """Every frame; skippable ones are passed over."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    # a plain name for the library's C method, which wants an object with `read` only
    reader = decompressor.stream_reader(
        source,  # type: ignore[arg-type]  # its stub asks for a whole file object
        read_size=INPUT,
        read_across_frames=True,
    )
    try:
        while output := reader.read(OUTPUT):
            yield output
    except zstandard.ZstdError as error:
        raise DecodeError(f"zstd data is broken: {error}") from error


_READERS: Final[dict[Compression, Callable[[Source], Iterator[bytes]]]] = {
    Compression.NONE: _plain,
    Compression.GZIP: _gzip,
    Compression.ZSTD: _zstd,
}
