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

MAX_POLICY: Final = 4 * 1024 * 1024
MAX_DEPTH: Final = 16
TRANSPORT: Final = "docker"

MEMBERS: Final = MappingProxyType(
    {
        "insecureAcceptAnything": frozenset({"type"}),
        "reject": frozenset({"type"}),
        "signedBy": frozenset({"type", "keyType", "keyPath", "keyData", "signedIdentity"}),
        "sigstoreSigned": frozenset(
            {"type", "keyPath", "keyData", "keyPaths", "keyDatas", "signedIdentity"}
        ),
    }
)
"""Requirement type to the members it may have; another one may be a check that is misspelt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One thing that must hold.

    Attributes:
        kind: its `type`.
        members: all of it, as written.
    """

    kind: str
    members: Mapping[str, Any]


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
    return Requirement(kind=kind, members=MappingProxyType(dict(value)))


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
