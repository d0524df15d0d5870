"""The storage document of the command line tools."""

from contextlib import suppress

import msgspec

from cdh.storage.document import decode_storage
from guest.errors import DecodeError

SEEDS = (
    (
        b'{"volume_type":"block-device","options":{"deviceId":"7:0","sourceType":"empty"},'
        b'"flags":[],"mount_point":"/mnt"}'
    ),
    b'{"volume_type":"x","options":{"a":"b"},"flags":["f"],"mount_point":"/m","driver":1}',
)


def one_input(data: bytes) -> None:
    """What decodes encodes to one that decodes alike."""
    with suppress(DecodeError):
        document = decode_storage(data)
        assert decode_storage(msgspec.json.encode(document)) == document
