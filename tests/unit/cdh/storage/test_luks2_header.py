"""LUKS2 headers: read as cryptsetup reads them, pinned, damaged ones refused."""

import json
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdh.storage.luks2_header import (
    Luks2Header,
    decode_copy_length,
    decode_metadata,
    verify_pinned,
)
from guest.errors import DecodeError, IntegrityError
from support.luks_headers import dump, edited, vector, with_checksums, with_integrity, with_text

NAMES = ("attached", "detached", "argon2id", "other cipher")


@pytest.mark.parametrize("name", NAMES)
def test_a_header_says_what_cryptsetup_says_is_in_it(name: str) -> None:
    header = Luks2Header.decode(vector(name))
    plain = msgspec.to_builtins(header.metadata)
    expected = dump(name)
    for slot in plain["keyslots"].values():
        slot["kdf"] = {key: value for key, value in slot["kdf"].items() if value is not None}
        assert slot.pop("priority") is None
    for segment in plain["segments"].values():
        assert segment.pop("integrity") is None
    for digest in plain["digests"].values():
        digest["keyslots"], digest["segments"] = list(digest["keyslots"]), list(digest["segments"])
    assert plain["config"].pop("flags") == ()
    assert plain == expected
    assert (header.copy_length, header.length) == (16384, 32768 + 524288)


def test_the_kinds_of_this_guest_pass_and_others_do_not() -> None:
    for name, detached in (("attached", False), ("argon2id", False), ("detached", True)):
        header = Luks2Header.decode(vector(name))
        verify_pinned(header, detached=detached, integrity=False)
        verify_pinned(header, detached=detached, integrity=None)
        with pytest.raises(IntegrityError, match="has no integrity"):
            verify_pinned(header, detached=detached, integrity=True)
        with pytest.raises(IntegrityError, match="offset"):
            verify_pinned(header, detached=not detached, integrity=False)
    header = Luks2Header.decode(with_integrity("attached"))
    verify_pinned(header, detached=False, integrity=True)
    verify_pinned(header, detached=False, integrity=None)
    with pytest.raises(IntegrityError, match="it has integrity"):
        verify_pinned(header, detached=False, integrity=False)
    with pytest.raises(IntegrityError, match=r"cipher .*aes-cbc-essiv:sha256"):
        verify_pinned(Luks2Header.decode(vector("other cipher")), detached=False, integrity=None)


SEGMENT = dump("attached")["segments"]["0"]
SLOT = dump("attached")["keyslots"]["0"]
DIGEST = dump("attached")["digests"]["0"]
EDITS: tuple[tuple[str, object], ...] = (
    ("segments/0/encryption", "cipher_null-ecb"),
    ("segments/0/encryption", "aes-xts-plain"),
    ("segments/0/type", "linear"),
    ("segments/0/offset", "0"),
    ("segments/0/offset", "557056000"),
    ("segments/0/size", "1048576"),
    ("segments/0/iv_tweak", "8"),
    ("segments/0/sector_size", 2048),
    ("segments/1", SEGMENT),
    ("segments/0", None),
    ("keyslots/0/type", "reencrypt"),
    ("keyslots/0/key_size", 32),
    ("keyslots/0/key_size", 96),
    ("keyslots/0/area/type", "none"),
    ("keyslots/0/area/encryption", "cipher_null-ecb"),
    ("keyslots/0/area/key_size", 32),
    ("keyslots/0/area/offset", "4096"),
    ("keyslots/0/area/offset", "557055"),
    ("keyslots/0/area/size", "4096"),
    ("keyslots/0/af/stripes", 2),
    ("keyslots/0/af/type", "none"),
    ("keyslots/0/af/hash", "md5"),
    ("keyslots/0/kdf/hash", "sha1"),
    ("keyslots/0/kdf/iterations", 1),
    ("keyslots/0/kdf/iterations", None),
    ("keyslots/0/kdf/memory", 64),
    ("keyslots/0/kdf/type", "none"),
    ("keyslots/1", SLOT),
    ("keyslots/32", SLOT),
    ("keyslots/0", None),
    ("digests/0/type", "none"),
    ("digests/0/hash", "md5"),
    ("digests/0/segments", []),
    ("digests/0/keyslots", []),
    ("digests/0/iterations", 1),
    ("digests/1", DIGEST),
    ("digests/0", None),
    ("tokens/0", {"type": "luks2-keyring", "keyslots": ["0"], "key_description": "x"}),
    ("config/flags", ["unknown"]),
    ("config/json_size", "4096"),
    ("config/keyslots_size", str(1 << 27)),
)


