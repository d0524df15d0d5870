"""What a KBS makes of evidence that a TPM gave. Sans-I/O.

Source: docs/spec/attesters.md 6.4, 7.4 and 8.
"""

import base64
import hashlib
import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from guest_simulator.encoding import EncodingError, b64_decode, parse_object
from guest_simulator.kbs.evidence import UNREADABLE, EvidenceError, InitData, Verified

PCRS: Final = 24
INIT_DATA_PCR: Final = 8

CheckHardware = Callable[[bytes, bytes], None]
"""Judges a hardware report with what proves it: the report's area, the proof."""


def verify_tpm(evidence: object, expected: bytes, init_data: InitData | None) -> Verified:
    """A verifier for `Behaviour.verifiers["tpm"]`."""
    try:
        return _judge_tpm(evidence, expected, init_data)
    except EvidenceError:
        raise
    except UNREADABLE as error:
        raise EvidenceError(f"TPM evidence: {error!r}") from error


def _judge_tpm(evidence: object, expected: bytes, init_data: InitData | None) -> Verified:
    tree = _object(evidence, "TPM evidence")
    quote = _object(tree.get("tpm_quote"), "tpm_quote")
    signature = _base64(quote, "signature")
    if signature[:4] != bytes.fromhex("0014000b"):
        raise EvidenceError("TPM signature is not RSASSA with SHA-256")
    pcrs = _pcrs(quote)
    key = load_der_public_key(_base64(tree, "ak_public"))
    if not isinstance(key, rsa.RSAPublicKey):
        raise EvidenceError("AK is no RSA key")
    nonce = _verify_quote(key, signature[6:], _base64(quote, "message"), pcrs)
    if not hmac.compare_digest(nonce, expected[:32].ljust(32, b"\0")):
        raise EvidenceError("TPM quote nonce doesn't match expected report_data")
    return _verified(pcrs, nonce, init_data)


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureVerifier:
    """A verifier for `Behaviour.verifiers` of `az-tdx-vtpm` or `az-snp-vtpm`.

    Attributes:
        member: `td_quote` or `vcek`.
        report_data_at: where the hardware report holds its report data.
        check_hardware: see `CheckHardware`.
    """

    member: str
    report_data_at: int
    check_hardware: CheckHardware

    def __call__(self, evidence: object, expected: bytes, init_data: InitData | None) -> Verified:
        """Judge evidence; see `guest_simulator.kbs.evidence.Verifier`."""
        try:
            return self._judge(evidence, expected, init_data)
        except EvidenceError:
            raise
        except UNREADABLE as error:
            raise EvidenceError(f"Azure evidence: {error!r}") from error

    def _judge(self, evidence: object, expected: bytes, init_data: InitData | None) -> Verified:
        tree = _object(evidence, "Azure evidence")
        if tree.get("version") != 2 or isinstance(tree.get("version"), bool):
            raise EvidenceError("evidence of another version than 2")
        if not expected:
            raise EvidenceError("unexpected empty report data")
        report, proof = _padded(tree, "hcl_report"), _padded(tree, self.member)
        (length,) = struct.unpack_from("<I", report, 1232)
        document = report[1236 : 1236 + length]
        quote = _object(tree.get("tpm_quote"), "tpm_quote")
        pcrs = _pcrs(quote)
        signature, message = _hex(quote, "signature"), _hex(quote, "message")
        nonce = _verify_quote(_signing_key(document), signature, message, pcrs)
        if not hmac.compare_digest(nonce, expected):
            raise EvidenceError("TPM quote nonce doesn't match expected report_data")
        start = 32 + self.report_data_at
        if report[start : start + 32] != hashlib.sha256(document).digest():
            raise EvidenceError("hardware report data mismatch")
        self.check_hardware(report[32:1216], proof)
        user_data = bytes.fromhex(str(parse_object(document).get("user-data")))
        if not user_data.startswith(expected):
            raise EvidenceError("user-data does not start with the report data")
        return _verified(pcrs, nonce, init_data)


def _verify_quote(
    key: rsa.RSAPublicKey, signature: bytes, message: bytes, pcrs: list[bytes]
) -> bytes:
    """The nonce of a quote that was checked, over these registers."""
    try:
        key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature as error:
        raise EvidenceError("TPM quote signature is wrong") from error
    if message[:6] != bytes.fromhex("ff5443478018"):
        raise EvidenceError("TPM attestation is no quote")
    at = 8 + int.from_bytes(message[6:8], "big")
    length = int.from_bytes(message[at : at + 2], "big")
    nonce = message[at + 2 : at + 2 + length]
    tail = message[at + 2 + length + 17 + 8 :]
    if tail[:12] != bytes.fromhex("00000001000b03ffffff0020"):
        raise EvidenceError("TPM quote does not cover all registers of the SHA-256 bank")
    if hashlib.sha256(b"".join(pcrs)).digest() != tail[12:]:
        raise EvidenceError("pcrs are not those of the TPM quote")
    return nonce


def _verified(pcrs: list[bytes], nonce: bytes, init_data: InitData | None) -> Verified:
    bound = pcrs[INIT_DATA_PCR]
    if init_data is not None:
        if len(init_data.digest) != 32:
            raise EvidenceError("init data digest has not 32 bytes")
        if hashlib.sha256(bytes(32) + init_data.digest).digest() != bound:
            raise EvidenceError("init data is not bound by PCR 8")
    claims: dict[str, object] = {f"pcr{i:02}": value.hex() for i, value in enumerate(pcrs)}
    return Verified(claims=claims, report_data=nonce.hex(), init_data=bound.hex())


def _signing_key(document: bytes) -> rsa.RSAPublicKey:
    keys = parse_object(document).get("keys")
    for key in keys if isinstance(keys, list) else []:
        if isinstance(key, dict) and key.get("kid") == "HCLAkPub":
            numbers = [_number(str(key.get(name))) for name in ("e", "n")]
            return rsa.RSAPublicNumbers(*numbers).public_key()
    raise EvidenceError("HCL report without HCLAkPub")


def _number(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")


def _object(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise EvidenceError(f"{what} is not an object")
    return value


def _text(tree: dict[str, object], name: str) -> str:
    value = tree.get(name)
    if not isinstance(value, str):
        raise EvidenceError(f"{name} is not a string")
    return value


def _base64(tree: dict[str, object], name: str) -> bytes:
    try:
        return b64_decode(_text(tree, name))
    except EncodingError as error:
        raise EvidenceError(f"{name}: {error}") from error


def _padded(tree: dict[str, object], name: str) -> bytes:
    text = _text(tree, name)
    if len(text) % 4 or "+" in text or "/" in text:
        raise EvidenceError(f"{name} is not padded base64 of the URL alphabet")
    return base64.urlsafe_b64decode(text)


def _hex(tree: dict[str, object], name: str) -> bytes:
    try:
        return bytes.fromhex(_text(tree, name))
    except ValueError as error:
        raise EvidenceError(f"{name} is not hexadecimal") from error


def _pcrs(quote: dict[str, object]) -> list[bytes]:
    values = quote.get("pcrs")
    if not isinstance(values, list) or len(values) != PCRS:
        raise EvidenceError("pcrs is not a list of 24")
    if not all(isinstance(value, str) and len(value) == 64 for value in values):
        raise EvidenceError("pcrs are not of 64 digits each")
    return [bytes.fromhex(value) for value in values]
