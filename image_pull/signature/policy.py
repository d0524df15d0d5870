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

MAX_POLICY: Final = 4 * 1024 * 1024
MAX_DEPTH: Final = 16
TRANSPORT: Final = "docker"

MEMBERS: Final = MappingProxyType(
    {
        "insecureAcceptAnything": frozenset({"type"}),
        "reject": frozenset({"type"}),
        "signedBy": frozenset(
            {"type", "keyType", "keyPath", "keyPaths", "keyData", "signedIdentity"}
        ),
        "sigstoreSigned": frozenset(
            {"type", "keyPath", "keyData", "keyPaths", "keyDatas", "signedIdentity"}
        ),
    }
)
"""Requirement type to the members it may have; another one may be a check that is misspelt."""

KEY_TYPE: Final = "GPGKeys"
MAX_KEYS: Final = 64
"""Most keys of one requirement."""


@dataclass(frozen=True, slots=True)
class KeyAt:
    """A key or keyring by resource URI."""

    uri: str


@dataclass(frozen=True, slots=True)
class KeyHere:
    """A key or keyring as text."""

    data: str


KeySource = KeyAt | KeyHere
KEY_MEMBERS: Final = ("keyPath", "keyPaths", "keyData", "keyDatas")
"""Ways to say which keys; a requirement uses one of them."""
"""Member to what it holds, and whether it is a list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One thing that must hold.

    Attributes:
        kind: its `type`.
        keys: any of them is as good as another; none where the policy does not say them in
            exactly one way, and then it cannot hold.
        identity: what the signature's name must be, or None if the policy does not say.
    """

    kind: str
    keys: tuple[KeySource, ...] = ()
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
    identity = value.get("signedIdentity")
    return Requirement(
        kind=kind,
        keys=_keys(value, where),
        identity=None if identity is None else SignedIdentity.from_json(identity),
    )


def _keys(members: Mapping[str, Any], where: str) -> tuple[KeySource, ...]:
    given = [name for name in KEY_MEMBERS if members.get(name) is not None]
    found: list[KeySource] = []
    for name in given:
        values = members[name] if name.endswith("s") else [members[name]]
        if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
            raise DecodeError(f"{name} of {where} is not text")
        if not 0 < len(values) <= MAX_KEYS:
            raise DecodeError(f"{name} of {where} has {len(values)} keys")
        make = KeyAt if name.startswith("keyPath") else KeyHere
        found += [make(each) for each in values]
    return tuple(found) if len(given) == 1 else ()


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
