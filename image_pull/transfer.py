"""What an image is copied from and to: contracts, and the check on every blob that moves. Sans-I/O.

All methods block; whoever has a loop calls them in a thread.

Source: docs/spec/image-pull.md 10; OCI image-spec "Descriptors".
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from guest.crypto.digest import Digest
from guest.errors import IntegrityError


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A manifest or index as it was stored.

    Attributes:
        body: exact bytes, at most `manifest.MAX_DOCUMENT`.
        media_type: what the registry called it, or None.
        digest: of `body`, checked.
    """

    body: bytes
    media_type: str | None
    digest: Digest


class ImageSource(Protocol):
    """Where one image is read from."""

    def root(self) -> Document:
        """The manifest or index that was named."""
        ...

    def document(self, digest: Digest) -> Document:
        """A manifest or index that another one names."""
        ...

    def read(self, digest: Digest, size: int) -> Iterator[bytes]:
        """A blob in chunks of bounded size.

        Raises:
            IntegrityError: at the end, if size or digest differ; what was given before is then
                to be thrown away.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class ImageDestination(Protocol):
    """Where one image is written to. The root document comes last and makes it visible."""

    def prepare(self) -> None:
        """Find out early whether it can be written."""
        ...

    def has(self, digest: Digest, size: int) -> bool:
        """Whether a blob is there already."""
        ...

    def write(self, chunks: Iterable[bytes]) -> tuple[Digest, int]:
        """Store a blob whose digest is known at its end; if `chunks` raises nothing is stored."""
        ...

    def put_document(self, body: bytes, media_type: str, *, is_root: bool) -> Digest:
        """Store a manifest or index, the root one under the destination's tag."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


def verified(chunks: Iterable[bytes], digest: Digest, size: int, what: str) -> Iterator[bytes]:
    """Pass chunks through, counting and hashing.

    Raises:
        IntegrityError: more bytes than `size` came, or at the end fewer, or other ones.
    """
    hasher, count = digest.algorithm.new(), 0
    for chunk in chunks:
        count += len(chunk)
        if count > size:
            raise IntegrityError(f"{what} has more than the {size} bytes of its descriptor")
        hasher.update(chunk)
        yield chunk
    if count != size:
        raise IntegrityError(f"{what} has {count} bytes, its descriptor says {size}")
    digest.verify(hasher.digest(), what)
