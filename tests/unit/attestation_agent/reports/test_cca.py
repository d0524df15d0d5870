"""Tokens of a realm: what they bind, and what is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation_agent.reports.cca import CcaToken
from guest.errors import DecodeError
from guest_simulator.devices.realm import PLATFORM_TOKEN, REALM_TOKEN, Realm, Tag, encode

REALM = Realm()
TOKEN = REALM.token(bytes(range(64)))


def test_the_challenge_is_read_under_any_tags() -> None:
    assert CcaToken.decode(TOKEN).challenge == bytes(range(64))
    platform = REALM.signed(REALM.platform_key, encode({}))
    realm = REALM.signed(REALM.realm_key, encode({10: bytes(64)}))
    newer = {PLATFORM_TOKEN: [263, platform], REALM_TOKEN: [263, realm]}
    assert CcaToken.decode(encode(Tag(907, newer))).challenge == bytes(64)


@pytest.mark.parametrize("length", [0, 32, 63, 65])
def test_a_challenge_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(DecodeError, match=r"no challenge of 64 bytes"):
        CcaToken.decode(REALM.token(bytes(length)))


@pytest.mark.parametrize(
    "parts",
    [
        [],
        {},
        {REALM_TOKEN: b""},
        {PLATFORM_TOKEN: b"\x80", REALM_TOKEN: b"\x80"},
        {PLATFORM_TOKEN: encode([b"", {}, 1, b""]), REALM_TOKEN: b""},
        {PLATFORM_TOKEN: encode([b"", {}, b"", b""]), REALM_TOKEN: encode([b"", {}, b"\0", b""])},
    ],
)
def test_what_is_not_both_messages_is_refused(parts: object) -> None:
    with pytest.raises(DecodeError):
        CcaToken.decode(encode(parts))


def test_every_cut_token_is_refused() -> None:
    for length in range(len(TOKEN)):
        with pytest.raises(DecodeError):
            CcaToken.decode(TOKEN[:length])
    with pytest.raises(DecodeError, match=r"too many"):
        CcaToken.decode(TOKEN + b"\0")


@given(st.integers(0, len(TOKEN) - 1), st.integers(1, 255))
def test_a_changed_byte_gives_a_token_or_a_decode_error(place: int, flip: int) -> None:
    changed = bytearray(TOKEN)
    changed[place] ^= flip
    try:
        assert len(CcaToken.decode(bytes(changed)).challenge) == 64
    except DecodeError:
        pass
