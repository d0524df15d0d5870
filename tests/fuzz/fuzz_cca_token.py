"""CBOR and CCA tokens give values or a `DecodeError`."""

from contextlib import suppress

from attestation_agent.reports import cbor
from attestation_agent.reports.cca import CcaToken
from guest.errors import DecodeError

_MESSAGE = b"\x84\x40\xa0\x58\x44\xa1\x0a\x58\x40" + bytes(64) + b"\x40"
SEEDS = (
    b"\xd9\x01\x8f\xa2\x19\xac\xca\x45\x84\x40\xa0\x40\x40\x19\xac\xd1\x58\x4a" + _MESSAGE,
    bytes.fromhex("bf61610161629f0203ffff"),
    bytes.fromhex("5f42010243030405ff"),
)


def one_input(data: bytes) -> None:
    """Decode both."""
    with suppress(DecodeError):
        cbor.decode(data)
    with suppress(DecodeError):
        assert len(CcaToken.decode(data).challenge) == 64
