"""guest/crypto/aead.py: AES-GCM; the vector is test case 16 of the GCM specification."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.crypto.aead import open_sealed, seal
from guest.errors import DecodeError, IntegrityError
from guest.secret import Secret

KEY = bytes.fromhex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308")
NONCE = bytes.fromhex("cafebabefacedbaddecaf888")
PLAINTEXT = bytes.fromhex(
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
)
AAD = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
CIPHERTEXT = bytes.fromhex(
    "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
    "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
)
TAG = bytes.fromhex("76fc6ece0f4e1768cddf8853bb2d551b")


def test_the_published_case_seals_and_opens() -> None:
    assert seal(Secret(KEY), NONCE, PLAINTEXT, AAD) == (CIPHERTEXT, TAG)
    assert open_sealed(Secret(KEY), NONCE, CIPHERTEXT, TAG, AAD) == Secret(PLAINTEXT)


@given(st.integers(0, 8 * (len(CIPHERTEXT) + len(TAG) + len(AAD)) - 1))
def test_any_flipped_bit_is_refused(bit: int) -> None:
    whole = bytearray(CIPHERTEXT + TAG + AAD)
    whole[bit // 8] ^= 1 << bit % 8
    ciphertext, rest = bytes(whole[: len(CIPHERTEXT)]), bytes(whole[len(CIPHERTEXT) :])
    with pytest.raises(IntegrityError):
        open_sealed(Secret(KEY), NONCE, ciphertext, rest[:16], rest[16:])


@pytest.mark.parametrize(
    ("key", "nonce", "tag"),
    [(KEY[:31], NONCE, TAG), (KEY, NONCE[:11], TAG), (KEY, NONCE, TAG[:15]), (KEY, NONCE, b"")],
)
def test_a_wrong_length_is_refused(key: bytes, nonce: bytes, tag: bytes) -> None:
    with pytest.raises(DecodeError):
        open_sealed(Secret(key), nonce, CIPHERTEXT, tag, AAD)
