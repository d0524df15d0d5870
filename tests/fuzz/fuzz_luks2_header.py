"""LUKS2 headers: the JSON with good checksums around it, the binary part, raw bytes."""

from contextlib import suppress

from cdh.storage.luks2_header import Luks2Header, decode_metadata, verify_pinned
from guest.errors import DecodeError, IntegrityError
from support.luks_headers import vector, with_checksums, with_text

BASE = vector("attached")
SEEDS = (BASE[4096:8192].rstrip(b"\0"), vector("argon2id")[4096:8192].rstrip(b"\0"), BASE[:512])


def one_input(data: bytes) -> None:
    """What decodes is pinned or refused; nothing else happens."""
    with suppress(DecodeError):
        decode_metadata(data)
    binary = data[:4096]
    for header in (
        data,
        with_text(BASE, data[:12288]),
        with_checksums(binary + BASE[len(binary) :]),
    ):
        with suppress(DecodeError, IntegrityError):
            verify_pinned(Luks2Header.decode(header), detached=False, integrity=None)
