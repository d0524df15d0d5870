"""What a quote says, and how keys are written."""

import hashlib
import struct

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from hypothesis import given
from hypothesis import strategies as st

from attestation_agent.reports.tpm import (
    PcrSelection,
    TpmQuote,
    bound_value,
    encode_public_key,
    start_value,
)
from guest.errors import DecodeError

PCRS = tuple(bytes((number,)) * 32 for number in range(24))
DIGEST = hashlib.sha256(b"".join(PCRS)).digest()


def sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def built(
    nonce: bytes = b"n" * 32, selection: bytes = b"\0\0\0\1\0\x0b\3\xff\xff\xff", kind: int = 0x8018
) -> bytes:
    head = b"\xffTCG" + struct.pack(">H", kind) + sized(b"s" * 34) + sized(nonce)
    return head + bytes(17) + bytes(8) + selection + sized(DIGEST)


def test_a_quote_gives_its_fields() -> None:
    quote = TpmQuote.decode(built())
    assert len(built()) == 145
    assert len(built(b"n" * 64)) == 177
    assert quote.nonce == b"n" * 32
    assert quote.selections == (PcrSelection(algorithm=11, registers=tuple(range(24))),)
    assert quote.digest == DIGEST
    assert quote.covers(PCRS)


def test_only_all_registers_of_the_sha256_bank_are_covered() -> None:
    quote = TpmQuote.decode(built())
    assert not quote.covers(PCRS[:23])
    assert not quote.covers((*PCRS[:23], bytes(32)))
    for selection in (
        b"\0\0\0\0",
        b"\0\0\0\1\0\x0b\3\xff\xff\x7f",
        b"\0\0\0\1\0\4\3\xff\xff\xff",
        b"\0\0\0\2" + b"\0\x0b\3\xff\xff\xff" * 2,
        b"\0\0\0\1\0\x0b\4\xff\xff\xff\1",
    ):
        assert not TpmQuote.decode(built(selection=selection)).covers(PCRS)


@pytest.mark.parametrize(
    "data",
    [b"", built()[:-1], built() + b"x", built(kind=0x8017), b"X" + built()[1:], bytes(5000),
     built(selection=b"\0\0\1\0")],
)  # fmt: skip
def test_what_is_no_quote_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        TpmQuote.decode(data)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_give_a_quote_or_a_decode_error(data: bytes) -> None:
    for content in (data, b"\xffTCG\x80\x18" + data):
        try:
            TpmQuote.decode(content)
        except DecodeError:
            pass


@given(st.binary(max_size=66))
def test_a_nonce_comes_back(nonce: bytes) -> None:
    assert TpmQuote.decode(built(nonce)).nonce == nonce


def test_a_key_is_written_as_others_read_it_and_exponent_0_is_65537() -> None:
    modulus = (1 << 2047) + 1
    encoded = encode_public_key(modulus, 0)
    assert len(encoded) == 294
    key = load_der_public_key(encoded)
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.public_numbers() == rsa.RSAPublicNumbers(65537, modulus)
    assert encode_public_key(modulus, 3) != encoded
    with pytest.raises(DecodeError):
        encode_public_key(0, 65537)


def test_registers_begin_as_zeros_and_those_of_other_localities_as_ones() -> None:
    assert [start_value(number)[0] for number in range(24)] == [0] * 17 + [255] * 6 + [0]
    assert bound_value(hashlib.sha256(b"x").digest()).hex() == (
        "7f85193790de75e46b70bfec3614098f47332a6993dabac6e38ad35f47df5da4"
    )
