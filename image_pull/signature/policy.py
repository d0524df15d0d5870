"""Signature policy: the document, and which requirements are for an image. Sans-I/O.

Source: docs/spec/image-pull.md, sections 9.2 and 9.3; containers-policy.json(5).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import msgspec

from guest.errors import DecodeError
from guest.jsonio import check
from image_pull.reference import ImageReference
from image_pull.signature.identity import SignedIdentity
from image_pull.signature.key_source import KeySource, given_in, read_sources
from image_pull.signature.keyless import LOG_KEYS, Keyless, read_log_keys

MAX_POLICY: Final = 4 * 1024 * 1024
MAX_DEPTH: Final = 16
TRANSPORT: Final = "docker"

KEY_MEMBERS: Final = ("keyPath", "keyPaths", "keyData", "keyDatas")
"""Ways to say which keys; a requirement uses one of them."""

MEMBERS: Final = MappingProxyType(
    {
        "insecureAcceptAnything": frozenset({"type"}),
        "reject": frozenset({"type"}),
        "signedBy": frozenset(
            {"type", "keyType", "keyPath", "keyPaths", "keyData", "signedIdentity"}
        ),
        "sigstoreSigned": frozenset({"type", *KEY_MEMBERS, "fulcio", *LOG_KEYS, "signedIdentity"}),
    }
)
"""Requirement type to the members it may have; another one may be a check that is misspelt."""

KEY_TYPE: Final = "GPGKeys"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One thing that must hold.

    Attributes:
        kind: its `type`.
        keys: any of them is as good as another; none where the policy does not say them in
            exactly one way, and then it cannot hold.
        keyless: signers with a certificate instead of keys, or None.
        log_keys: of the signature logs, one of which must have every signature; none needed
            where there are none.
        identity: what the signature's name must be, or None if the policy does not say.
    """

    kind: str
    keys: tuple[KeySource, ...] = ()
    keyless: Keyless | None = None
    log_keys: tuple[KeySource, ...] = ()
    identity: SignedIdentity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A whole policy.

    Attributes:
        default: for what no scope of the transport is for.
        scopes: of the transport `docker`; the scope "" is its own default.
    """

    default: tuple[Requirement, ...]
    scopes: Mapping[str, tuple[Requirement, ...]]

    @classmethod
    def parse(cls, data: bytes) -> "Policy":
        """Parse policy.json strictly: nothing unknown, nothing twice, no empty list.

        Raises:
            DecodeError: not such a policy.
        """
        check(data, max_depth=MAX_DEPTH, max_bytes=MAX_POLICY)
        try:
            document = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DecodeError("policy is not JSON") from error
        if not isinstance(document, dict) or "default" not in document:
            raise DecodeError("policy is no object with a default")
        unknown = set(document) - {"default", "transports"}
        if unknown:
            raise DecodeError(f"policy has the unknown member {min(unknown)[:60]}")
        transports = document.get("transports", {})
        if not isinstance(transports, dict):
            raise DecodeError("transports of the policy are no object")
        found: dict[str, tuple[Requirement, ...]] = {}
        for transport, scopes in transports.items():
            if not isinstance(scopes, dict):
                raise DecodeError(f"scopes of {transport[:60]} are no object")
            parsed = {
                scope: _requirements(each, f"{transport[:60]} {scope[:200]}")
                for scope, each in scopes.items()
            }
            if transport == TRANSPORT:
                found = parsed
        return cls(
            default=_requirements(document["default"], "default"), scopes=MappingProxyType(found)
        )

    def requirements_for(self, reference: ImageReference) -> tuple[Requirement, ...]:
        """The one list that applies, of the most specific scope; all of it must hold."""
        for scope in scopes_of(reference):
            if scope in self.scopes:
                return self.scopes[scope]
        return self.default


def _requirements(value: object, where: str) -> tuple[Requirement, ...]:
    if not isinstance(value, list) or not value:
        raise DecodeError(f"requirements of {where} are no list, or an empty one")
    return tuple(_requirement(each, where) for each in value)


def _requirement(value: object, where: str) -> Requirement:
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(kind, str) or kind not in MEMBERS:
        raise DecodeError(f"requirement of {where} has no known type")
    unknown = set(value) - MEMBERS[kind]
    if unknown:
        raise DecodeError(f"requirement {kind} of {where} has the member {min(unknown)[:60]}")
    if kind == "signedBy" and value.get("keyType") != KEY_TYPE:
        raise DecodeError(f"requirement signedBy of {where} has no keyType {KEY_TYPE}")
    fulcio = value.get("fulcio")
    keyless = None if fulcio is None else Keyless.from_json(fulcio, where)
    keys = _keys(value, where)
    if keyless is not None and given_in(value, KEY_MEMBERS):
        raise DecodeError(f"requirement {kind} of {where} has keys beside fulcio")
    identity = value.get("signedIdentity")
    return Requirement(
        kind=kind,
        keys=keys,
        keyless=keyless,
        log_keys=read_log_keys(value, keyless, where),
        identity=None if identity is None else SignedIdentity.from_json(identity),
    )


def _keys(members: Mapping[str, Any], where: str) -> tuple[KeySource, ...]:
    given = given_in(members, KEY_MEMBERS)
    found = [read_sources(members, name, where) for name in given]
    return found[0] if len(found) == 1 else ()


def scopes_of(reference: ImageReference) -> Iterator[str]:
    """Scopes that are for an image, the most specific first, the transport's own last."""
    yield str(reference)
    name = reference.name
    while name:
        yield name
        name = name.rpartition("/")[0]
    host = reference.registry.partition(":")[0]
    while "." in host:
        host = host.partition(".")[2]
        yield f"*.{host}"
    yield ""
