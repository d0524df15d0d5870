"""Whether the name in a signature is that of the image: `signedIdentity`. Sans-I/O.

Source: docs/spec/image-pull.md 9.4; containers-policy.json(5), "signedIdentity".
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from guest.errors import DecodeError, DeniedError
from image_pull.reference import ImageReference

MISMATCH: Final = "Match reference failed."
NO_DIGEST: Final = "Can not reference the image with the digest in matchExact policy."


class IdentityKind(StrEnum):
    """How the two are compared; the value is the wire's spelling."""

    MATCH_EXACT = "matchExact"
    MATCH_REPO_DIGEST_OR_EXACT = "matchRepoDigestOrExact"
    MATCH_REPOSITORY = "matchRepository"
    EXACT_REFERENCE = "exactReference"
    EXACT_REPOSITORY = "exactRepository"
    REMAP_IDENTITY = "remapIdentity"


MEMBERS: Final = MappingProxyType(
    {
        IdentityKind.MATCH_EXACT: (),
        IdentityKind.MATCH_REPO_DIGEST_OR_EXACT: (),
        IdentityKind.MATCH_REPOSITORY: (),
        IdentityKind.EXACT_REFERENCE: ("dockerReference",),
        IdentityKind.EXACT_REPOSITORY: ("dockerRepository",),
        IdentityKind.REMAP_IDENTITY: ("prefix", "signedPrefix"),
    }
)
"""Kind to the members that it has besides `type`; all are needed, all are texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedIdentity:
    """One `signedIdentity`.

    Attributes:
        kind: how to compare.
        arguments: its members, in the order of `MEMBERS`.
    """

    kind: IdentityKind
    arguments: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, value: object) -> "SignedIdentity":
        """Read a decoded member of a policy.

        Raises:
            DecodeError: an unknown type, or other members than the type has.
        """
        if not isinstance(value, Mapping):
            raise DecodeError("signedIdentity is no object")
        document: Mapping[str, Any] = value
        try:
            kind = IdentityKind(str(document.get("type")))
        except ValueError as error:
            raise DecodeError("signedIdentity has no known type") from error
        names = MEMBERS[kind]
        if set(document) != {"type", *names}:
            raise DecodeError(f"signedIdentity {kind.value} has other members than {names}")
        arguments = tuple(document[name] for name in names)
        if not all(isinstance(each, str) and each for each in arguments):
            raise DecodeError(f"signedIdentity {kind.value} has a member that is no text")
        return cls(kind=kind, arguments=arguments)

    def verify(self, image: ImageReference, signed: str) -> None:
        """Require that a signature's docker-reference is for the image.

        Args:
            image: complete.
            signed: as the signature has it.

        Raises:
            DeniedError: it is not.
        """
        if self.kind is IdentityKind.MATCH_EXACT and image.digest is not None:
            raise DeniedError(NO_DIGEST)
        try:
            matches = self._matches(image, SignedName.parse(signed))
        except DecodeError as error:
            raise DeniedError(MISMATCH) from error
        if not matches:
            raise DeniedError(MISMATCH)

    def _matches(self, image: ImageReference, signed: "SignedName") -> bool:
        match self.kind:
            case IdentityKind.MATCH_EXACT:
                return signed.is_exactly(image)
            case IdentityKind.MATCH_REPO_DIGEST_OR_EXACT:
                return _repo_digest_or_exact(image, signed)
            case IdentityKind.MATCH_REPOSITORY:
                return signed.name == image.name
            case IdentityKind.EXACT_REFERENCE:
                return signed == SignedName.parse(self.arguments[0])
            case IdentityKind.EXACT_REPOSITORY:
                wanted = SignedName.parse(self.arguments[0])
                return wanted.is_name_only and signed.name == wanted.name
            case IdentityKind.REMAP_IDENTITY:
                return _repo_digest_or_exact(_remapped(image, *self.arguments), signed)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedName:
    """A reference with nothing added but the registry and `library/`.

    Attributes:
        name: registry and repository.
        tag: as written, or None.
        digest: as written, or None.
    """

    name: str
    tag: str | None
    digest: str | None

    @classmethod
    def parse(cls, text: str) -> "SignedName":
        """Parse a reference without completing its tag.

        Raises:
            DecodeError: not a reference.
        """
        reference = ImageReference.parse(text)
        has_tag = ":" in text.partition("@")[0].rpartition("/")[2]
        return cls(
            name=reference.name,
            tag=reference.tag if has_tag else None,
            digest=reference.digest,
        )

    @property
    def is_name_only(self) -> bool:
        """Whether it has neither tag nor digest."""
        return self.tag is None and self.digest is None

    def is_exactly(self, image: ImageReference) -> bool:
        """Whether name, tag and digest are the image's."""
        return (self.name, self.tag, self.digest) == (image.name, image.tag, image.digest)


def _repo_digest_or_exact(image: ImageReference, signed: SignedName) -> bool:
    """With a tag: this name and tag. With a digest alone: this name, signed with tag or digest."""
    if image.tag is None:
        return not signed.is_name_only and signed.name == image.name
    if image.digest is None:
        return signed.is_exactly(image)
    return (signed.name, signed.tag) == (image.name, image.tag)


def _remapped(image: ImageReference, prefix: str, signed_prefix: str) -> ImageReference:
    """The image under the name that was signed, if its name is the prefix or lies below it.

    Raises:
        DecodeError: what that makes is not a reference.
    """
    rest = image.name.removeprefix(prefix)
    below = not rest or rest.startswith("/") or prefix.endswith("/")
    if not image.name.startswith(prefix) or not below:
        return image
    named = ImageReference.parse(signed_prefix + rest)
    if not SignedName.parse(signed_prefix + rest).is_name_only:
        raise DecodeError("signedPrefix is more than the beginning of a name")
    return replace(named, tag=image.tag, digest=image.digest)


MATCH_REPO_DIGEST_OR_EXACT: Final = SignedIdentity(kind=IdentityKind.MATCH_REPO_DIGEST_OR_EXACT)
"""What `signedBy` compares with when it does not say."""
