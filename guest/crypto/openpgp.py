"""OpenPGP signatures: the door to pysequoia, which is loaded with the first keyring.

The library verifies; the form of a message is judged in `openpgp_message`, and keys that ended or
were withdrawn are refused here, because the library asks only whether a key was good when the
signature says it was made.

Source: docs/spec/image-pull.md 9.6; RFC 4880 section 5.2.3.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from guest.crypto.openpgp_binding import verify_binding
from guest.crypto.openpgp_key import PacketKey
from guest.crypto.openpgp_message import SignedMessage
from guest.errors import DecodeError, GuestError, IntegrityError, UnsupportedError

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
            with _translated("keyring is malformed", DecodeError):
                found += library.Cert.split_bytes(block)
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
        with _translated("OpenPGP signature"):
            result = _library().verify(bytes=message.encoded, store=offer)
            good = list(result.valid_sigs)
            content = bytes(result.bytes or b"")
        if len(good) != 1 or content != message.content:
            raise IntegrityError("OpenPGP signature is not over the text that was read")
        return Signer(primary=good[0].certificate, key=good[0].signing_key)

    def _by_renewed_key(self, message: SignedMessage, now: datetime | None) -> Signer | None:
        """A key that may sign today, whatever the date of its binding; or None."""
        for certificate in self._certificates:
            for key in _packets(bytes(certificate)):
                name = key.fingerprint or ""
                if not name.endswith(message.issuer.hex()) or len(name) != FINGERPRINT:
                    continue
                try:
                    with _translated("OpenPGP signature"):
                        _verify_today(_Part.find(certificate, name), message, now)
                except (DecodeError, IntegrityError):
                    continue
                return Signer(primary=certificate.fingerprint, key=name)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A key of a certificate, with what its owner says of it now.

    Attributes:
        primary: packet of the primary key.
        key: packet of this key, the same one or a subkey's.
        statement: packet of the newest signature that says what the key is for, or None.
    """

    primary: Any
    key: Any
    statement: Any

    @classmethod
    def find(cls, certificate: Any, fingerprint: str) -> "_Part":
        """Look for a key.

        Raises:
            IntegrityError: there is none, or it was revoked, by whomever: who can put a false
                revocation into the keyring can leave out the key.
        """
        from pysequoia.packet import SignatureType, Tag

        revocations = (SignatureType.KeyRevocation, SignatureType.SubkeyRevocation)
        certifications = (SignatureType.CertificationRevocation, SignatureType.PrimaryKeyBinding)
        primary, *rest = _packets(bytes(certificate))
        current, found, statement = primary, None, None
        for packet in (primary, *rest):
            if packet.fingerprint is not None:
                current = packet
                found = current if packet.fingerprint == fingerprint else found
            elif packet.tag == Tag.Signature and current.fingerprint in (
                fingerprint,
                primary.fingerprint,
            ):
                if packet.signature_type in revocations:
                    raise IntegrityError(f"OpenPGP key {current.fingerprint.upper()} was revoked")
                is_statement = current.fingerprint == fingerprint and packet.key_flags is not None
                if packet.signature_type in certifications or not is_statement:
                    continue
                if statement is None or packet.signature_created > statement.signature_created:
                    statement = packet
        if found is None:
            raise IntegrityError(f"OpenPGP key {fingerprint.upper()} is not in the keyring")
        return cls(primary=primary, key=found, statement=statement)

    @property
    def end(self) -> datetime | None:
        """When a subkey ends; the library knows when a primary key does."""
        if self.key is self.primary or self.statement is None:
            return None
        life = self.statement.key_validity_period
        return None if life is None else self.key.key_created + life


def _verify_today(part: _Part, message: SignedMessage, now: datetime | None) -> None:
    signature = _packets(message.encoded)[-1]
    PacketKey.decode(part.key.body).verify(signature.body, message.content)
    made, end = signature.signature_created, signature.signature_expiration_time
    if made is None or made < part.key.key_created or (now is not None and made > now):
        raise IntegrityError("OpenPGP signature is older than its key, or from the future")
    if end is not None and (now is None or end <= now):
        raise IntegrityError("OpenPGP signature has expired")
    if part.statement is not None and not part.statement.key_flags.signing:
        raise IntegrityError("OpenPGP key is not for signing")
    if part.key is part.primary:
        return
    if part.statement is None:
        raise IntegrityError("OpenPGP subkey is not bound")
    verify_binding(part.primary.body, part.key.body, part.statement.body)


def _check_current(certificate: Any, signer: Signer, now: datetime | None) -> None:
    name = signer.primary.upper()
    with _translated(f"OpenPGP key {name} is not valid"):
        is_revoked, ends = certificate.is_revoked, [certificate.expiration]
        if is_revoked:
            raise IntegrityError(f"OpenPGP key {name} was revoked")
        ends.append(_Part.find(certificate, signer.key).end)
    for end in ends:
        if end is not None and now is not None and end <= now:
            raise IntegrityError(f"OpenPGP key {name} expired at {end:%Y-%m-%dT%H:%M:%SZ}")


def _packets(data: bytes) -> list[Any]:
    from pysequoia.packet import PacketPile

    with _translated("OpenPGP packets"):
        return list(PacketPile.from_bytes(data))


def _library() -> Any:
    try:
        import pysequoia
    except ImportError as error:
        raise UnsupportedError(
            "OpenPGP signatures need the library pysequoia (extra `pgp`), which is not installed"
        ) from error
    return pysequoia


@contextmanager
def _translated(what: str, kind: type[GuestError] = IntegrityError) -> Iterator[None]:
    """Turn what the library raises into `kind`; even an attribute of a packet may raise."""
    try:
        yield
    except _FOREIGN as error:
        raise kind(f"{what}: {(str(error).splitlines() or [''])[0][:200]}") from None
