"""IBM Secure Execution: the request that a verifier makes, the ultravisor's blocks. Sans-I/O.

Source: docs/spec/attesters.md 13; Linux, arch/s390/include/uapi/asm/uvdevice.h.
"""

import struct
from dataclasses import dataclass
from typing import Final, Literal, Self, TypeAlias

import msgspec

from guest import jsonio
from guest.errors import DecodeError
from guest.initdata import fit
from guest.wire import decode_base64, encode_base64

USER_DATA_BYTES: Final = 64
IMAGE_TAGS_BYTES: Final = 208
"""Three digests of 64 bytes and one tag of 16."""

MAX_REQUEST_BYTES: Final = 1024 * 1024
"""Longest attestation request control block that the kernel takes."""

MAX_ANSWER_BYTES: Final = 0x8000
"""Longest measurement, and longest additional data, that the kernel gives."""

EXECUTED: Final = 1
"""`uv_rc` of a request that the ultravisor carried out."""

CONTROL_BYTES: Final = 64
ARGUMENT_BYTES: Final = 312

ByteOrder: TypeAlias = Literal["big", "little"]
"""Of the machine; s390x is big."""

_CONTROL: Final = "IHHQI44x"
_ARGUMENT: Final = "QQQ256s16sIIIHxx"


class _RequestDocument(msgspec.Struct, frozen=True, kw_only=True):
    request_blob: str
    measurement_size: int
    additional_size: int
    encr_measurement_key: str
    encr_request_nonce: str
    image_hdr_tags: str
    runtime_data_digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeRequest:
    """What a verifier asks the ultravisor, and what is handed back to it unchanged.

    Attributes:
        control_block: the request itself, which the ultravisor alone can read.
        measurement_bytes: of the measurement that it makes.
        additional_bytes: of the additional data that it gives at most.
        measurement_key: encrypted for the verifier.
        request_nonce: encrypted for the verifier.
        image_tags: of the header of this guest's image, 208 bytes.
        user_data: the 64 bytes that the measurement binds.
    """

    control_block: bytes
    measurement_bytes: int
    additional_bytes: int
    measurement_key: bytes
    request_nonce: bytes
    image_tags: bytes
    user_data: bytes

    @classmethod
    def decode(cls, report_data: bytes) -> Self:
        """Read the JSON document that stands in the place of report data.

        Raises:
            DecodeError: not such a document, no digest, a digest of more than 64 bytes, or a
                size that the kernel does not take.
        """
        document = jsonio.decode(report_data, _RequestDocument)
        if document.runtime_data_digest is None:
            raise DecodeError("runtime_data_digest not provided")
        digest = decode_base64(document.runtime_data_digest, "runtime_data_digest")
        if len(digest) > USER_DATA_BYTES:
            raise DecodeError(
                f"Invalid data length: expected {USER_DATA_BYTES} bytes, "
                f"got {len(digest)} (too large)"
            )
        control_block = decode_base64(document.request_blob, "request_blob")
        tags = decode_base64(document.image_hdr_tags, "image_hdr_tags")
        if len(tags) != IMAGE_TAGS_BYTES:
            raise DecodeError(f"image_hdr_tags: {len(tags)} bytes, expected {IMAGE_TAGS_BYTES}")
        _verify_size("request_blob", len(control_block), MAX_REQUEST_BYTES)
        _verify_size("measurement_size", document.measurement_size, MAX_ANSWER_BYTES)
        # Evidence without additional data does not exist.
        _verify_size("additional_size", document.additional_size, MAX_ANSWER_BYTES)
        return cls(
            control_block=control_block,
            measurement_bytes=document.measurement_size,
            additional_bytes=document.additional_size,
            measurement_key=decode_base64(document.encr_measurement_key, "encr_measurement_key"),
            request_nonce=decode_base64(document.encr_request_nonce, "encr_request_nonce"),
            image_tags=tags,
            user_data=fit(digest, USER_DATA_BYTES),
        )


def _verify_size(name: str, found: int, most: int) -> None:
    if not 1 <= found <= most:
        raise DecodeError(f"{name}: {found} bytes, expected 1 to {most}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeMeasurement:
    """What the ultravisor answered.

    Attributes:
        measurement: authenticates everything, for who has the measurement key.
        additional_data: cut to the length that was given.
        config_uid: of this configuration, 16 bytes.
    """

    measurement: bytes
    additional_data: bytes
    config_uid: bytes


def evidence_of(request: SeRequest, answer: SeMeasurement) -> dict[str, str]:
    """The evidence, all members standard base64."""
    return {
        "measurement": encode_base64(answer.measurement),
        "additional_data": encode_base64(answer.additional_data),
        "user_data": encode_base64(request.user_data),
        "cuid": encode_base64(answer.config_uid),
        "encr_measurement_key": encode_base64(request.measurement_key),
        "encr_request_nonce": encode_base64(request.request_nonce),
        "image_hdr_tags": encode_base64(request.image_tags),
    }


def encode_argument(request: SeRequest, addresses: tuple[int, int, int], order: ByteOrder) -> bytes:
    """The argument of an attestation, 312 bytes.

    Args:
        request: what is asked.
        addresses: of the request's control block, and where measurement and additional data go.
        order: of this machine.
    """
    return struct.pack(
        _marked(_ARGUMENT, order),
        *addresses,
        request.user_data,
        bytes(16),
        len(request.control_block),
        request.measurement_bytes,
        request.additional_bytes,
        len(request.user_data),
    )


def decode_argument(data: bytes, order: ByteOrder) -> tuple[bytes, int]:
    """The configuration's UID, and how many bytes of additional data there are.

    Raises:
        DecodeError: not 312 bytes.
    """
    if len(data) != ARGUMENT_BYTES:
        raise DecodeError(f"argument of {len(data)} bytes, expected {ARGUMENT_BYTES}")
    fields = struct.unpack(_marked(_ARGUMENT, order), data)
    return fields[4], fields[7]


def encode_control(address: int, order: ByteOrder) -> bytes:
    """The control block of the call, 64 bytes; `address` is the argument's."""
    return struct.pack(_marked(_CONTROL, order), 0, 0, 0, address, ARGUMENT_BYTES)


def decode_control(data: bytes, order: ByteOrder) -> tuple[int, int]:
    """`uv_rc` and `uv_rrc`, the outcome and its reason.

    Raises:
        DecodeError: not 64 bytes.
    """
    if len(data) != CONTROL_BYTES:
        raise DecodeError(f"control block of {len(data)} bytes, expected {CONTROL_BYTES}")
    fields = struct.unpack(_marked(_CONTROL, order), data)
    return fields[1], fields[2]


def _marked(layout: str, order: ByteOrder) -> str:
    return (">" if order == "big" else "<") + layout
