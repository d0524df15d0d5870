"""`pgp`: the private options in an OpenPGP message for RSA keys that the guest has.

Source: docs/spec/ocicrypt.md §9.3; RFC 4880 sections 5.1, 5.9, 5.13, 5.14 and 13.1.
"""

import asyncio
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from guest.deadline import Deadline
from guest.errors import DecodeError, GuestError, IntegrityError, LimitError, UnsupportedError
from guest.secret import Secret
from guest.wire import Cursor
from image_pull.ocicrypt.keywrap.openpgp import RSA, read_packets, read_rsa_keys
from image_pull.ocicrypt.keywrap.private_keys import MAX_KEY, is_openpgp

MAX_RECIPIENTS: Final = 64
NO_KEY: Final = "PGP: No suitable private key found for decryption"

_SESSION_KEY: Final = 1
_MARKER: Final = 10
_LITERAL: Final = 11
_SEALED: Final = 18
_KEY_LENGTHS: Final = {7: 16, 8: 24, 9: 32}
"""Kinds of AES to bytes of the key."""

_BLOCK: Final = 16
_MDC: Final = b"\xd3\x14"
"""Header of the packet that ends a message: the SHA-1 of everything before."""

_MDC_LENGTH: Final = len(_MDC) + 20


async def unwrap_pgp(packet: bytes, private_keys: Sequence[Secret], deadline: Deadline) -> Secret:
    """Open a message with the first private key that fits.

    Args:
        packet: a binary OpenPGP message.
        private_keys: keyrings, armored or not; keys of other kinds are passed over.
        deadline: not needed; nobody is asked. Other layers go on meanwhile.

    Raises:
        DecodeError: no such message, or no OpenPGP key.
        UnsupportedError: encrypted in another way than with RSA and AES.
        IntegrityError: no key fits, or the message was changed.
    """
    return await asyncio.to_thread(open_message, packet, private_keys)


def open_message(packet: bytes, private_keys: Sequence[Secret]) -> Secret:
    """See `unwrap_pgp`."""
    wrapped, sealed = _decode(packet)
    for key in _keys(private_keys):
        for encrypted in wrapped:
            session_key = _session_key(encrypted, key)
            if session_key is not None:
                with session_key:
                    return _literal(_open(sealed, session_key))
    raise IntegrityError(NO_KEY)


def _keys(texts: Sequence[Secret]) -> list[rsa.RSAPrivateKey]:
    found: list[rsa.RSAPrivateKey] = []
    failure: GuestError | None = None
    for text in texts:
        if not is_openpgp(text) or len(text) > MAX_KEY:
            continue
        try:
            found += read_rsa_keys(text)
        except GuestError as error:
            failure = failure or error
    if found:
        return found
    if failure is not None:
        raise failure
    raise DecodeError("No private keys found for PGP decryption")


def _decode(packet: bytes) -> tuple[list[int], bytes]:
    """What is encrypted for each RSA recipient, and the sealed message."""
    wrapped: list[int] = []
    others, sealed = 0, None
    for part in read_packets(packet):
        if sealed is not None:
            raise DecodeError("OpenPGP message has something behind its end")
        if part.tag == _SESSION_KEY:
            number = _recipient(part.body)
            if number is None:
                others += 1
            else:
                wrapped.append(number)
            if len(wrapped) + others > MAX_RECIPIENTS:
                raise LimitError(f"OpenPGP message has more than {MAX_RECIPIENTS} recipients")
        elif part.tag == _SEALED:
            sealed = part.body
        elif part.tag != _MARKER:
            raise UnsupportedError(f"OpenPGP message has a packet of kind {part.tag}")
    if sealed is None:
        raise DecodeError("OpenPGP message is not encrypted, or without protection")
    if not wrapped:
        raise UnsupportedError("OpenPGP message is for no RSA key")
    return wrapped, sealed


def _recipient(body: bytes) -> int | None:
    cursor = Cursor(body, "OpenPGP session key")
    version = cursor.unsigned(1)
    cursor.take(8)  # whose it is: some leave that out, so all keys are tried
    if version != 3 or cursor.unsigned(1) not in RSA:
        return None
    value = cursor.take((cursor.unsigned(2) + 7) // 8)
    cursor.finish()
    return int.from_bytes(value)


def _session_key(encrypted: int, key: rsa.RSAPrivateKey) -> Secret | None:
    try:
        wrapped = encrypted.to_bytes((key.key_size + 7) // 8)
        plain = key.decrypt(wrapped, PKCS1v15())
    except (ValueError, OverflowError):
        return None
    # OpenSSL may answer with random bytes where the padding is wrong
    length = _KEY_LENGTHS.get(plain[0] if plain else 0)
    if length is None or len(plain) != 1 + length + 2:
        return None
    if sum(plain[1:-2]) & 0xFFFF != int.from_bytes(plain[-2:]):
        return None
    return Secret(plain[1:-2])


def _open(sealed: bytes, key: Secret) -> bytes:
    """The packets inside, unchanged since they were sealed."""
    if sealed[:1] != b"\x01":
        raise UnsupportedError("OpenPGP message is sealed in another version than 1")
    if len(sealed) < 1 + _BLOCK + 2 + _MDC_LENGTH:
        raise DecodeError("OpenPGP message ends too early")
    opener = Cipher(AES(key.reveal()), CFB(bytes(_BLOCK))).decryptor()
    plain = opener.update(sealed[1:]) + opener.finalize()
    content, end = plain[:-20], plain[-20:]
    digest = hashlib.sha1(content, usedforsecurity=False).digest()
    if content[-2:] != _MDC or not hmac.compare_digest(digest, end):
        raise IntegrityError("OpenPGP message was changed")
    return content[_BLOCK + 2 : -2]


def _literal(content: bytes) -> Secret:
    parts = list(read_packets(content))
    if len(parts) != 1 or parts[0].tag != _LITERAL:
        raise UnsupportedError("OpenPGP message holds something else than plain data")
    cursor = Cursor(parts[0].body, "OpenPGP data")
    cursor.take(1)
    cursor.take(cursor.unsigned(1))
    cursor.take(4)
    return Secret(cursor.rest())
