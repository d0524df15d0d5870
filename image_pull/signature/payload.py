"""What a signature says: the JSON of simple signing, of cosign too. Sans-I/O.

Source: docs/spec/image-pull.md 9.5 and 9.7; containers-signature(5), "Processing Signatures".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec

from guest.crypto.digest import Digest
from guest.errors import DecodeError
from guest.jsonio import check

MAX_PAYLOAD: Final = 1024 * 1024
"""Most bytes of a payload."""

MAX_DEPTH: Final = 16


class PayloadType(StrEnum):
    """What a payload calls itself; keeps one kind of signature from passing for the other."""

    SIMPLE = "atomic container signature"
    COSIGN = "cosign container image signature"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedClaim:
    """What was signed.

    Attributes:
        docker_reference: the image's name, as written; never trusted before it is compared.
        manifest_digest: of the manifest or index.
    """

    docker_reference: str
    manifest_digest: Digest

    @classmethod
    def parse(cls, data: bytes, kind: PayloadType) -> "SignedClaim":
        """Parse a payload whose signature is good.

        Args:
            data: the signed bytes.
            kind: what it must call itself.

        Raises:
            DecodeError: of another form; a member too many, too few or twice; another type.
        """
        check(data, max_depth=MAX_DEPTH, max_bytes=MAX_PAYLOAD)
        try:
            document = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DecodeError("signature's payload is not JSON") from error
        outer = _object(document, "payload", ("critical", "optional"))
        critical = _object(outer["critical"], "critical", ("type", "image", "identity"))
        image = _object(critical["image"], "image", ("docker-manifest-digest",))
        identity = _object(critical["identity"], "identity", ("docker-reference",))
        if critical["type"] != kind.value:
            raise DecodeError(f"signature's payload is not of the type {kind.value!r}")
        _check_optional(outer["optional"], kind)
        reference = identity["docker-reference"]
        digest = image["docker-manifest-digest"]
        if not isinstance(reference, str) or not isinstance(digest, str):
            raise DecodeError("signature's payload names no reference or no digest")
        return cls(docker_reference=reference, manifest_digest=Digest.parse(digest))


def _object(value: object, what: str, members: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, dict) or set(value) != set(members):
        raise DecodeError(f"{what} of a signature is not an object of {', '.join(members)}")
    return value


def _check_optional(value: object, kind: PayloadType) -> None:
    if value is None and kind is PayloadType.COSIGN:
        return
    if not isinstance(value, dict):
        raise DecodeError("optional of a signature is no object")
    if kind is PayloadType.COSIGN:
        return  # annotations of the signer's choice
    timestamp = value.get("timestamp", 0)
    if not isinstance(timestamp, int) or isinstance(timestamp, bool):
        raise DecodeError("timestamp of a signature is no integer")
    if not isinstance(value.get("creator", ""), str):
        raise DecodeError("creator of a signature is no text")
