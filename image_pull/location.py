"""Where an owner's image is or goes, in the words of skopeo. Sans-I/O.

Source: docs/spec/image-pull.md 20; containers-transports(5), `oci:` and `docker://`.
"""

from dataclasses import dataclass
from typing import Final

from guest.errors import DecodeError, InvalidInputError
from image_pull.reference import ImageReference

LAYOUT: Final = "oci:"
REGISTRY: Final = "docker://"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutLocation:
    """An image in an OCI layout.

    Attributes:
        directory: as written.
        tag: the name in `index.json`, or None.
    """

    directory: str
    tag: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryLocation:
    """An image in a registry."""

    reference: ImageReference


Location = LayoutLocation | RegistryLocation


def parse_location(text: str) -> Location:
    """Parse `oci:<directory>[:<tag>]` or `docker://<host>/<name>[:<tag>|@<digest>]`.

    The directory ends at the first colon, as it does for skopeo.

    Raises:
        InvalidInputError: it is neither.
    """
    if text.startswith(REGISTRY):
        try:
            return RegistryLocation(reference=ImageReference.parse(text.removeprefix(REGISTRY)))
        except DecodeError as error:
            raise InvalidInputError(f"{text[:200]!r}: {error}") from error
    if text.startswith(LAYOUT):
        directory, colon, tag = text.removeprefix(LAYOUT).partition(":")
        if directory and "\0" not in text and (tag or not colon):
            return LayoutLocation(directory=directory, tag=tag if colon else None)
    raise InvalidInputError(
        f"{text[:200]!r} is neither oci:<directory>[:<tag>] nor docker://<host>/<name>[:<tag>]"
    )
