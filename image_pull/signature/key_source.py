"""Where a requirement has its keys: behind resource URIs, or in the policy itself. Sans-I/O.

Source: docs/spec/image-pull.md 9.2; containers-policy.json(5).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from guest.errors import DecodeError

MAX_KEYS: Final = 64
"""Most keys of one requirement."""


@dataclass(frozen=True, slots=True)
class KeyAt:
    """A key, keyring or certificate by resource URI."""

    uri: str


@dataclass(frozen=True, slots=True)
class KeyHere:
    """A key, keyring or certificate as text."""

    data: str


KeySource = KeyAt | KeyHere


def given_in(members: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Those of the members that say something."""
    return [name for name in names if members.get(name) is not None]


def read_sources(members: Mapping[str, Any], name: str, where: str) -> tuple[KeySource, ...]:
    """The sources of one member: a list where its name is a plural, by URI where it is a path.

    Raises:
        DecodeError: not texts, none or more than `MAX_KEYS`.
    """
    values = members[name] if name.endswith("s") else [members[name]]
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise DecodeError(f"{name} of {where} is not text")
    if not 0 < len(values) <= MAX_KEYS:
        raise DecodeError(f"{name} of {where} has {len(values)} keys")
    make = KeyAt if name.rstrip("s").endswith("Path") else KeyHere
    return tuple(make(each) for each in values)
