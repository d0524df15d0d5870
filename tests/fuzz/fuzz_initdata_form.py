"""Packed init data, which the host hands over."""

import base64

from guest.errors import DecodeError
from guest.initdata_form import MAX_UNPACKED, pack, pack_device, unpack, unpack_device

SEEDS = (
    pack(b'version = "0.1.0"\nalgorithm = "sha384"\n[data]\n').encode(),
    base64.b64decode(pack(b"one")) + base64.b64decode(pack(b"two")),
    pack_device(b"text"),
)


def one_input(data: bytes) -> None:
    """A document within the limit that packs and unpacks again, or a DecodeError."""
    for read, given in ((unpack, data), (unpack, base64.b64encode(data)), (unpack_device, data)):
        try:
            content = read(given)
        except DecodeError:
            continue
        assert len(content) <= MAX_UNPACKED
        assert unpack(pack(content).encode()) == content
