"""OpenPGP signatures: the door to pysequoia, which is loaded with the first keyring.

The library verifies; the form of a message is judged in `openpgp_message`, and keys that ended or
were withdrawn are refused here, because the library asks only whether a key was good when the
signature says it was made.

Source: docs/spec/image-pull.md 9.6; RFC 4880 section 5.2.3.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from guest.crypto.openpgp_key import PacketKey
from guest.crypto.openpgp_message import SignedMessage
from guest.errors import DecodeError, IntegrityError, UnsupportedError

MAX_KEYRING: Final = 4 * 1024 * 1024
"""Most bytes of a keyring."""

FINGERPRINT: Final = 40
"""Digits of a version 4 fingerprint."""

_ARMOR: Final = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----.*?-----END PGP PUBLIC KEY BLOCK-----", re.DOTALL
)
_BEGIN: Final = b"-----BEGIN PGP"
_FOREIGN: Final = (RuntimeError, ValueError, TypeError, OSError)
"""What the library raises; its texts hold a trace after the first line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """Who made a good signature.

    Attributes:
        primary: fingerprint of the certificate's primary key, lower-case digits.
        key: fingerprint of the key that signed, the same or a subkey's.
    """

    primary: str
    key: str


class Keyring:
    """Certificates whose signatures count."""

    def __init__(self, certificates: tuple[Any, ...]) -> None:
        """Wrap pysequoia's certificates; `decode` makes one."""
        self._certificates = certificates

    @classmethod
    def decode(cls, data: bytes) -> "Keyring":
        """Read one or several certificates, binary or armored.

        Raises:
            DecodeError: not certificates, or none.
            UnsupportedError: pysequoia is not installed.
        """
        library = _library()
        if len(data) > MAX_KEYRING:
            raise DecodeError(f"keyring has {len(data)} bytes, at most {MAX_KEYRING}")
        blocks = _ARMOR.findall(data) if _BEGIN in data else [data]
        if len(blocks) != max(1, data.count(_BEGIN)):
            raise DecodeError("armored keyring holds something else than public keys")
        found: list[Any] = []
        for block in blocks:
            try:
                found += library.Cert.split_bytes(block)
            except _FOREIGN as error:
                raise DecodeError(f"keyring is malformed: {_first_line(error)}") from None
        if not found:
            raise DecodeError("keyring holds no key")
        return cls(tuple(found))

    @classmethod
    def union(cls, keyrings: Iterable["Keyring"]) -> "Keyring":
        """All certificates of several keyrings."""
        return cls(tuple(each for keyring in keyrings for each in keyring._certificates))

    def verify(self, message: SignedMessage, now: datetime | None) -> Signer:
        """Require a good signature by one of the certificates.

        A subkey must be bound to its primary key both ways and be meant for signing.

        Args:
            message: the signed text.
            now: when keys must not have ended yet; None passes over the end, not over the
                withdrawal of a key. The clock is the host's to influence.

        Raises:
            IntegrityError: no such signature.
        """
        try:
            signer = self._by_library(message)
        except IntegrityError:
            renewed = self._by_renewed_key(message, now)
            if renewed is None:
                raise
            signer = renewed
        if not signer.key.endswith(message.issuer.hex()) or len(signer.key) != FINGERPRINT:
            raise IntegrityError("OpenPGP signature is by another key than it announces")
        owner = [each for each in self._certificates if each.fingerprint == signer.primary]
        if not owner:
            raise IntegrityError("OpenPGP signature is by a key outside of the keyring")
        for certificate in owner:
            _check_current(certificate, signer, now)
        return signer

    def _by_library(self, message: SignedMessage) -> Signer:
        certificates = list(self._certificates)
        offer: Callable[[object], list[Any]] = lambda _: certificates  # noqa: E731  # a callback
        try:
            result = _library().verify(bytes=message.encoded, store=offer)
            good = list(result.valid_sigs)
            content = bytes(result.bytes or b"")
        except _FOREIGN as error:
            raise IntegrityError(f"OpenPGP signature: {_first_line(error)}") from None
        if len(good) != 1 or content != message.content:
            raise IntegrityError("OpenPGP signature is not over the text that was read")
        return Signer(primary=good[0].certificate, key=good[0].signing_key)

    def _by_renewed_key(self, message: SignedMessage, now: datetime | None) -> Signer | None:
        """A primary key that may sign today, whatever its own signature's date; or None."""
        for certificate in self._certificates:
            name = certificate.fingerprint
            if not name.endswith(message.issuer.hex()) or len(name) != FINGERPRINT:
                continue
            try:
                _verify_by_primary(certificate, message, now)
            except (DecodeError, IntegrityError):
                continue
            return Signer(primary=name, key=name)
        return None


