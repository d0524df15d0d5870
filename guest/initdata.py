"""The init data document and its digests. Sans-I/O.

The digest is taken over the exact bytes of the file, never over a re-encoding.

Source: docs/spec/attestation-agent.md 6.1 and 6.3.
"""

from collections.abc import Mapping
from typing import Final, Self

import msgspec

from guest.crypto.digest import Digest, HashAlgorithm
from guest.errors import DecodeError

MAX_DOCUMENT_BYTES: Final = 4 * 1024 * 1024
"""Longest document, in bytes."""


class InitData(msgspec.Struct, frozen=True, kw_only=True):
    """One document.

    Attributes:
        content: the exact bytes.
        version: as written; the attestation agent does not judge it.
        algorithm: of the digest.
        data: file names to their text.
    """

    content: bytes
    version: str
    algorithm: HashAlgorithm
    data: Mapping[str, str]

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Read a document; unknown top-level keys are passed over.

        Raises:
            DecodeError: too long, not UTF-8, not TOML, a member missing or of the wrong type.
        """
        import tomllib

        if len(content) > MAX_DOCUMENT_BYTES:
            raise DecodeError(f"init data is longer than {MAX_DOCUMENT_BYTES} bytes")
        try:
            tree = tomllib.loads(content.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise DecodeError("init data is not UTF-8") from error
        except (ValueError, RecursionError) as error:
            raise DecodeError(f"init data is not TOML: {' '.join(str(error).split())}") from error
        version, name, data = (tree.get(key) for key in ("version", "algorithm", "data"))
        if not isinstance(version, str) or not isinstance(name, str):
            raise DecodeError("init data needs version and algorithm, both text")
        if not isinstance(data, dict) or not all(isinstance(v, str) for v in data.values()):
            raise DecodeError("init data needs a table data of texts")
        if name not in HashAlgorithm.__members__.values():
            raise DecodeError(f"init data names an unknown algorithm {name[:40]!r}")
        return cls(content=content, version=version, algorithm=HashAlgorithm(name), data=data)

    @property
    def text(self) -> str:
        """The document as it goes to the KBS."""
        return self.content.decode("utf-8")

    def digest(self) -> Digest:
        """The document's digest under its own algorithm."""
        hasher = self.algorithm.new()
        hasher.update(self.content)
        return Digest(self.algorithm, hasher.digest())


def fit(digest: bytes, length: int) -> bytes:
    """The digest as a TEE's field of `length` bytes holds it: cut, or padded with zeros."""
    return digest[:length].ljust(length, b"\0")
