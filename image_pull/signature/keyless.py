"""What a policy says of signers without a key of their own: `fulcio`. Sans-I/O.

Beside the forms of containers-policy.json(5) it may name a trusted root of Sigstore, which has
authorities, certificate logs and signature logs in one document.

Source: docs/spec/image-pull.md 9.2; containers-policy.json(5), "sigstoreSigned"; ADR 0008.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from guest.errors import DecodeError
from image_pull.signature.key_source import KeySource, given_in, read_sources

AUTHORITIES: Final = ("caPath", "caData")
TRUSTED_ROOTS: Final = ("trustedRootPath", "trustedRootData")
LOG_KEYS: Final = (
    "rekorPublicKeyPath",
    "rekorPublicKeyPaths",
    "rekorPublicKeyData",
    "rekorPublicKeyDatas",
)
"""Members of the requirement, not of `fulcio`."""

_MEMBERS: Final = frozenset({*AUTHORITIES, *TRUSTED_ROOTS, "oidcIssuer", "subjectEmail"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyless:
    """Who may sign, and who says that it was them.

    Attributes:
        issuer: of the identity, exactly.
        email: of the signer, exactly.
        source: of the certificates of the authority, or of the trusted root.
        is_trusted_root: which of the two.
    """

    issuer: str
    email: str
    source: KeySource
    is_trusted_root: bool

    @classmethod
    def from_json(cls, value: object, where: str) -> "Keyless":
        """Read a decoded `fulcio`.

        Raises:
            DecodeError: a member too many, or missing, or no text.
        """
        if not isinstance(value, Mapping):
            raise DecodeError(f"fulcio of {where} is no object")
        members: Mapping[str, Any] = value
        unknown = set(members) - _MEMBERS
        if unknown:
            raise DecodeError(f"fulcio of {where} has the member {min(unknown)[:60]}")
        given = given_in(members, (*AUTHORITIES, *TRUSTED_ROOTS))
        if len(given) != 1:
            raise DecodeError(f"fulcio of {where} has not one authority or trusted root")
        for name in ("oidcIssuer", "subjectEmail"):
            if not isinstance(members.get(name), str) or not members[name]:
                raise DecodeError(f"fulcio of {where} has no {name}")
        return cls(
            issuer=members["oidcIssuer"],
            email=members["subjectEmail"],
            source=read_sources(members, given[0], where)[0],
            is_trusted_root=given[0] in TRUSTED_ROOTS,
        )


def read_log_keys(
    members: Mapping[str, Any], keyless: Keyless | None, where: str
) -> tuple[KeySource, ...]:
    """The keys of signature logs; any of them is as good as another.

    Raises:
        DecodeError: said in several ways; missing beside an authority, whose certificates end
            after minutes; or beside a trusted root, which has its own.
    """
    given = given_in(members, LOG_KEYS)
    if len(given) > 1:
        raise DecodeError(f"{given[1]} of {where} comes beside {given[0]}")
    if keyless is not None and keyless.is_trusted_root and given:
        raise DecodeError(f"{given[0]} of {where} comes beside a trusted root")
    if keyless is not None and not keyless.is_trusted_root and not given:
        raise DecodeError(f"fulcio of {where} comes without rekorPublicKeyPath or -Data")
    return read_sources(members, given[0], where) if given else ()
