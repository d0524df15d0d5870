"""The storage document: all four members, text values, nothing twice."""

import json
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdh.storage.document import StorageDocument, decode_storage
from guest.errors import DecodeError

GOOD = {
    "volume_type": "block-device",
    "options": {"deviceId": "7:0", "dataIntegrity": "true"},
    "flags": ["f1"],
    "mount_point": "/mnt/x",
}


def test_a_document_is_read_and_unknown_members_are_skipped() -> None:
    document = decode_storage(json.dumps(GOOD | {"driver": "x"}).encode())
    assert document.volume_type == "block-device"
    assert document.options == {"deviceId": "7:0", "dataIntegrity": "true"}
    assert (document.flags, document.mount_point) == (("f1",), "/mnt/x")


@pytest.mark.parametrize("name", sorted(GOOD))
def test_every_member_must_be_there(name: str) -> None:
    members = {key: value for key, value in GOOD.items() if key != name}
    with pytest.raises(DecodeError):
        decode_storage(json.dumps(members).encode())


@pytest.mark.parametrize("value", [True, 1, None, ["x"], {"a": "b"}])
def test_an_option_is_text(value: object) -> None:
    with pytest.raises(DecodeError):
        decode_storage(json.dumps(GOOD | {"options": {"dataIntegrity": value}}).encode())


def test_a_member_twice_and_every_truncation_are_refused() -> None:
    text = json.dumps(GOOD).encode()
    with pytest.raises(DecodeError):
        decode_storage(text.replace(b'"flags"', b'"flags":[],"flags"'))
    for end in range(len(text)):
        with pytest.raises(DecodeError):
            decode_storage(text[:end])


TEXT = st.text(max_size=10)


@given(TEXT, st.dictionaries(TEXT, TEXT, max_size=4), st.lists(TEXT, max_size=3), TEXT)
def test_what_was_encoded_is_read_back(
    kind: str, options: dict[str, str], flags: list[str], point: str
) -> None:
    document = StorageDocument(
        volume_type=kind, options=options, flags=tuple(flags), mount_point=point
    )
    assert decode_storage(msgspec.json.encode(document)) == document


@given(st.binary(max_size=200))
def test_any_bytes_give_a_document_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        decode_storage(data)
