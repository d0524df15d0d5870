"""What deciding about an image needs: the image, and where keys and signatures are. Sans-I/O.

Source: docs/spec/image-pull.md, section 9.
"""

from dataclasses import dataclass
from typing import Protocol

from guest.crypto.digest import Digest
from guest.deadline import Deadline
from guest.secret import Secret
from image_pull.manifest import Descriptor
from image_pull.reference import ImageReference


class FetchedDocument(Protocol):
    """A manifest or index as it came, its digest checked."""

    @property
    def body(self) -> bytes:
        """Exact bytes."""
        ...

    @property
    def content_type(self) -> str:
        """What the registry called it, may be empty."""
        ...


class SignatureRepository(Protocol):
    """The repository that the image comes from; signatures of cosign lie beside it."""

    async def manifest(self, selector: str, deadline: Deadline) -> FetchedDocument:
        """Fetch by tag or digest.

        Raises:
            NotFoundError: there is none.
            GuestError: it cannot be had.
        """
        ...

    async def small_blob(self, descriptor: Descriptor, deadline: Deadline) -> bytes:
        """Fetch a blob whole, checked against its descriptor.

        Raises:
            GuestError: it cannot be had.
        """
        ...

    async def referrers(self, digest: Digest, deadline: Deadline) -> bytes | None:
        """The index of what refers to a manifest; None if there is nothing.

        Raises:
            GuestError: it cannot be had.
        """
        ...


class KeyStore(Protocol):
    """Where keys are."""

    async def fetch(self, uri: str, deadline: Deadline) -> Secret:
        """The bytes behind a resource URI.

        Raises:
            GuestError: they cannot be had.
        """
        ...


class SignatureStore(Protocol):
    """Where signatures lie that are not in the registry."""

    async def find(
        self, reference: ImageReference, digest: Digest, deadline: Deadline
    ) -> tuple[bytes, ...]:
        """All signatures for a digest of an image, each untrusted.

        Raises:
            GuestError: nobody knows where they would be, or they cannot be had.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """Of this guest; the same for every image.

    Attributes:
        keys: where keys are.
        lookaside: where simple signing's signatures are; None if that is not configured.
        keys_end: whether a key that has expired is refused.
    """

    keys: KeyStore
    lookaside: SignatureStore | None
    keys_end: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """The image that wants to run.

    Attributes:
        reference: as the registry rules made it.
        digests: computed here, of the platform's manifest, then of the index if it came through
            one; a signature of either is one of the image.
        repository: where it comes from.
    """

    reference: ImageReference
    digests: tuple[Digest, ...]
    repository: SignatureRepository
