"""Sigstore bundles and the referrers that lead to them, as cosign 3 attaches both. Sans-I/O.

Source: docs/spec/image-pull.md 9.7; sigstore bundle v0.3; DSSE 1.0 "Protocol"; in-toto
Statement v1; OCI distribution-spec "Listing Referrers"; cosign "Bundle Specification".
"""

from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

import msgspec

from guest.crypto.digest import Digest, HashAlgorithm
from guest.errors import DecodeError
from guest.jsonio import decode
from guest.wire import decode_base64
from image_pull.manifest import MAX_DOCUMENT, OCI_MANIFEST, Descriptor, parse_digest

BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
IN_TOTO: Final = "application/vnd.in-toto+json"
STATEMENT: Final = "https://in-toto.io/Statement/v1"
SIGNATURE: Final = "https://sigstore.dev/cosign/sign/v1"
"""The predicate of a signature; any other one is an attestation and signs nothing off."""

MAX_DEPTH: Final = 32
MAX_REFERRERS: Final = 128
MAX_SUBJECTS: Final = 128

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What a bundle signs.

    Attributes:
        signed: the bytes under the signature: payload type and payload, each with its length.
        signature: as the key's algorithm makes it.
        payload: the statement's bytes.
    """

    signed: bytes
    signature: bytes
    payload: bytes


class _Signature(msgspec.Struct, frozen=True):
    sig: str


class _Envelope(msgspec.Struct, frozen=True, rename="camel"):
    payload: str
    payload_type: str
    signatures: tuple[_Signature, ...]


class _Bundle(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str
    dsse_envelope: _Envelope


class _Subject(msgspec.Struct, frozen=True):
    digest: dict[str, str]


class _Statement(msgspec.Struct, frozen=True, rename={"kind": "_type"}):
    kind: str
    subject: tuple[_Subject, ...]
    predicate_type: str = msgspec.field(name="predicateType")


class _Referrer(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str
    digest: str
    size: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    artifact_type: str | None = None


class _Referrers(msgspec.Struct, frozen=True):
    manifests: tuple[_Referrer, ...]


def parse_bundle(data: bytes) -> Envelope:
    """Parse a bundle; its certificates and log entries are not looked at.

    Raises:
        DecodeError: not a bundle of v0.3 with one signature over an in-toto statement.
    """
    bundle = _decode(data, _Bundle, "bundle")
    envelope = bundle.dsse_envelope
    if bundle.media_type != BUNDLE or envelope.payload_type != IN_TOTO:
        raise DecodeError("bundle is of another version, or signs no in-toto statement")
    if len(envelope.signatures) != 1:
        raise DecodeError(f"bundle has {len(envelope.signatures)} signatures, not one")
    payload = decode_base64(envelope.payload, "payload of a bundle")
    return Envelope(
        signed=_pre_authentication(envelope.payload_type, payload),
        signature=decode_base64(envelope.signatures[0].sig, "signature of a bundle"),
        payload=payload,
    )


def _pre_authentication(kind: str, payload: bytes) -> bytes:
    name = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def parse_statement(data: bytes) -> tuple[Digest, ...]:
    """Parse a statement whose signature is good: the SHA-256 digests that it signs off.

    Raises:
        DecodeError: not an in-toto statement, or one about something else than a signature.
    """
    statement = _decode(data, _Statement, "statement")
    if statement.kind != STATEMENT or statement.predicate_type != SIGNATURE:
        raise DecodeError("statement is an attestation and no signature")
    if len(statement.subject) > MAX_SUBJECTS:
        raise DecodeError(f"statement has {len(statement.subject)} subjects")
    name = HashAlgorithm.SHA256.value
    return tuple(
        Digest.parse(f"{name}:{each.digest[name]}")
        for each in statement.subject
        if name in each.digest
    )


def parse_referrers(data: bytes) -> tuple[Descriptor, ...]:
    """Parse what refers to an image: the manifests that may hold bundles, at most 128.

    Raises:
        DecodeError: not an index.
    """
    found = _decode(data, _Referrers, "list of referrers").manifests
    return tuple(
        Descriptor(
            media_type=each.media_type,
            digest=parse_digest(each.digest),
            size=each.size,
            annotations={},
        )
        for each in found
        if each.artifact_type in (None, BUNDLE) and each.media_type == OCI_MANIFEST
    )[:MAX_REFERRERS]


def _decode(data: bytes, kind: type[T], what: str) -> T:
    try:
        return decode(data, kind, max_depth=MAX_DEPTH, max_bytes=MAX_DOCUMENT)
    except DecodeError as error:
        raise DecodeError(f"{what}: {error}") from error
