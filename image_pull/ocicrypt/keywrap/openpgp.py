"""OpenPGP packets, and the RSA secret keys among them. Sans-I/O.

ocicrypt's library writes pieces of a few bytes where RFC 4880 wants the first to have 512, and the
library that verifies our signatures refuses such messages: they are put together here.

Source: docs/spec/ocicrypt.md §9.3; RFC 4880 sections 3.2, 4.2, 5.5.3 and 6.2.
"""

import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

from guest.errors import DecodeError, LimitError, UnsupportedError
from guest.secret import Secret
from guest.wire import Cursor

MAX_PACKETS: Final = 4096
MAX_PIECES: Final = 65536
MIN_RSA_BITS: Final = 1024
MAX_RSA_BITS: Final = 16384

SECRET_KEY: Final = 5
SECRET_SUBKEY: Final = 7
RSA: Final = (1, 2)
"""Algorithms: RSA, RSA for encryption only."""

_ARMOR: Final = re.compile(
    rb"-----BEGIN PGP PRIVATE KEY BLOCK-----\r?\n(?:[^\r\n]+\r?\n)*\r?\n"
    rb"([A-Za-z0-9+/=\r\n]+?)(?:=[A-Za-z0-9+/]{4}\r?\n)?-----END PGP PRIVATE KEY BLOCK-----"
)


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet.

    Attributes:
        tag: what it is.
        body: without its header, in one piece.
    """

    tag: int
    body: bytes


def read_packets(data: bytes) -> Iterator[Packet]:
    """The packets of a message or keyring.

    Raises:
        DecodeError: malformed, or the data ends.
        LimitError: more than `MAX_PACKETS`, or in more than `MAX_PIECES` pieces.
    """
    cursor = Cursor(data, "OpenPGP")
    for _ in range(MAX_PACKETS):
        if not cursor.remaining:
            return
        first = cursor.unsigned(1)
        if not first & 0x80:
            raise DecodeError("OpenPGP packet has no tag")
        if first & 0x40:
            yield Packet(first & 0x3F, _body(cursor))
        else:
            yield Packet(first >> 2 & 0x0F, _old_body(cursor, first & 3))
    raise LimitError(f"OpenPGP data has more than {MAX_PACKETS} packets")


def _body(cursor: Cursor) -> bytes:
    pieces: list[bytes] = []
    for _ in range(MAX_PIECES):
        first = cursor.unsigned(1)
        if first < 192:
            length = first
        elif first < 224:
            length = (first - 192 << 8) + cursor.unsigned(1) + 192
        elif first == 255:
            length = cursor.unsigned(4)
        else:
            pieces.append(cursor.take(1 << (first & 0x1F)))
            continue
        pieces.append(cursor.take(length))
        return b"".join(pieces)
    raise LimitError(f"OpenPGP packet has more than {MAX_PIECES} pieces")


def _old_body(cursor: Cursor, kind: int) -> bytes:
    if kind == 3:
        return cursor.rest()
    return cursor.take(cursor.unsigned((1, 2, 4)[kind]))


def dearmor(text: Secret) -> Secret:
    """The bytes of a keyring, a copy; one that is not armored is what it is.

    Raises:
        DecodeError: armor of something else than private keys, or malformed.
    """
    data = text.reveal().lstrip(b" \t\r\n")
    if not data.startswith(b"-----"):
        return Secret(data)
    blocks = _ARMOR.findall(data)
    if not blocks or len(blocks) != data.count(b"-----BEGIN "):
        raise DecodeError("OpenPGP armor is malformed, or not of private keys")
    try:
        return Secret(b"".join(binascii.a2b_base64(block) for block in blocks))
    except binascii.Error:
        raise DecodeError("OpenPGP armor is not base64") from None


def read_rsa_keys(keyring: Secret) -> tuple[rsa.RSAPrivateKey, ...]:
    """The RSA keys of a keyring, primary or not.

    Raises:
        DecodeError: malformed, or there is none.
        UnsupportedError: there are keys, and none is both RSA and without a passphrase.
    """
    found: list[rsa.RSAPrivateKey] = []
    reason = ""
    with dearmor(keyring) as opened:
        for packet in read_packets(opened.reveal()):
            if packet.tag not in (SECRET_KEY, SECRET_SUBKEY):
                continue
            try:
                found.append(_rsa_key(packet.body))
            except UnsupportedError as error:
                reason = reason or str(error)
    if found:
        return tuple(found)
    if reason:
        raise UnsupportedError(reason)
    raise DecodeError("OpenPGP keyring has no private key")


def _rsa_key(body: bytes) -> rsa.RSAPrivateKey:
    cursor = Cursor(body, "OpenPGP private key")
    version = cursor.unsigned(1)
    cursor.take(4)  # when it was made
    algorithm = cursor.unsigned(1)
    if version != 4 or algorithm not in RSA:
        raise UnsupportedError(
            f"OpenPGP key of version {version} and algorithm {algorithm}: "
            "layer keys are unwrapped with RSA keys of version 4 only"
        )
    n, e = _number(cursor), _number(cursor)
    if cursor.unsigned(1) != 0:
        raise UnsupportedError("OpenPGP key has a passphrase, and nobody is here to be asked")
    start = cursor.offset
    d, p, q, _ = (_number(cursor) for _ in range(4))
    covered = body[start : cursor.offset]
    if sum(covered) & 0xFFFF != cursor.unsigned(2) or cursor.remaining:
        raise DecodeError("OpenPGP private key has a wrong checksum")
    if not MIN_RSA_BITS <= n.bit_length() <= MAX_RSA_BITS:
        raise DecodeError(f"OpenPGP key has {n.bit_length()} bits")
    try:
        return rsa.RSAPrivateNumbers(
            p,
            q,
            d,
            rsa.rsa_crt_dmp1(d, p),
            rsa.rsa_crt_dmq1(d, q),
            rsa.rsa_crt_iqmp(p, q),
            rsa.RSAPublicNumbers(e, n),
        ).private_key()
    except (ValueError, ZeroDivisionError):
        raise DecodeError("OpenPGP private key is malformed") from None


def _number(cursor: Cursor) -> int:
    bits = cursor.unsigned(2)
    value = int.from_bytes(cursor.take((bits + 7) // 8))
    if value.bit_length() > bits:
        raise DecodeError("OpenPGP number is longer than it says")
    return value
