"""`pkcs11`: the private options under RSA-OAEP, for keys that the guest has as a file.

Whoever encrypts uses the public key only; a token is needed where the private key never leaves
it. A guest has no token: a key file that names one is refused (`private_keys`).

Source: docs/spec/ocicrypt.md §9.4; RFC 8017 section 7.1.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP

from guest import jsonio, wire
from guest.deadline import Deadline
from guest.errors import DecodeError, IntegrityError, UnsupportedError
from guest.secret import Secret
from image_pull.ocicrypt.keywrap.private_keys import rsa_keys

MAX_RECIPIENTS: Final = 64
NO_KEY: Final = "PKCS11: No suitable private key found for decryption"

_HASHES: Final = {"sha1": hashes.SHA1, "sha256": hashes.SHA256}


class _Recipient(msgspec.Struct, frozen=True):
    blob: str
    version: int = 0
    hash: str = ""


class _Packet(msgspec.Struct, frozen=True):
    recipients: tuple[_Recipient, ...]
    version: int = 0


async def unwrap_pkcs11(
    packet: bytes, private_keys: Sequence[Secret], deadline: Deadline
) -> Secret:
    """Open a packet with the first private key that fits.

    Args:
        packet: its JSON.
        private_keys: PEM, DER or JWK texts.
        deadline: not needed; nobody is asked. Other layers go on meanwhile.

    Raises:
        DecodeError: no such packet, or no RSA key.
        UnsupportedError: of another version or hash.
        IntegrityError: no key fits.
    """
    return await asyncio.to_thread(open_packet, packet, private_keys)


def open_packet(packet: bytes, private_keys: Sequence[Secret]) -> Secret:
    """See `unwrap_pkcs11`."""
    schemes = _decode(packet)
    for key in rsa_keys(private_keys, "PKCS11"):
        for blob, scheme in schemes:
            try:
                return Secret(key.decrypt(blob, scheme))
            except ValueError:
                continue
    raise IntegrityError(NO_KEY)


def _decode(packet: bytes) -> list[tuple[bytes, OAEP]]:
    parsed = jsonio.decode(packet, _Packet)
    if len(parsed.recipients) > MAX_RECIPIENTS:
        raise DecodeError(f"PKCS11 packet has more than {MAX_RECIPIENTS} recipients")
    found = []
    for each in parsed.recipients:
        if parsed.version != 0 or each.version != 0:
            raise UnsupportedError("PKCS11 packet has a version above 0")
        form = _HASHES.get(each.hash or "sha1")
        if form is None:
            raise UnsupportedError(f"PKCS11 packet has the hash {each.hash[:20]!r}")
        found.append((wire.decode_base64(each.blob, "blob"), OAEP(MGF1(form()), form(), None)))
    return found
