"""Programs of others that the image holds, and where each is pinned: `binaries.toml`. Sans-I/O.

Source: docs/spec/podvm-image.md 3.3 and 16 (inputs).
"""

import re
import tomllib
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from guest.prepared import prepared
from podvm.errors import ImageError

AGENT: Final = "kata-agent"
FORWARDER: Final = "agent-protocol-forwarder"
PAUSE: Final = "pause"
PROGRAMS: Final = (AGENT, FORWARDER)
"""What goes to `/usr/local/bin`; without one, its units stay off."""

NAMES: Final = (*PROGRAMS, PAUSE)

_HEX: Final = re.compile(r"[0-9a-f]{64}")
_REPOSITORY: Final = re.compile(r"[a-z0-9.:-]+(/[a-z0-9._-]+)+")

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    repository: Text
    digest: Text
    sha256: Text
    file: str = ""
    member: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """One artifact of a registry.

    Attributes:
        name: one of `NAMES`.
        repository: registry and repository, without tag.
        digest: of the manifest for linux/amd64, `sha256:` and 64 digits.
        sha256: of the program, as it lies in the image.
        file: title of the artifact's layer; empty for an image.
        member: path of the program in that archive; empty where the file is the program.
    """

    name: str
    repository: str
    digest: str
    sha256: str
    file: str
    member: str

    @property
    def reference(self) -> str:
        """Repository and digest, as registries are asked for it."""
        return f"{self.repository}@{self.digest}"


def decode(text: str) -> tuple[Pinned, ...]:
    """Parse the file: a table for each program, in the order of `NAMES`.

    Raises:
        ImageError: an unknown name or key, a tag, a digest that is none.
    """
    try:
        document = tomllib.loads(text)
        entries = msgspec.convert(document, prepared(dict[str, _Entry]))
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ImageError(f"binaries.toml: {error}") from error
    if unknown := sorted(set(entries) - set(NAMES)):
        raise ImageError(f"binaries.toml: {unknown[0]!r} is none of {', '.join(NAMES)}")
    return tuple(_pinned(name, entries[name]) for name in NAMES if name in entries)


def _pinned(name: str, entry: _Entry) -> Pinned:
    algorithm, _, digits = entry.digest.partition(":")
    if algorithm != "sha256" or not _HEX.fullmatch(digits) or not _HEX.fullmatch(entry.sha256):
        raise ImageError(f"binaries.toml: {name} is not pinned by SHA-256")
    last = entry.repository.rpartition("/")[2]
    if not _REPOSITORY.fullmatch(entry.repository) or ":" in last:
        raise ImageError(f"binaries.toml: {name}: {entry.repository!r} is no repository alone")
    if (name == PAUSE) != (not entry.file) or (entry.member and not entry.file):
        raise ImageError(f"binaries.toml: {name}: an artifact has a file, an image has none")
    return Pinned(
        name=name,
        repository=entry.repository,
        digest=entry.digest,
        sha256=entry.sha256,
        file=entry.file,
        member=entry.member,
    )
