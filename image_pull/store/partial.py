"""A blob that becomes a file: what came of it stays over cuts and deaths, and counts only whole.

What lies on disk is plaintext, so a part that another process left is encrypted again to be
counted, hashed and authenticated as it was when it came; nobody's word is taken for it.

Source: docs/ARCHITECTURE.md, decision 7; docs/spec/ocicrypt.md 5.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from guest.errors import IntegrityError
from image_pull.layers.verify import BlobVerifier
from image_pull.manifest import Descriptor
from image_pull.ocicrypt.annotations import DECRYPT_FAILED
from image_pull.ocicrypt.cipher import LayerDecryptor

BLOCK: Final = 1024 * 1024
FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Partial:
    """One file under way. All methods block."""

    def __init__(
        self, path: Path, descriptor: Descriptor, decryptor: LayerDecryptor | None
    ) -> None:
        """Go on with what is there.

        Args:
            path: of the file under way.
            descriptor: of the blob.
            decryptor: of the blob, fresh, exactly when it is encrypted.

        Raises:
            OSError: the disk refuses.
        """
        self._size = descriptor.size
        self._verifier = BlobVerifier(descriptor.digest, descriptor.size)
        self._decryptor = decryptor
        self._file = os.open(path, FLAGS, 0o600)
        self.offset = 0

    def replay(self) -> int:
        """Count what is there already; how many bytes it is.

        Raises:
            OSError: the disk refuses.
        """
        if os.fstat(self._file).st_size > self._size:
            os.ftruncate(self._file, 0)
        for block in self._blocks():
            is_plain = self._decryptor is None
            self._verifier.update(block if is_plain else self._encrypted(block))
            self.offset += len(block)
        os.lseek(self._file, self.offset, os.SEEK_SET)
        return self.offset

    def _blocks(self) -> Iterator[bytes]:
        while block := os.pread(self._file, BLOCK, self.offset):
            yield block

    def _encrypted(self, block: bytes) -> bytes:
        assert self._decryptor is not None
        return self._decryptor.replay(block)

    def take(self, data: bytes) -> None:
        """Bytes of the blob.

        Raises:
            IntegrityError: too many.
            OSError: the disk refuses.
        """
        self._verifier.update(data)
        view = memoryview(data if self._decryptor is None else self._decryptor.update(data))
        self.offset += len(view)
        while view:
            view = view[os.write(self._file, view) :]

    def finish(self) -> None:
        """Judge the whole blob, and see its file on the disk; for its owner if it was encrypted.

        Raises:
            IntegrityError: it is another one.
            OSError: the disk refuses.
        """
        self._verifier.finish()
        if self._decryptor is not None:
            try:
                self._decryptor.finish()
            except IntegrityError as error:
                raise IntegrityError(DECRYPT_FAILED) from error
        os.fchmod(self._file, 0o644 if self._decryptor is None else 0o600)
        os.fsync(self._file)

    def clear(self) -> None:
        """Forget what came: it is no part of the blob.

        Raises:
            OSError: the disk refuses.
        """
        os.ftruncate(self._file, 0)

    def close(self) -> None:
        """Let go of the file; what came stays."""
        os.close(self._file)
