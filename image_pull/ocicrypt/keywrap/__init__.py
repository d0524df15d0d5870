"""The table of key-wrap schemes that can decrypt.

Source: docs/spec/ocicrypt.md §6 and 9.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from guest.deadline import Deadline
from guest.errors import UnsupportedError
from guest.secret import Secret
from image_pull.ocicrypt.annotations import PROVIDER
from image_pull.ocicrypt.protocol import KeyUnwrapper


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlocking:
    """What a guest has to unwrap keys with.

    Attributes:
        keys: answers for key providers; None where there is none.
        private_keys: PEM, DER, JWK or OpenPGP texts, for the schemes of public keys.
    """

    keys: KeyUnwrapper | None
    private_keys: Sequence[Secret] = ()


class Unwrap(Protocol):
    """One scheme's way from a packet to the private options."""

    async def __call__(self, packet: bytes, unlocking: Unlocking, deadline: Deadline) -> Secret:
        """Unwrap one packet.

        Raises:
            GuestError: this packet cannot be unwrapped with what there is.
        """
        ...


async def _jwe(packet: bytes, unlocking: Unlocking, deadline: Deadline) -> Secret:
    from image_pull.ocicrypt.keywrap.jwe import unwrap_jwe

    return await unwrap_jwe(packet, unlocking.private_keys, deadline)


async def _pkcs7(packet: bytes, unlocking: Unlocking, deadline: Deadline) -> Secret:
    from image_pull.ocicrypt.keywrap.pkcs7 import unwrap_pkcs7

    return await unwrap_pkcs7(packet, unlocking.private_keys, deadline)


async def _pgp(packet: bytes, unlocking: Unlocking, deadline: Deadline) -> Secret:
    from image_pull.ocicrypt.keywrap.pgp import unwrap_pgp

    return await unwrap_pgp(packet, unlocking.private_keys, deadline)


async def _pkcs11(packet: bytes, unlocking: Unlocking, deadline: Deadline) -> Secret:
    from image_pull.ocicrypt.keywrap.pkcs11 import unwrap_pkcs11

    return await unwrap_pkcs11(packet, unlocking.private_keys, deadline)


async def _provider(packet: bytes, unlocking: Unlocking, deadline: Deadline) -> Secret:
    from image_pull.ocicrypt.keywrap.keyprovider import unwrap_with_provider

    return await unwrap_with_provider(packet, unlocking.keys, deadline)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keywrap:
    """One row.

    Attributes:
        scheme: what follows `keys.` in the annotation; one that ends in a dot takes any name.
        unwrap: how.
        needs_private_key: whether it can be skipped where no private key was given.
    """

    scheme: str
    unwrap: Unwrap
    needs_private_key: bool


KEYWRAPS: Final = (
    Keywrap(scheme=PROVIDER, unwrap=_provider, needs_private_key=False),
    Keywrap(scheme="jwe", unwrap=_jwe, needs_private_key=True),
    Keywrap(scheme="pkcs7", unwrap=_pkcs7, needs_private_key=True),
    Keywrap(scheme="pgp", unwrap=_pgp, needs_private_key=True),
    Keywrap(scheme="pkcs11", unwrap=_pkcs11, needs_private_key=True),
)


def find_keywrap(scheme: str) -> Keywrap | None:
    """The row for an annotation's scheme."""
    for row in KEYWRAPS:
        if scheme == row.scheme or (row.scheme.endswith(".") and scheme.startswith(row.scheme)):
            return row
    return None


def unsupported(scheme: str) -> UnsupportedError:
    """The error for a scheme that has no row."""
    return UnsupportedError(f"key wrap scheme {scheme[:80]} is not supported")
