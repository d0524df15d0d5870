"""Tar headers read without the short ways of `image_pull.layers.header`, to compare with."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from image_pull.layers import header
from image_pull.layers.header import Common, Entry


def _read_header(block: bytes) -> Common:
    header.verify_checksum(block)
    header.verify_gnu(block)
    common = header.common_fields(block[100:124] + block[156:])
    assert common is not None
    return common


def _no_plain_entry(block: bytes, common: Common) -> Entry | None:
    return None


@contextmanager
def the_long_way() -> Iterator[None]:
    """While the block runs every header is verified and decoded field by field."""
    with (
        mock.patch.object(header, "read_header", _read_header),
        mock.patch.object(header, "plain_entry", _no_plain_entry),
    ):
        yield
