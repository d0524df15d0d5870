"""The documents of resource injection over HTTP: requests in, one answer out. Sans-I/O.

Source: docs/spec/confidential-data-hub.md 12.5.
"""

from typing import Final, Self

import msgspec

from guest import jsonio, wire
from guest.errors import DecodeError
from guest.protos import cdh_pb2

MAX_NONCE_DOCUMENT: Final = 64 * 1024
"""Most bytes of the body that asks for a session; the hub's longest nonce fits, escaped."""

MAX_RESOURCE_DOCUMENT: Final = 4 * 1024 * 1024
"""Most bytes of the body with the encrypted resource; the hub takes no longer message."""

MAX_DEPTH: Final = 16


class NonceDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What begins a session.

    Attributes:
        nonce: the owner's freshness, which evidence binds.
    """

    nonce: str

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Read the JSON body; unknown members are skipped.

        Raises:
            DecodeError: not such an object, or a member twice.
        """
        return jsonio.decode(body, cls, max_depth=MAX_DEPTH, max_bytes=MAX_NONCE_DOCUMENT)


class ResourceDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What ends a session.

    Attributes:
        session_id: as the answer to the first request had it.
        encrypted_resource: a JSON object for the session's key, byte for byte as it was sent.
    """

    session_id: str
    encrypted_resource: msgspec.Raw

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Read the JSON body; unknown members are skipped.

        Raises:
            DecodeError: not such an object, or a member twice, at any depth.
        """
        limit = MAX_RESOURCE_DOCUMENT
        document = jsonio.decode(body, cls, max_depth=MAX_DEPTH, max_bytes=limit)
        if not bytes(document.encrypted_resource).startswith(b"{"):
            raise DecodeError("encrypted_resource is no JSON object")
        return document


class _PreparedJson(msgspec.Struct, frozen=True, kw_only=True):
    session_id: str
    nonce: str
    tee_pubkey: dict[str, object]
    evidence: str


def encode_prepared(prepared: cdh_pb2.PrepareResourceInjectionResponse) -> bytes:
    """The JSON that an owner encrypts a resource with.

    Raises:
        DecodeError: the hub's public key is no JSON object.
    """
    key = jsonio.decode(prepared.TeePubKey.encode(), dict[str, object], max_depth=MAX_DEPTH)
    return msgspec.json.encode(
        _PreparedJson(
            session_id=prepared.SessionId,
            nonce=prepared.Nonce,
            tee_pubkey=key,
            evidence=wire.encode_base64(prepared.Evidence),
        )
    )
