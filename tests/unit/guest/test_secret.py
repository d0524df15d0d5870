"""A secret is not printed, not copied by chance, and gone when it was wiped."""

import copy
import pickle

import pytest

from guest.secret import Secret


@pytest.mark.parametrize("length", [0, 1, 32, 100_000])
def test_a_wiped_secret_is_zeros_in_place_and_cannot_be_revealed(length: int) -> None:
    secret = Secret(b"\xa5" * length)
    inside = memoryview(secret._bytes)
    with secret:
        assert secret.reveal() == b"\xa5" * length
    assert bytes(inside) == bytes(length)
    assert len(secret) == length
    with pytest.raises(ValueError, match="secret was wiped"):
        secret.reveal()
    secret.wipe()


def test_a_secret_shows_its_length_alone() -> None:
    secret = Secret(b"plain words here")
    assert repr(secret) == str(secret) == f"{secret}" == "<Secret of 16 bytes>"


def test_a_secret_has_bytes_of_its_own() -> None:
    source = bytearray(b"value")
    secret = Secret(source)
    source[:] = b"other"
    assert secret.reveal() == b"value"
    assert secret == Secret(b"value")
    assert secret != Secret(b"other")
    assert secret != b"value"


def test_a_secret_is_neither_copied_nor_stored_by_chance() -> None:
    secret = Secret(b"value")
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            attempt(secret)
    with pytest.raises(TypeError, match="unhashable"):
        {secret}  # noqa: B018
