"""The annotation packet, and the messages of the key provider's unwrap side. Sans-I/O.

Source: docs/spec/ocicrypt.md 11.1 and 12, docs/spec/confidential-data-hub.md 9.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Self

import msgspec

from guest import jsonio, wire
from guest.errors import DecodeError

MAX_PACKET_LENGTH: Final = 1024 * 1024
"""Most bytes of one packet."""

MAX_INPUT_LENGTH: Final = 4 * 1024 * 1024
"""Most bytes of one key provider message."""

MAX_DEPTH: Final = 16
"""Deepest nesting of a packet or a message."""

KBS_PROVIDER: Final = "kbs"
"""The provider whose packets are opened with a KEK from the KBS; compared exactly."""

PACKET_VERSION: Final = "0.1.0"
"""The only version of packets of `KBS_PROVIDER`."""


class WrapType(StrEnum):
    """The cipher of a packet."""

    A256GCM = "A256GCM"
    A256CTR = "A256CTR"


class MissingAnnotationError(DecodeError):
    """The input of an unwrap carries no packet; gRPC peers get a text of their own for it."""


class _PacketJson(msgspec.Struct, frozen=True, kw_only=True):
    kid: str
    wrapped_data: str
    version: str = PACKET_VERSION
    provider: str = KBS_PROVIDER
    iv: str | None = None
    wrap_type: str | None = None
    provider_settings: dict[str, object] = {}
    annotations: dict[str, object] = {}


class _UnwrapParams(msgspec.Struct, frozen=True):
    annotation: str | None = None


class _UnwrapInput(msgspec.Struct, frozen=True):
    keyunwrapparams: _UnwrapParams


class AnnotationPacket(msgspec.Struct, frozen=True, kw_only=True):
    """A wrapped layer key and how to unwrap it; versions 1 and 2.

    Attributes:
        kid: for `kbs` the resource URI of the KEK, else what the KMS calls its key.
        wrapped_data: the wrapped private options; for GCM the 16-byte tag is their end.
        version: `0.1.0` where absent; judged for `kbs` only.
        provider: `kbs` where absent.
        iv: 12 bytes for GCM, 16 for CTR; None where absent.
        wrap_type: as written, judged when the packet is opened; None where absent.
        provider_settings: for a KMS.
        annotations: for a KMS.
    """

    kid: str
    wrapped_data: bytes
    version: str = PACKET_VERSION
    provider: str = KBS_PROVIDER
    iv: bytes | None = None
    wrap_type: str | None = None
    provider_settings: Mapping[str, object] = msgspec.field(default_factory=dict)
    annotations: Mapping[str, object] = msgspec.field(default_factory=dict)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the JSON of a packet, version 1 or 2; unknown members are skipped.

        Raises:
            DecodeError: not such an object, a member twice, longer than `MAX_PACKET_LENGTH`, or
                base64 that is not strict.
        """
        raw = jsonio.decode(data, _PacketJson, max_depth=MAX_DEPTH, max_bytes=MAX_PACKET_LENGTH)
        return cls(
            kid=raw.kid,
            wrapped_data=wire.decode_base64(raw.wrapped_data, "wrapped_data"),
            version=raw.version,
            provider=raw.provider,
            iv=None if raw.iv is None else wire.decode_base64(raw.iv, "iv"),
            wrap_type=raw.wrap_type,
            provider_settings=raw.provider_settings,
            annotations=raw.annotations,
        )

    def encode_v1(self) -> bytes:
        """The form that every reader knows: four members in fixed order, compact.

        The packet must be one of `kbs` with IV and wrap type.
        """
        assert self.provider == KBS_PROVIDER
        return msgspec.json.encode(self._kbs_members())

    def encode_v2(self) -> bytes:
        """All members, in the order of the specification, compact; absent ones are left out."""
        members: dict[str, object] = {
            "version": self.version,
            "kid": self.kid,
            "wrapped_data": wire.encode_base64(self.wrapped_data),
            "provider": self.provider,
        }
        if self.iv is not None:
            members["iv"] = wire.encode_base64(self.iv)
        if self.wrap_type is not None:
            members["wrap_type"] = self.wrap_type
        members["provider_settings"] = dict(self.provider_settings)
        members["annotations"] = dict(self.annotations)
        return msgspec.json.encode(members)

    def _kbs_members(self) -> dict[str, str]:
        assert self.iv is not None
        assert self.wrap_type is not None
        return {
            "kid": self.kid,
            "wrapped_data": wire.encode_base64(self.wrapped_data),
            "iv": wire.encode_base64(self.iv),
            "wrap_type": self.wrap_type,
        }


def decode_unwrap_input(data: bytes) -> bytes:
    """The packet inside a key provider's unwrap input; nothing else of it is judged.

    `op`, `keywrapparams` and `dc` may be missing or null, as Go's clients send them. The input may
    carry private keys of other schemes, so it belongs in no log.

    Raises:
        MissingAnnotationError: `annotation` is absent or null.
        DecodeError: not such an object, longer than `MAX_INPUT_LENGTH`, or base64 that is not
            strict.
    """
    request = jsonio.decode(data, _UnwrapInput, max_depth=MAX_DEPTH, max_bytes=MAX_INPUT_LENGTH)
    annotation = request.keyunwrapparams.annotation
    if annotation is None:
        raise MissingAnnotationError("Illegal UnwrapKey request: no AnnotationPacket given.")
    return wire.decode_base64(annotation, "annotation")


def encode_unwrap_input(packet: bytes) -> bytes:
    """The unwrap input for the JSON of a packet, as the guest's own puller sends it."""
    return (
        b'{"op":"keyunwrap","keywrapparams":{"ec":null,"optsdata":null},'
        b'"keyunwrapparams":{"dc":{"Parameters":{}},"annotation":"'
        + wire.encode_base64(packet).encode("ascii")
        + b'"}}'
    )


def encode_unwrap_output(private_options: bytes) -> bytes:
    """The unwrap output: an array of byte values, which is what every client reads."""
    numbers = ",".join(map(str, private_options))
    return b'{"keyunwrapresults":{"optsdata":[' + numbers.encode("ascii") + b"]}}"
