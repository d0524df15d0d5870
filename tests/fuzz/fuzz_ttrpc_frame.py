"""Header and envelope of ttRPC: any bytes are a value or a DecodeError."""

from contextlib import suppress
from typing import Final

from guest.errors import DecodeError
from guest.ttrpc import envelope
from guest.ttrpc.frame import HEADER_LENGTH, FrameHeader

SEEDS: Final = (
    bytes.fromhex(
        "000000560000000101000a166170692e4765745265736f7572636553657276696365120b4765745265736f7572"
        "63651a160a146b62733a2f2f2f64656661756c742f6b65792f312080e8eda1ba012a070a026b311201612a070a"
        "026b31120162"
    ),
    bytes.fromhex(
        "000000280000000102000a26080d12225b4344485d205b4552524f525d3a20476574205265736f757263652066"
        "61696c6564"
    ),
)


def one_input(data: bytes) -> None:
    """The first ten bytes as a header, the rest as both messages."""
    head, body = data[:HEADER_LENGTH], data[HEADER_LENGTH:]
    with suppress(DecodeError):
        assert FrameHeader.decode(head).encode() == head
    with suppress(DecodeError):
        call = envelope.decode_request(body)
        assert call.timeout is None or call.timeout != 0
    with suppress(DecodeError):
        envelope.decode_response(body)
