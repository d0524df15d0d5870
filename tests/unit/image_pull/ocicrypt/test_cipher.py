"""The layer cipher against the specification's vectors, however the bytes are cut."""

import hashlib
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import DecodeError, IntegrityError
from guest.secret import Secret
from image_pull.ocicrypt.cipher import LayerDecryptor, LayerEncryptor

KEY = Secret(bytes(range(32)))
NONCE = bytes(range(0xF0, 0x100))
A4 = bytes(i % 251 for i in range(100_000))
A4_CIPHERTEXT = "adb2e67a8bb3cce8ce20215b4617080ede801945754a1a39842ccf57522b3d29"
A4_MAC = "db2a0099c6ab0cd68f24c15e28da407cf7113330d5ad98dff514402786538b08"


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(ends)]


def encrypt(key: Secret, nonce: bytes, pieces: list[bytes]) -> tuple[bytes, bytes]:
    encryptor = LayerEncryptor(key, nonce)
    ciphertext = b"".join(encryptor.update(piece) for piece in pieces)
    return ciphertext, encryptor.finish()


def decrypt(key: Secret, nonce: bytes, mac: bytes, pieces: list[bytes]) -> bytes:
    decryptor = LayerDecryptor(key, nonce, mac)
    plaintext = b"".join(decryptor.update(piece) for piece in pieces)
    decryptor.finish()
    return plaintext


@pytest.mark.spec("ocicrypt", 1)
def test_the_vectors_hold_in_one_piece_byte_by_byte_and_in_random_pieces(vectors: Path) -> None:
    known = json.loads((vectors / "ocicrypt" / "cipher.json").read_text())["vectors"]
    names = ("key", "nonce", "plaintext", "ciphertext", "mac")
    rows = [tuple(bytes.fromhex(row[name]) for name in names) for row in known]
    assert len(rows) == 4
    for key, nonce, plaintext, ciphertext, mac in rows:
        for places in ([], list(range(len(plaintext))), [3, 17, 17, 29]):
            pieces = cut(plaintext, places)
            assert encrypt(Secret(key), nonce, pieces) == (ciphertext, mac)
            assert decrypt(Secret(key), nonce, mac, cut(ciphertext, places)) == plaintext


@pytest.mark.spec("ocicrypt", 1)
@given(st.lists(st.integers(0, 100_000), max_size=20))
def test_the_long_vector_is_the_same_for_any_pieces(places: list[int]) -> None:
    ciphertext, mac = encrypt(KEY, NONCE, cut(A4, places))
    assert (hashlib.sha256(ciphertext).hexdigest(), mac.hex()) == (A4_CIPHERTEXT, A4_MAC)
    assert decrypt(KEY, NONCE, mac, cut(ciphertext, places)) == A4


def test_a_flipped_bit_a_missing_and_an_added_byte_fail() -> None:
    ciphertext, mac = encrypt(KEY, NONCE, [A4[:1000]])
    changed = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    for wrong in (changed, ciphertext[:-1], ciphertext + b"\0", b""):
        with pytest.raises(IntegrityError):
            decrypt(KEY, NONCE, mac, [wrong])


@pytest.mark.spec("ocicrypt", 3)
@pytest.mark.parametrize("mac", [bytes(32), bytes(31), bytes(33), b""])
def test_a_wrong_mac_of_any_length_is_an_error(mac: bytes) -> None:
    with pytest.raises((DecodeError, IntegrityError)):
        decrypt(KEY, NONCE, mac, [b"data"])


@pytest.mark.parametrize("length", [0, 12, 15, 17])
def test_a_nonce_of_another_length_is_an_error(length: int) -> None:
    for make in (LayerEncryptor, lambda key, nonce: LayerDecryptor(key, nonce, bytes(32))):
        with pytest.raises(DecodeError, match="nonce length"):
            make(KEY, bytes(length))


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_an_error(length: int) -> None:
    with pytest.raises(DecodeError, match="invalid key length of"):
        LayerDecryptor(Secret(bytes(length)), NONCE, bytes(32))
