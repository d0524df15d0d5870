"""Image references: parse, complete, print. Sans-I/O.

Source: docs/spec/image-pull.md, section 3.
"""

import re
from dataclasses import dataclass, replace
from typing import Final, Self

from guest.errors import DecodeError

MAX_TEXT: Final = 1024
"""Most characters of a reference, as it is written and as it is completed."""

MAX_REPOSITORY: Final = 255
"""Most characters of a repository."""

DEFAULT_REGISTRY: Final = "docker.io"
DEFAULT_REGISTRY_HOST: Final = "index.docker.io"
DEFAULT_TAG: Final = "latest"
OFFICIAL: Final = "library/"

DIGEST_LENGTHS: Final = {"sha256": 64, "sha384": 96, "sha512": 128}
"""Algorithm to hexadecimal digits."""

_DOMAIN: Final = re.compile(
    r"[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*(?:\.[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*)*(?::[0-9]+)?"
)
_COMPONENT: Final = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST: Final = re.compile(
    r"([A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*):([0-9a-fA-F]{32,})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageReference:
    """A complete reference: registry, repository, and a tag, a digest or both.

    Attributes:
        registry: host with port, as written; `docker.io` where none was.
        repository: lower-case path.
        tag: or None; then there is a digest.
        digest: `algorithm:hex` with the case of the digits as written, or None.
    """

    registry: str
    repository: str
    tag: str | None
    digest: str | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse and complete what a user or a registry rule wrote.

        Raises:
            DecodeError: not a reference; the text is the peer's.
        """
        if len(text) > MAX_TEXT:
            raise DecodeError("invalid reference format")
        if not text:
            raise DecodeError("repository name must have at least one component")
        name, at, digest = text.partition("@")
        head, slash, last = name.rpartition("/")
        last, colon, tag = last.partition(":")
        name = head + slash + last
        if (colon and not _TAG.fullmatch(tag)) or not _is_name(name):
            raise DecodeError("invalid reference format")
        if at:
            _check_digest(digest)
        registry, repository = _split(name)
        if len(repository) > MAX_REPOSITORY:
            raise DecodeError(f"repository name must not be more than {MAX_REPOSITORY} characters")
        complete = cls(
            registry=registry,
            repository=repository,
            tag=tag if colon else (None if at else DEFAULT_TAG),
            digest=digest if at else None,
        )
        if len(str(complete)) > MAX_TEXT:
            raise DecodeError("invalid reference format")
        return complete

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.registry}/{self.repository}"

    @property
    def network_host(self) -> str:
        """Host and port that requests go to."""
        return DEFAULT_REGISTRY_HOST if self.registry == DEFAULT_REGISTRY else self.registry

    @property
    def selector(self) -> str:
        """What the manifest is asked for by: the digest if there is one, else the tag."""
        return self.digest or self.tag or DEFAULT_TAG

    def with_digest(self, digest: str) -> "ImageReference":
        """The same repository, pinned."""
        return replace(self, tag=None, digest=digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"


def _is_name(name: str) -> bool:
    first, slash, rest = name.partition("/")
    parts = rest.split("/") if slash else []
    if not _COMPONENT.fullmatch(first) and not (slash and _DOMAIN.fullmatch(first)):
        return False
    if not all(_COMPONENT.fullmatch(part) for part in parts):
        return False
    return _is_registry(first) or _COMPONENT.fullmatch(first) is not None


def _is_registry(first: str) -> bool:
    return "." in first or ":" in first or first == "localhost"


def _split(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not _is_registry(first):
        registry, repository = DEFAULT_REGISTRY, name
    else:
        registry, repository = first, rest
    if registry == DEFAULT_REGISTRY_HOST:
        registry = DEFAULT_REGISTRY
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        repository = OFFICIAL + repository
    return registry, repository


def _check_digest(text: str) -> None:
    match = _DIGEST.fullmatch(text)
    if match is None:
        raise DecodeError("invalid reference format")
    length = DIGEST_LENGTHS.get(match[1])
    if length is None:
        raise DecodeError("unsupported digest algorithm")
    if len(match[2]) != length:
        raise DecodeError("invalid checksum digest length")
