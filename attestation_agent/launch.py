"""What the agent was launched with: init data as a document, or as a bare digest.

Source: docs/spec/attestation-agent.md 1.6 (8), 6.3 and 6.4.
"""

import errno
import os
from pathlib import Path
from typing import Final, Self

import msgspec

from guest.errors import ConfigError, DecodeError
from guest.initdata import MAX_DOCUMENT_BYTES, InitData
from guest.wire import decode_base64

READ_CONTEXT: Final = "read initdata toml file"
DECODE_CONTEXT: Final = "base64 decode initdata"

DIGEST_LENGTHS: Final = (32, 48, 64)
"""Bytes of a digest of one of the algorithms that an init data document may name."""


class LaunchData(msgspec.Struct, frozen=True, kw_only=True):
    """Init data of this launch.

    Attributes:
        digest: to bind; None when there is no init data.
        text: the document, for the KBS; None when only the digest is known.
    """

    digest: bytes | None = None
    text: str | None = None

    @classmethod
    def read(cls, *, document: str | Path | None = None, digest: str | None = None) -> Self:
        """Read what the command line names; the document wins over the digest.

        Args:
            document: path of the init data document; it must be there.
            digest: standard base64.

        Raises:
            ConfigError: it cannot be read, or is none.
        """
        if document is not None:
            parsed = _read_document(document)
            return cls(digest=parsed.digest().value, text=parsed.text)
        if digest is None:
            return cls()
        try:
            value = decode_base64(digest, "init data digest")
        except DecodeError as error:
            raise ConfigError(DECODE_CONTEXT) from error
        if len(value) not in DIGEST_LENGTHS:
            expected = ", ".join(str(length) for length in DIGEST_LENGTHS)
            raise ConfigError(f"init data digest has {len(value)} bytes, expected {expected}")
        return cls(digest=value)


def _read_document(path: str | Path) -> InitData:
    try:
        with open(path, "rb") as file:
            return InitData.parse(file.read(MAX_DOCUMENT_BYTES + 1))
    except OSError as error:
        text = os.strerror(error.errno or errno.EIO)
        raise ConfigError(f"{READ_CONTEXT}: {path}: {text}") from None
    except DecodeError as error:
        raise ConfigError(f"{READ_CONTEXT}: {path}: {error}") from None
