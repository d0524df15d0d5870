"""`pkcs7`: the private options in a CMS envelope for RSA keys that the guest has.

The recipient is found by trying: no certificate is needed. ocicrypt writes two values in a way
that is not DER's, which is why OpenSSL cannot read its envelopes; both ways are read.

Source: docs/spec/ocicrypt.md §9.2; RFC 5652 section 6; RFC 5084 section 3.2.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from guest.deadline import Deadline
from guest.errors import DecodeError, IntegrityError, LimitError, UnsupportedError
from guest.secret import Secret
from image_pull.ocicrypt.keywrap import der
from image_pull.ocicrypt.keywrap.der import DerReader, decode_oid
from image_pull.ocicrypt.keywrap.private_keys import rsa_keys

MAX_RECIPIENTS: Final = 64
NONCE_LENGTH: Final = 12
TAG_LENGTH: Final = 16
NO_KEY: Final = "PKCS7: No suitable private key found for decryption"

_ENVELOPED: Final = "1.2.840.113549.1.7.3"
_DATA: Final = "1.2.840.113549.1.7.1"
_RSA: Final = "1.2.840.113549.1.1.1"
_KEY_LENGTHS: Final = {
    "2.16.840.1.101.3.4.1.6": 16,
    "2.16.840.1.101.3.4.1.26": 24,
    "2.16.840.1.101.3.4.1.46": 32,
}
"""AES-GCM by object identifier to bytes of its key."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What an envelope holds.

    Attributes:
        wrapped: the content key for each recipient.
        key_length: of the content key, in bytes.
        nonce: of GCM.
        sealed: ciphertext and tag.
    """

    wrapped: tuple[bytes, ...]
    key_length: int
    nonce: bytes
    sealed: bytes


async def unwrap_pkcs7(packet: bytes, private_keys: Sequence[Secret], deadline: Deadline) -> Secret:
    """Open an envelope with the first private key that fits.

    Args:
        packet: DER of a ContentInfo.
        private_keys: PEM, DER or JWK texts.
        deadline: not needed; nobody is asked. Other layers go on meanwhile.

    Raises:
        DecodeError: no such envelope, or no RSA key.
        UnsupportedError: encrypted in another way than with RSA and AES-GCM.
        IntegrityError: no key fits.
    """
    return await asyncio.to_thread(open_envelope, packet, private_keys)


def open_envelope(packet: bytes, private_keys: Sequence[Secret]) -> Secret:
    """See `unwrap_pkcs7`."""
    envelope = decode_envelope(packet)
    for key in rsa_keys(private_keys, "PKCS7"):
        for wrapped in envelope.wrapped:
            opened = _open(envelope, wrapped, key)
            if opened is not None:
                return opened
    raise IntegrityError(NO_KEY)


def _open(envelope: Envelope, wrapped: bytes, key: rsa.RSAPrivateKey) -> Secret | None:
    """The content; None where this key is not for this recipient, or something was changed."""
    try:
        with Secret(key.decrypt(wrapped, PKCS1v15())) as content_key:
            # OpenSSL may answer with a random key where the padding is wrong
            if len(content_key) != envelope.key_length:
                return None
            opener = AESGCM(content_key.reveal())
            return Secret(opener.decrypt(envelope.nonce, envelope.sealed, None))
    except (ValueError, InvalidTag):
        return None


def decode_envelope(packet: bytes) -> Envelope:
    """Parse an envelope.

    Raises:
        DecodeError: not one.
        UnsupportedError: its algorithms are others.
        LimitError: more than `MAX_RECIPIENTS`.
    """
    outer = DerReader(packet)
    info = outer.enter(der.SEQUENCE)
    outer.finish()
    if decode_oid(info.read(der.OID)) != _ENVELOPED:
        raise DecodeError("PKCS7 message is no envelope")
    data = info.enter(der.CONTEXT_0).enter(der.SEQUENCE)
    data.read(der.INTEGER)
    if data.peek() == der.CONTEXT_0:
        data.read()  # who encrypted it
    recipients = data.enter(der.SET)
    wrapped: list[bytes] = []
    while not recipients.is_done:
        if len(wrapped) == MAX_RECIPIENTS:
            raise LimitError(f"PKCS7 envelope has more than {MAX_RECIPIENTS} recipients")
        wrapped.append(_recipient(recipients.enter(der.SEQUENCE)))
    return _content(tuple(wrapped), data.enter(der.SEQUENCE))


def _recipient(info: DerReader) -> bytes:
    info.read(der.INTEGER)
    info.read(der.SEQUENCE, der.CONTEXT_0, der.BARE_CONTEXT_0)  # whose it is
    algorithm = decode_oid(info.enter(der.SEQUENCE).read(der.OID))
    if algorithm != _RSA:
        raise UnsupportedError(f"PKCS7 envelope wraps its key with {algorithm}, not with RSA")
    wrapped = info.read(der.OCTET_STRING)
    info.finish()
    return wrapped


def _content(wrapped: tuple[bytes, ...], info: DerReader) -> Envelope:
    if decode_oid(info.read(der.OID)) != _DATA:
        raise DecodeError("PKCS7 envelope holds no data")
    cipher = info.enter(der.SEQUENCE)
    algorithm = decode_oid(cipher.read(der.OID))
    if algorithm not in _KEY_LENGTHS:
        raise UnsupportedError(f"PKCS7 envelope is encrypted with {algorithm}, not with AES-GCM")
    # Compat: ocicrypt has the parameters in a second sequence, with tags that are not DER's
    parameters = cipher.enter(der.SEQUENCE, der.BARE_SEQUENCE)
    if parameters.peek() == der.SEQUENCE:
        parameters = parameters.enter(der.SEQUENCE)
    nonce = parameters.read(der.OCTET_STRING, der.CONTEXT_4)
    length = int.from_bytes(parameters.read(der.INTEGER)) if not parameters.is_done else 12
    if len(nonce) != NONCE_LENGTH or length != TAG_LENGTH:
        raise DecodeError("PKCS7 envelope has a nonce or tag of another length")
    if info.peek() == der.CONTEXT_0:
        # Compat: ocicrypt puts an octet string inside of what already is one
        parts, sealed = info.enter(der.CONTEXT_0), b""
        while not parts.is_done:
            sealed += parts.read(der.OCTET_STRING)
    else:
        sealed = info.read(der.BARE_CONTEXT_0)
    return Envelope(wrapped, _KEY_LENGTHS[algorithm], nonce, sealed)
