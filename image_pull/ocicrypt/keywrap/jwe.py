"""`jwe`: the private options in a JWE for private keys that the guest has.

With `cryptography` and not joserfc, for the reasons that `guest.crypto.jose` gives: the JSON
forms need the protected header as it was received. Go's general form repeats the first
recipient's key at top level; that is read over.

Source: docs/spec/ocicrypt.md §9.1; RFC 7516 §5.2 and 7.2; RFC 7518 §4 and 5.
"""

import asyncio
import hashlib
import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from guest import jsonio, wire
from guest.deadline import Deadline
from guest.errors import DecodeError, GuestError, IntegrityError
from guest.prepared import prepared
from guest.secret import Secret
from image_pull.ocicrypt.keywrap.private_keys import PrivateKey, decode_private_key

MAX_HEADER: Final = 16 * 1024
"""Most characters of an encoded header."""

MAX_RECIPIENTS: Final = 64
NO_KEY: Final = "JWE: No suitable private key found for decryption"

_ECDH_BITS: Final = {"ECDH-ES+A128KW": 128, "ECDH-ES+A192KW": 192, "ECDH-ES+A256KW": 256}
_OAEP_HASHES: Final = {"RSA-OAEP": hashes.SHA1, "RSA-OAEP-256": hashes.SHA256}
_GCM_LENGTHS: Final = {"A128GCM": 16, "A192GCM": 24, "A256GCM": 32}
_CBC_HASHES: Final = {
    "A128CBC-HS256": hashlib.sha256,
    "A192CBC-HS384": hashlib.sha384,
    "A256CBC-HS512": hashlib.sha512,
}
_CBC_LENGTHS: Final = {"A128CBC-HS256": 32, "A192CBC-HS384": 48, "A256CBC-HS512": 64}
_CURVES: Final[dict[str, ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}


class _Epk(msgspec.Struct, frozen=True):
    kty: str = ""
    crv: str = ""
    x: str = ""
    y: str = ""


class _Header(msgspec.Struct, frozen=True):
    alg: str | None = None
    enc: str | None = None
    epk: _Epk | None = None
    apu: str | None = None
    apv: str | None = None
    crit: msgspec.Raw | None = None
    zip: msgspec.Raw | None = None


class _Recipient(msgspec.Struct, frozen=True):
    header: _Header = _Header()
    encrypted_key: str = ""


class _Jwe(msgspec.Struct, frozen=True):
    protected: str
    iv: str
    ciphertext: str
    tag: str
    unprotected: _Header = _Header()
    header: _Header = _Header()
    encrypted_key: str = ""
    recipients: tuple[_Recipient, ...] = ()
    aad: str | None = None


@dataclass(frozen=True, slots=True)
class _Sealed:
    """One recipient's way into the content."""

    header: _Header
    encrypted_key: bytes


@dataclass(frozen=True, slots=True)
class _Content:
    """The content and what opens it; the same for all recipients."""

    encryption: str
    iv: bytes
    ciphertext: bytes
    tag: bytes
    aad: bytes


async def unwrap_jwe(packet: bytes, private_keys: Sequence[Secret], deadline: Deadline) -> Secret:
    """Open a JWE with the first private key that fits.

    Args:
        packet: JSON serialization, flattened or general, or the compact form.
        private_keys: PEM, DER or JWK texts.
        deadline: not needed; nobody is asked. Other layers go on meanwhile.

    Raises:
        DecodeError: no such JWE.
        IntegrityError: no key fits.
    """
    return await asyncio.to_thread(open_packet, packet, private_keys)


def open_packet(packet: bytes, private_keys: Sequence[Secret]) -> Secret:
    """See `unwrap_jwe`.

    Raises:
        DecodeError: no such JWE, or no private keys at all.
        IntegrityError: no key fits.
    """
    if not private_keys:
        raise DecodeError("No private keys found for JWE decryption")
    content, recipients = _decode(packet)
    failures = []
    for text in private_keys:
        try:
            key = decode_private_key(text)
        except DecodeError as error:
            failures.append(str(error))
            continue
        for recipient in recipients:
            try:
                with _content_key(recipient, key, content.encryption) as content_key:
                    return _open(content, content_key)
            except GuestError as error:
                failures.append(str(error))
    raise IntegrityError("; ".join([NO_KEY, *sorted(set(failures))[:3]]))


def _decode(packet: bytes) -> tuple[_Content, list[_Sealed]]:
    if packet.count(b".") == 4 and not packet.lstrip().startswith(b"{"):
        parts = packet.strip().split(b".")
        names = ("protected", "encrypted_key", "iv", "ciphertext", "tag")
        members = [wire.decode_utf8(part, "JWE") for part in parts]
        jwe = msgspec.convert(dict(zip(names, members, strict=True)), prepared(_Jwe))
    else:
        jwe = jsonio.decode(packet, _Jwe)
    if len(jwe.protected) > MAX_HEADER or len(jwe.recipients) > MAX_RECIPIENTS:
        raise DecodeError("jose.ParseEncrypted failed: header too long or too many recipients")
    encoded = wire.decode_base64url(jwe.protected, "protected") or b"{}"
    shared = _joined(jsonio.decode(encoded, _Header), jwe.unprotected)
    if shared.enc is None or shared.crit is not None or shared.zip is not None:
        raise DecodeError("jose.ParseEncrypted failed: no enc, or crit or zip")
    aad = jwe.protected if jwe.aad is None else f"{jwe.protected}.{jwe.aad}"
    content = _Content(
        shared.enc,
        wire.decode_base64url(jwe.iv, "iv"),
        wire.decode_base64url(jwe.ciphertext, "ciphertext"),
        wire.decode_base64url(jwe.tag, "tag"),
        aad.encode("ascii", "replace"),
    )
    # Compat: go-jose writes a top-level encrypted_key beside recipients, which then rule
    rows = jwe.recipients or (_Recipient(header=jwe.header, encrypted_key=jwe.encrypted_key),)
    return content, [
        _Sealed(
            _joined(shared, row.header), wire.decode_base64url(row.encrypted_key, "encrypted_key")
        )
        for row in rows
    ]


def _joined(first: _Header, second: _Header) -> _Header:
    """What is protected rules."""
    return _Header(
        *(
            getattr(second, name) if getattr(first, name) is None else getattr(first, name)
            for name in _Header.__struct_fields__
        )
    )


def _content_key(recipient: _Sealed, key: PrivateKey, encryption: str) -> Secret:
    algorithm = recipient.header.alg or ""
    if isinstance(key, rsa.RSAPrivateKey):
        opened = _unwrap_rsa(algorithm, recipient.encrypted_key, key)
    else:
        opened = _unwrap_ec(recipient.header, algorithm, recipient.encrypted_key, key)
    expected = _GCM_LENGTHS.get(encryption) or _CBC_LENGTHS.get(encryption)
    if expected is None:
        raise DecodeError(f"JWE has the unsupported enc {encryption[:40]!r}")
    if len(opened) != expected:
        opened.wipe()
        raise IntegrityError("JWE was not made for this key")
    return opened


def _unwrap_rsa(algorithm: str, wrapped: bytes, key: rsa.RSAPrivateKey) -> Secret:
    form = _OAEP_HASHES.get(algorithm)
    if form is None:
        raise DecodeError(f"JWE has the alg {algorithm[:40]!r}, the key is RSA")
    scheme = rsa_padding.OAEP(rsa_padding.MGF1(form()), form(), None)
    try:
        return Secret(key.decrypt(wrapped, scheme))
    except ValueError as error:
        raise IntegrityError("JWE was not made for this key") from error


def _unwrap_ec(
    header: _Header, algorithm: str, wrapped: bytes, key: ec.EllipticCurvePrivateKey
) -> Secret:
    bits = _ECDH_BITS.get(algorithm)
    if bits is None or header.epk is None:
        raise DecodeError(f"JWE has the alg {algorithm[:40]!r} or no epk, the key is EC")
    shared = key.exchange(ec.ECDH(), _ephemeral(header.epk, key.curve.name))
    name = algorithm.encode("ascii")
    parties = [wire.decode_base64url(text or "", "apu or apv") for text in (header.apu, header.apv)]
    info = struct.pack(">I", len(name)) + name
    for party in parties:
        info += struct.pack(">I", len(party)) + party
    seed = b"\0\0\0\1" + shared + info + struct.pack(">I", bits)
    try:
        return Secret(aes_key_unwrap(hashlib.sha256(seed).digest()[: bits // 8], wrapped))
    except (InvalidUnwrap, ValueError) as error:
        raise IntegrityError("JWE was not made for this key") from error


def _ephemeral(epk: _Epk, curve: str) -> ec.EllipticCurvePublicKey:
    form = _CURVES.get(epk.crv)
    if epk.kty != "EC" or form is None or form.name != curve:
        raise DecodeError(f"JWE is for the curve {epk.crv[:20]!r}")
    x, y = wire.decode_base64url(epk.x, "epk x"), wire.decode_base64url(epk.y, "epk y")
    numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), form)
    try:
        return numbers.public_key()
    except ValueError as error:
        raise DecodeError("epk is not a point of its curve") from error


def _open(content: _Content, key: Secret) -> Secret:
    if content.encryption in _GCM_LENGTHS:
        if len(content.iv) != 12 or len(content.tag) != 16:
            raise DecodeError("JWE has an iv or a tag of another length")
        try:
            sealed = content.ciphertext + content.tag
            return Secret(AESGCM(key.reveal()).decrypt(content.iv, sealed, content.aad))
        except InvalidTag as error:
            raise IntegrityError("JWE was changed") from error
    return _open_cbc(content, key)


def _open_cbc(content: _Content, key: Secret) -> Secret:
    """AES-CBC with HMAC: the first half of the key authenticates, the second encrypts."""
    half = len(key) // 2
    length = struct.pack(">Q", 8 * len(content.aad))
    covered = content.aad + content.iv + content.ciphertext + length
    form = _CBC_HASHES[content.encryption]
    tag = hmac.new(key.reveal()[:half], covered, form).digest()[:half]
    if not hmac.compare_digest(tag, content.tag):
        raise IntegrityError("JWE was changed")
    if len(content.iv) != 16 or len(content.ciphertext) % 16:
        raise DecodeError("JWE has an iv or a ciphertext of another length")
    opener = Cipher(AES(key.reveal()[half:]), CBC(content.iv)).decryptor()
    unpadder = padding.PKCS7(128).unpadder()
    try:
        padded = opener.update(content.ciphertext) + opener.finalize()
        return Secret(unpadder.update(padded) + unpadder.finalize())
    except ValueError as error:
        raise IntegrityError("JWE was changed") from error