def _verify_by_primary(certificate: Any, message: SignedMessage, now: datetime | None) -> None:
    from pysequoia.packet import PacketPile, Tag

    primary, *further = PacketPile.from_bytes(bytes(certificate))
    signature = list(PacketPile.from_bytes(message.encoded))[-1]
    PacketKey.decode(primary.body).verify(signature.body, message.content)
    made, end = signature.signature_created, signature.signature_expiration_time
    if made is None or made < primary.key_created or (now is not None and made > now):
        raise IntegrityError("OpenPGP signature is older than its key, or from the future")
    if end is not None and (now is None or end <= now):
        raise IntegrityError("OpenPGP signature has expired")
    newest: Any = None
    for packet in further:
        if packet.tag == Tag.PublicSubkey:
            break
        if packet.tag != Tag.Signature or packet.key_flags is None:
            continue
        if newest is None or packet.signature_created > newest.signature_created:
            newest = packet
    if newest is not None and not newest.key_flags.signing:
        raise IntegrityError("OpenPGP key is not for signing")


def _check_current(certificate: Any, signer: Signer, now: datetime | None) -> None:
    name = signer.primary.upper()
    try:
        is_revoked, ends = certificate.is_revoked, [certificate.expiration]
    except _FOREIGN as error:
        text = f"OpenPGP key {name} is not valid: {_first_line(error)}"
        raise IntegrityError(text) from None
    if is_revoked:
        raise IntegrityError(f"OpenPGP key {name} was revoked")
    if signer.key != signer.primary:
        ends.append(_subkey_end(certificate, signer.key))
    for end in ends:
        if end is not None and now is not None and end <= now:
            raise IntegrityError(f"OpenPGP key {name} expired at {end:%Y-%m-%dT%H:%M:%SZ}")


def _subkey_end(certificate: Any, fingerprint: str) -> datetime | None:
    """When a subkey ends, by its newest binding.

    Raises:
        IntegrityError: it was revoked, whoever signed that.
    """
    from pysequoia.packet import PacketPile, SignatureType, Tag

    created: datetime | None = None
    newest: Any = None
    is_it = False
    for packet in PacketPile.from_bytes(bytes(certificate)):
        if packet.tag in (Tag.PublicKey, Tag.PublicSubkey, Tag.SecretKey, Tag.SecretSubkey):
            is_it = packet.fingerprint == fingerprint
            created = packet.key_created if is_it else created
        elif is_it and packet.tag == Tag.Signature:
            if packet.signature_type == SignatureType.SubkeyRevocation:
                raise IntegrityError(f"OpenPGP subkey {fingerprint.upper()} was revoked")
            if packet.signature_type == SignatureType.SubkeyBinding and (
                newest is None or packet.signature_created > newest.signature_created
            ):
                newest = packet
    if created is None or newest is None:
        raise IntegrityError(f"OpenPGP subkey {fingerprint.upper()} is not bound")
    life = newest.key_validity_period
    return None if life is None else created + life


def _library() -> Any:
    try:
        import pysequoia
    except ImportError as error:
        raise UnsupportedError(
            "OpenPGP signatures need the library pysequoia (extra `pgp`), which is not installed"
        ) from error
    return pysequoia


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]
