"""What a signature log promised for a signature of cosign's older form. Sans-I/O.

The promise is the log's signature over an entry and the time at which it took the entry in; the
entry has the digest of what was signed, the signature, and the key or certificate of the signer.

Source: docs/spec/image-pull.md 9.7; cosign "Signature Specification", `dev.sigstore.cosign/bundle`;
Rekor's type hashedrekord 0.0.1; RFC 8785.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final, TypeAlias

import msgspec

from guest.crypto.digest import HashAlgorithm
from guest.errors import DecodeError, IntegrityError
from guest.jsonio import canonical, decode
from guest.wire import decode_base64
from image_pull.signature.public_key import SignerKey

MAX_PROMISE: Final = 256 * 1024
"""Most bytes of the annotation."""

MAX_TIME: Final = 2**33
"""Latest time of a promise, in seconds since 1970."""

_Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Time: TypeAlias = Annotated[int, msgspec.Meta(gt=0, le=MAX_TIME)]


class _Payload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    body: str
    integrated_time: _Time = msgspec.field(name="integratedTime")
    log_index: _Number = msgspec.field(name="logIndex")
    log_id: str = msgspec.field(name="logID")


class _Promise(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    signed: str = msgspec.field(name="SignedEntryTimestamp")
    payload: _Payload = msgspec.field(name="Payload")


class _Hash(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    algorithm: str
    value: str


class _Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    hash: _Hash


class _PublicKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    content: str


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    content: str
    public_key: _PublicKey = msgspec.field(name="publicKey")


class _Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    data: _Data
    signature: _Signature


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: str
    spec: _Spec
    version: str = msgspec.field(name="apiVersion")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """An entry that a log has promised.

    Attributes:
        integrated: when the log took it in.
        signer: PEM of the key or certificate in it.
        digest: hexadecimal, of what was signed.
        signature: in it.
    """

    integrated: datetime
    signer: bytes
    digest: str
    signature: bytes

    @classmethod
    def read(cls, text: str, keys: Sequence[SignerKey]) -> "LogEntry":
        """Read the annotation and require that one of the logs' keys has signed it.

        Raises:
            DecodeError: of another form.
            IntegrityError: signed by none of them.
        """
        promise = decode(text.encode(), _Promise, max_bytes=MAX_PROMISE)
        payload = promise.payload
        signed = canonical(
            {
                "body": payload.body,
                "integratedTime": payload.integrated_time,
                "logID": payload.log_id,
                "logIndex": payload.log_index,
            }
        )
        _verify(keys, decode_base64(promise.signed, "SignedEntryTimestamp"), signed)
        body = decode(decode_base64(payload.body, "body"), _Body, max_bytes=MAX_PROMISE)
        if (body.kind, body.version) != ("hashedrekord", "0.0.1"):
            raise DecodeError(f"log entry is of the type {body.kind[:40]} {body.version[:20]}")
        if body.spec.data.hash.algorithm != HashAlgorithm.SHA256.value:
            raise DecodeError("log entry has a digest of another kind than sha256")
        return cls(
            integrated=datetime.fromtimestamp(payload.integrated_time, UTC),
            signer=decode_base64(body.spec.signature.public_key.content, "publicKey"),
            digest=body.spec.data.hash.value,
            signature=decode_base64(body.spec.signature.content, "signature"),
        )

    def verify_about(self, signature: bytes, signed: bytes) -> None:
        """Require that the entry is about this signature over these bytes.

        Raises:
            IntegrityError: it is about another.
        """
        if self.signature != signature or self.digest != HashAlgorithm.SHA256.of(signed).hex:
            raise IntegrityError("log entry is about another signature")


def _verify(keys: Sequence[SignerKey], signature: bytes, signed: bytes) -> None:
    for key in keys:
        try:
            key.verify(signature, signed)
        except IntegrityError:
            continue
        return
    raise IntegrityError("log entry is not promised by a log of the policy")
