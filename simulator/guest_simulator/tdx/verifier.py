"""What a KBS makes of TDX evidence. Sans-I/O.

Signatures down to a root that it was given, report data, init data, and the event log against the
quoted registers; no TCB levels and no revocation.

Source: docs/spec/attesters.md 2.1, 3.7 and 3.8.
"""

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from guest_simulator.encoding import EncodingError, b64_decode, b64_encode
from guest_simulator.kbs.evidence import EvidenceError, InitData, Verified, verify_bound

HEADER: Final = 48
BODY: Final = 584
REGISTER_NAMES: Final = ("rtmr_0", "rtmr_1", "rtmr_2", "rtmr_3")
SHA384: Final = 0x0C
ENDS: Final = (b"\xff" * 8, bytes(8))


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxVerifier:
    """A verifier for `Behaviour.verifiers["tdx"]`.

    Attributes:
        root: PEM of the only root certificate that is trusted.
    """

    root: bytes

    def __call__(self, evidence: object, expected: bytes, init_data: InitData | None) -> Verified:
        """Judge evidence; see `guest_simulator.kbs.evidence.Verifier`."""
        if not isinstance(evidence, dict):
            raise EvidenceError("TDX evidence is not an object")
        quote = _bytes_of(evidence, "quote")
        if quote is None:
            raise EvidenceError("TDX Quote is empty")
        try:
            body = self._verified_body(quote)
        except (struct.error, ValueError, InvalidSignature) as error:
            raise EvidenceError(f"TDX quote: {error!r}") from error
        verify_bound(body[520:584], expected, "REPORT_DATA is different from that in TDX Quote")
        config_id = body[184:232]
        if init_data is not None:
            text = "MRCONFIGID is different from that in TDX Quote"
            verify_bound(config_id, init_data.digest, text)
        registers = [body[at : at + 48] for at in range(328, 520, 48)]
        event_log = _bytes_of(evidence, "cc_eventlog")
        if event_log:
            _verify_log(event_log, registers)
        claims = {name: value.hex() for name, value in zip(REGISTER_NAMES, registers, strict=True)}
        claims["mr_td"] = body[136:184].hex()
        return Verified(
            claims={"quote": {"body": claims}, "has_event_log": bool(event_log)},
            report_data=body[520:584].hex(),
            init_data=config_id.hex(),
        )

    def _verified_body(self, quote: bytes) -> bytes:
        if struct.unpack_from("<HHI", quote) != (4, 2, 0x81):
            raise ValueError("not a version 4 quote of a TD")
        signed = quote[: HEADER + BODY]
        section = section_behind(quote, len(signed))
        # The quoting enclave's part is itself in a part of kind 6 and a length.
        verify_section(signed, section[:128], section[134:], self.root)
        return signed[HEADER:]


def check_td_report(root: bytes) -> Callable[[bytes, bytes], None]:
    """Checks of a quote whose report data is a TDREPORT's, down to a root.

    Args:
        root: PEM of the only root certificate that is trusted.
    """

    def check(report: bytes, quote: bytes) -> None:
        bound = report[128:192]
        TdxVerifier(root=root)({"quote": b64_encode(quote), "cc_eventlog": None}, bound, None)

    return check


def section_behind(quote: bytes, signed_bytes: int) -> bytes:
    """What signs the first bytes of a quote.

    Raises:
        ValueError: it is cut.
    """
    (length,) = struct.unpack_from("<I", quote, signed_bytes)
    section = quote[signed_bytes + 4 : signed_bytes + 4 + length]
    if len(section) != length:
        raise ValueError("the signature is cut")
    return section


def verify_section(signed: bytes, front: bytes, certified: bytes, trusted: bytes) -> None:
    """Check what a quoting enclave signed, down to a root.

    Args:
        signed: header and body of the quote.
        front: signature and attestation key, 64 bytes each.
        certified: the quoting enclave's report, its signature, and the certificates.
        trusted: PEM of the only root certificate that is trusted.

    Raises:
        ValueError: the chain or the key does not convince.
        InvalidSignature: a signature does not.
    """
    point = b"\4" + front[64:128]
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    _verify(key, front[:64], signed)
    report = certified[:384]
    (auth_length,) = struct.unpack_from("<H", certified, 448)
    auth = certified[450 : 450 + auth_length]
    if report[320:352] != hashlib.sha256(front[64:128] + auth).digest():
        raise ValueError("the quoting enclave does not vouch for the key")
    leaf, middle, root = x509.load_pem_x509_certificates(certified[456 + auth_length :])
    if root != x509.load_pem_x509_certificate(trusted):
        raise ValueError("the root certificate is not trusted")
    leaf.verify_directly_issued_by(middle)
    middle.verify_directly_issued_by(root)
    leaf_key = leaf.public_key()
    if not isinstance(leaf_key, ec.EllipticCurvePublicKey):
        raise ValueError("the PCK certificate has another kind of key")
    _verify(leaf_key, certified[384:448], report)


def _verify(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> None:
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))


def _bytes_of(evidence: dict[str, object], name: str) -> bytes | None:
    text = evidence.get(name)
    if text is None:
        return None
    if not isinstance(text, str):
        raise EvidenceError(f"{name} is not a string")
    try:
        return b64_decode(text)
    except EncodingError as error:
        raise EvidenceError(f"{name}: {error}") from error


def _verify_log(log: bytes, registers: list[bytes]) -> None:
    try:
        values = replay(log, SHA384, _extended, bytes(48))
    except struct.error as error:
        raise EvidenceError(f"event log: {error}") from error
    for index, given in enumerate(registers, 1):
        calculated = values.get(index, bytes(48))
        if calculated != given:
            raise EvidenceError(
                "Eventlog does not pass measurement replay CC Event Log Measurement Register "
                f"[index = {index}]. Calculated value: {calculated.hex()}, "
                f"Given value: {given.hex()}"
            )


def replay(
    log: bytes, wanted: int, extend: Callable[[bytes, bytes], bytes], start: bytes
) -> dict[int, bytes]:
    """The registers that a log comes to, by index.

    Args:
        log: with its header and its end.
        wanted: number of the algorithm whose digests count.
        extend: a register's next value.
        start: a register's first value.

    Raises:
        EvidenceError: a digest of an algorithm that the header does not name.
        struct.error: the log is cut.
    """
    (size,) = struct.unpack_from("<I", log, 28)
    spec, at = log[32 : 32 + size], 32 + size
    (count,) = struct.unpack_from("<I", spec, 24)
    sizes = dict(struct.unpack_from("<HH", spec, 28 + 4 * i) for i in range(count))
    values: dict[int, bytes] = {}
    while log[at : at + 8] not in ENDS:
        index, _, digests = struct.unpack_from("<III", log, at)
        at += 12
        for _ in range(digests):
            (algorithm,) = struct.unpack_from("<H", log, at)
            if algorithm not in sizes:
                raise EvidenceError(f"Missing digest size for algorithm: {algorithm:#x}")
            digest = log[at + 2 : at + 2 + sizes[algorithm]]
            at += 2 + sizes[algorithm]
            if algorithm == wanted:
                values[index] = extend(values.get(index, start), digest)
        at += 4 + struct.unpack_from("<I", log, at)[0]
    return values


def _extended(value: bytes, digest: bytes) -> bytes:
    return hashlib.sha384(value + digest).digest()
