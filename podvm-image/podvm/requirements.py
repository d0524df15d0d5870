"""The run-time part of a hashed lock of pip-tools that also holds build and test tools. Sans-I/O.

Source: docs/spec/podvm-image.md 14.3.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from podvm.errors import ImageError

RUNTIME: Final = "-r runtime.in"
"""How the lock marks what the daemons need themselves."""

_ENTRY: Final = re.compile(r"^(?=[A-Za-z0-9])", re.MULTILINE)
_NAME: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One pinned library.

    Attributes:
        name: as the lock spells it.
        version: pinned.
        text: the lock's entry, hashes included.
        via: who needs it.
    """

    name: str
    version: str
    text: str
    via: frozenset[str]


def parse(text: str) -> tuple[Requirement, ...]:
    """All entries of a lock.

    Raises:
        ImageError: an entry is not pinned.
    """
    found = []
    for entry in _ENTRY.split(text):
        if not entry.strip() or not entry[0].isalnum():
            continue
        match = _NAME.match(entry)
        if match is None or "--hash=sha256:" not in entry:
            raise ImageError(f"not a pinned and hashed requirement: {entry.splitlines()[0]}")
        # A comment at the margin is about the file, not about the entry above it.
        comments = " ".join(
            line.strip().lstrip("# ") for line in entry.splitlines() if line.startswith("    #")
        )
        via = frozenset(word.strip() for word in comments.removeprefix("via").split(","))
        found.append(Requirement(name=match[1], version=match[2], text=entry, via=via))
    return tuple(found)


def runtime(text: str, *, also: Collection[str] = ()) -> tuple[Requirement, ...]:
    """The entries that run time needs, directly or through another, in the lock's order.

    Args:
        text: the lock.
        also: names of further libraries that are needed.

    Raises:
        ImageError: nothing is marked as needed at run time.
    """
    entries = parse(text)
    needed = {RUNTIME, *also}
    while True:
        more = {entry.name for entry in entries if entry.via & needed} - needed
        if not more:
            break
        needed |= more
    chosen = tuple(entry for entry in entries if entry.name in needed)
    if not chosen:
        raise ImageError("the lock names nothing as needed at run time")
    return chosen
