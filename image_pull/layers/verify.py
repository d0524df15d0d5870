"""A blob's bytes checked against its descriptor while they pass. Sans-I/O.

Source: docs/spec/image-pull.md §10.4.
"""

from guest.crypto.digest import Digest
from guest.errors import IntegrityError


class BlobVerifier:
    """Counts and hashes a blob.

    Args:
        digest: of the whole blob.
        size: of the whole blob, in bytes.
    """

    __slots__ = ("_digest", "_hasher", "_left", "_size")

    def __init__(self, digest: Digest, size: int) -> None:
        self._digest = digest
        self._size = self._left = size
        self._hasher = digest.algorithm.new()

    @property
    def left(self) -> int:
        """Bytes still to come."""
        return self._left

    def update(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            IntegrityError: the blob is longer than its descriptor says.
        """
        self._left -= len(data)
        if self._left < 0:
            raise IntegrityError(f"blob {self._digest} is longer than {self._size} bytes")
        self._hasher.update(data)

    def finish(self) -> None:
        """Judge the whole blob.

        Raises:
            IntegrityError: it is shorter than its descriptor says, or its digest is another.
        """
        if self._left:
            seen = self._size - self._left
            raise IntegrityError(f"blob {self._digest} has {seen} bytes, expected {self._size}")
        found = Digest(self._digest.algorithm, self._hasher.digest())
        if found != self._digest:
            raise IntegrityError(f"blob {self._digest} has digest {found}")
