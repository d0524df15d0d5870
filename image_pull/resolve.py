"""From a reference to the one manifest and configuration that would run here.

Source: docs/spec/image-pull.md, sections 7 and 8.
"""

from dataclasses import dataclass

from guest.crypto.digest import Digest
from guest.deadline import Deadline
from guest.errors import DecodeError, IntegrityError
from image_pull.manifest import Index, Manifest, choose_platform, parse_document
from image_pull.reference import ImageReference
from image_pull.registry.client import FetchedManifest, RegistryClient


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedManifest:
    """What a reference stands for on this guest.

    Attributes:
        manifest: of the platform.
        digest: SHA-256 of the manifest's bytes.
        index_digest: SHA-256 of the outermost index, if there was one.
    """

    manifest: Manifest
    digest: Digest
    index_digest: Digest | None

    @property
    def digests(self) -> tuple[Digest, ...]:
        """What a signature may be on: the manifest, then the index."""
        return (self.digest, *(() if self.index_digest is None else (self.index_digest,)))


async def resolve_manifest(
    client: RegistryClient, reference: ImageReference, architecture: str, deadline: Deadline
) -> ResolvedManifest:
    """Fetch the manifest, through an index and at most one more below it.

    Args:
        client: for the reference's repository.
        reference: what to fetch.
        architecture: Go's name of the guest's.
        deadline: for all requests together.

    Raises:
        GuestError: it cannot be had, or nothing in it is for this guest.
    """
    fetched = await client.manifest(reference.selector, deadline)
    document = parse_document(fetched.body, fetched.content_type)
    index_digest = fetched.digest if isinstance(document, Index) else None
    for _ in range(2):
        if isinstance(document, Manifest):
            return ResolvedManifest(
                manifest=document, digest=fetched.digest, index_digest=index_digest
            )
        fetched, document = await _descend(client, document, architecture, deadline)
    if isinstance(document, Manifest):
        return ResolvedManifest(manifest=document, digest=fetched.digest, index_digest=index_digest)
    raise DecodeError("Image manifest not found: received Image Index manifest instead")


async def _descend(
    client: RegistryClient, index: Index, architecture: str, deadline: Deadline
) -> tuple[FetchedManifest, Manifest | Index]:
    chosen = choose_platform(index, architecture)
    fetched = await client.manifest(str(chosen.digest), deadline)
    if len(fetched.body) != chosen.size:
        raise IntegrityError(
            f"manifest {chosen.digest} has {len(fetched.body)} bytes, its index says {chosen.size}"
        )
    return fetched, parse_document(fetched.body, fetched.content_type)
