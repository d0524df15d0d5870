"""KMAC256 in plain Python: neither `hashlib` nor `cryptography` has cSHAKE. Sans-I/O.

Source: FIPS 202; NIST SP 800-185 §4.
"""

from typing import Final

RATE: Final = 136
"""Bytes absorbed at a time with a capacity of 512 bits."""

MASK: Final = (1 << 64) - 1
ROUNDS: Final = 24


def _rotate(value: int, count: int) -> int:
    count %= 64
    return ((value << count) | (value >> (64 - count))) & MASK


def _round_constants() -> tuple[int, ...]:
    constants, register = [], 1
    for _ in range(ROUNDS):
        constant = 0
        for power in range(7):
            if register & 1:
                constant |= 1 << ((1 << power) - 1)
            register = (register << 1) ^ (0x171 if register >> 7 else 0)
        constants.append(constant)
    return tuple(constants)


CONSTANTS: Final = _round_constants()


def permute(lanes: list[list[int]]) -> list[list[int]]:
    """Keccak-f[1600] on lanes[x][y]."""
    for constant in CONSTANTS:
        parity = [row[0] ^ row[1] ^ row[2] ^ row[3] ^ row[4] for row in lanes]
        mixed = [parity[(x - 1) % 5] ^ _rotate(parity[(x + 1) % 5], 1) for x in range(5)]
        lanes = [[lane ^ mixed[x] for lane in lanes[x]] for x in range(5)]
        x, y, current = 1, 0, lanes[1][0]
        for step in range(24):
            x, y = y, (2 * x + 3 * y) % 5
            lanes[x][y], current = _rotate(current, (step + 1) * (step + 2) // 2), lanes[x][y]
        lanes = [
            [
                lanes[x][y] ^ (~lanes[(x + 1) % 5][y] & MASK & lanes[(x + 2) % 5][y])
                for y in range(5)
            ]
            for x in range(5)
        ]
        lanes[0][0] ^= constant
    return lanes


def sponge256(data: bytes, suffix: int, length: int) -> bytes:
    """Absorb data with a domain suffix, squeeze `length` bytes (at most one block)."""
    assert length <= RATE, "one block is enough here"
    padded = bytearray(data + bytes([suffix]))
    padded += bytes(-len(padded) % RATE)
    padded[-1] |= 0x80
    lanes = [[0] * 5 for _ in range(5)]
    for start in range(0, len(padded), RATE):
        for i in range(RATE // 8):
            lane = padded[start + 8 * i : start + 8 * i + 8]
            lanes[i % 5][i // 5] ^= int.from_bytes(lane, "little")
        lanes = permute(lanes)
    out = b"".join(lanes[i % 5][i // 5].to_bytes(8, "little") for i in range(RATE // 8))
    return out[:length]


def _left_encode(value: int) -> bytes:
    octets = value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big")
    return bytes([len(octets)]) + octets


def _encode_string(data: bytes) -> bytes:
    return _left_encode(8 * len(data)) + data


def _pad(data: bytes) -> bytes:
    framed = _left_encode(RATE) + data
    return framed + bytes(-len(framed) % RATE)


def kmac256(key: bytes, data: bytes, length: int) -> bytes:
    """KMAC256 without customisation.

    Args:
        key: any length.
        data: the message.
        length: bytes wanted, at most 136.
    """
    bits = 8 * length
    octets = bits.to_bytes(max(1, (bits.bit_length() + 7) // 8), "big")
    message = _pad(_encode_string(key)) + data + octets + bytes([len(octets)])
    prefix = _pad(_encode_string(b"KMAC") + _encode_string(b""))
    return sponge256(prefix + message, 0x04, length)