@pytest.mark.parametrize(("path", "value"), EDITS, ids=[f"{p}={v!s:.20}" for p, v in EDITS])
def test_an_edited_header_is_refused(path: str, value: object) -> None:
    header = Luks2Header.decode(edited("attached", path, value))
    with pytest.raises(IntegrityError):
        verify_pinned(header, detached=False, integrity=None)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("segments/0/flags", ["backup-final"]),
        ("config/requirements", {"mandatory": ["online-reencrypt-v2"]}),
        ("keyslots/0/direction", "forward"),
        ("segments/0/offset", 1048576),
        ("segments/0/offset", "-1"),
        ("segments/0/offset", "01"),
        ("segments", None),
        ("config", []),
    ],
)
def test_a_header_with_what_is_not_known_is_no_header(path: str, value: object) -> None:
    with pytest.raises(DecodeError):
        Luks2Header.decode(edited("attached", path, value))


@pytest.mark.parametrize(
    "cost", [("time", 0), ("memory", 1 << 23), ("cpus", 64), ("iterations", 1)]
)
def test_costs_that_cannot_be_meant_are_refused(cost: tuple[str, int]) -> None:
    name, value = cost
    header = Luks2Header.decode(edited("argon2id", f"keyslots/0/kdf/{name}", value))
    with pytest.raises(IntegrityError, match="costs"):
        verify_pinned(header, detached=False, integrity=None)


def test_flags_that_change_no_data_are_taken() -> None:
    header = Luks2Header.decode(edited("attached", "config/flags", ["allow-discards"]))
    verify_pinned(header, detached=False, integrity=None)


def test_every_truncation_and_every_flipped_byte_is_refused() -> None:
    data = vector("attached")
    used = 4096 + len(json.dumps(dump("attached")))
    for length in (*range(0, used, 61), 16383, 16384, 16385, 32767):
        with pytest.raises(DecodeError):
            Luks2Header.decode(data[:length])
    for place in (*range(0, used, 37), 16384, 16384 + 300, 20480 + 5, 32767):
        broken = bytearray(data)
        broken[place] ^= 0x40
        with pytest.raises(DecodeError):
            Luks2Header.decode(bytes(broken))


def test_two_copies_that_differ_are_refused() -> None:
    data, other = vector("attached"), edited("attached", "config/flags", ["no-journal"])
    with pytest.raises(DecodeError, match="differ"):
        Luks2Header.decode(data[:16384] + other[16384:])


def test_the_json_is_one_strict_document() -> None:
    data = vector("attached")
    text = json.dumps(dump("attached")).encode()
    double = text.replace(b'"tokens"', b'"segments": {}, "tokens"', 1)
    for wrong in (double, b"", b"{", text + b" x", text + b"\0x"):
        with pytest.raises(DecodeError):
            Luks2Header.decode(with_text(data, wrong))


@pytest.mark.parametrize(
    ("place", "value", "text"),
    [
        (0, b"SKUL\xba\xbe", "no LUKS header"),
        (6, b"\x00\x01", "version 1, not 2"),
        (8, (4096).to_bytes(8, "big"), "no length"),
        (8, (1 << 40).to_bytes(8, "big"), "no length"),
        (72, b"sha1\0\0", "not SHA-256"),
        (16384 + 256, bytes(8), "not what the first"),
    ],
)
def test_the_binary_part_is_as_it_must_be(place: int, value: bytes, text: str) -> None:
    data = vector("attached")
    broken = with_checksums(data[:place] + value + data[place + len(value) :])
    with pytest.raises(DecodeError, match=text):
        Luks2Header.decode(broken)


@given(st.binary(max_size=200))
def test_any_bytes_give_metadata_a_length_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        decode_metadata(data)
    with suppress(DecodeError):
        decode_copy_length(data.ljust(4096, b"\0"))
    with suppress(DecodeError):
        Luks2Header.decode(with_text(vector("attached"), data))
