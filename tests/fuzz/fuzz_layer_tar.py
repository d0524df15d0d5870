"""The tar reader: any bytes, cut in two, give events or a DecodeError, the same by every way."""

from contextlib import suppress

from guest.errors import DecodeError
from image_pull.layers import rules
from image_pull.layers.header import Entry
from image_pull.layers.tar import TarReader
from support import tarballs as tb
from support.tar_long_way import the_long_way

SEEDS = (
    tb.file(b"a", b"data") + tb.END,
    tb.pax((b"path", b"p"), (b"SCHILY.xattr.user.a", b"\0")) + tb.file(b"a") + tb.END,
    tb.file(b"l", b"long\0", flag=b"L") + tb.symlink(b"a", b"b") + tb.END,
    tb.pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"9"))
    + tb.file(b"s", tb.padded(b"1\n0\n3\n") + b"abc")
    + tb.END,
    tb.header(b"s", flag=b"S", size=3, extra=[(386, b"%011o\0%011o\0" % (5, 3)), (483, b"010\0")])
    + tb.padded(b"abc"),
)


def one_input(data: bytes) -> None:
    """Read the archive; total data never exceeds what was fed, and no short way changes it."""
    seen = _read(data)
    with the_long_way():
        if _read(data) != seen:
            raise AssertionError("the short way through a header leads elsewhere")


def _read(data: bytes) -> list[object]:
    """The events, and the error that ended them."""
    reader, total = TarReader(), 0
    seen: list[object] = []
    try:
        for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
            for event in reader.feed(piece):
                seen.append(event)
                if isinstance(event, Entry):
                    with suppress(DecodeError):
                        rules.clean_name(event.name)
                        rules.find_whiteout(event.name.rpartition(b"/")[2])
                        rules.verify_device(event)
                else:
                    total += len(event.view)
        reader.finish()
    except DecodeError as error:
        seen.append(str(error))
    if total > len(data):
        raise AssertionError("more data than bytes")
    return seen
