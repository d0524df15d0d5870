"""Whether a subkey is bound to its primary key, and the primary key's consent to it. Sans-I/O.

Source: docs/spec/image-pull.md 9.6; RFC 4880 sections 5.2.1, 5.2.3.1, 5.2.3.26 and 5.2.4.
"""

from collections.abc import Iterator
from typing import Final

from guest.crypto.openpgp_key import PacketKey
from guest.errors import DecodeError
from guest.wire import Cursor

VERSION: Final = 4
SUBKEY_BINDING: Final = 0x18
PRIMARY_BINDING: Final = 0x19
EMBEDDED: Final = 32
"""Kind of the subpacket that holds a signature."""


def verify_binding(primary: bytes, subkey: bytes, binding: bytes) -> None:
    """Require that a primary key took in a signing subkey, and the subkey agreed.

    Args:
        primary: body of the primary key's packet.
        subkey: body of the subkey's packet.
        binding: body of the signature packet.

    Raises:
        DecodeError: not such packets.
        IntegrityError: one of the two signatures is not good.
    """
    _check_kind(binding, SUBKEY_BINDING)
    both = _framed(primary) + _framed(subkey)
    PacketKey.decode(primary).verify(binding, both)
    consents = [body for kind, body in _subpackets(binding) if kind == EMBEDDED]
    if len(consents) != 1:
        raise DecodeError("OpenPGP subkey did not agree to its binding")
    _check_kind(consents[0], PRIMARY_BINDING)
    PacketKey.decode(subkey).verify(consents[0], both)


def _check_kind(signature: bytes, kind: int) -> None:
    if signature[:2] != bytes([VERSION, kind]):
        raise DecodeError(f"OpenPGP signature is not of the type {kind:#x}")


def _framed(key: bytes) -> bytes:
    if len(key) > 0xFFFF:
        raise DecodeError(f"OpenPGP key has {len(key)} bytes")
    return b"\x99" + len(key).to_bytes(2, "big") + key


def _subpackets(signature: bytes) -> Iterator[tuple[int, bytes]]:
    """Of both areas: an embedded signature proves itself, wherever it lies."""
    whole = Cursor(signature, "OpenPGP signature")
    whole.take(4)
    for _ in range(2):
        area = Cursor(whole.take(whole.unsigned(2)), "subpackets of an OpenPGP signature")
        while area.remaining:
            body = area.take(_length(area))
            if not body:
                raise DecodeError("OpenPGP signature has an empty subpacket")
            yield body[0] & 0x7F, body[1:]


def _length(area: Cursor) -> int:
    first = area.unsigned(1)
    if first < 192:
        return first
    if first < 255:
        return ((first - 192) << 8) + area.unsigned(1) + 192
    return area.unsigned(4)
