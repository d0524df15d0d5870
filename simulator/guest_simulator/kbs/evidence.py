"""Runtime data digests and the verifiers of sample evidence. Sans-I/O.

Source: docs/spec/kbs-protocol.md §4, §12.
"""

import hashlib
import hmac
import struct
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes

from guest_simulator.encoding import (
    EncodingError,
    b64_decode,
    b64_encode,
    canonical_json,
    parse_object,
    text_member,
)
from guest_simulator.kbs.tee_key import normalise_tee_key

HASH_ALGORITHMS: Final = ("sha256", "sha384", "sha512", "sm3")
DEFAULT_ALGORITHM: Final = "sha384"

TEES: Final = frozenset(
    (
        "az-snp-vtpm",
        "az-tdx-vtpm",
        "nvidia",
        "sgx",
        "snp",
        "tdx",
        "cca",
        "csv",
        "se",
        "hygondcu",
        "tpm",
        "sample",
        "sampledevice",
        "nvidiadpu",
        "nvidia-dpu",
    )
)
"""Wire names that parse; the last two are one type whose name is not settled."""

CLASSES: Final[Mapping[str, str]] = {
    "nvidia": "gpu",
    "sampledevice": "gpu",
    "hygondcu": "dcu",
    "nvidiadpu": "nvidia-dpu",
    "nvidia-dpu": "nvidia-dpu",
}
"""TEE to the class that names its appraisal; all others are `cpu`."""


class EvidenceError(ValueError):
    """Evidence that does not convince."""


def digest(algorithm: str, data: bytes) -> bytes:
    """A digest by its wire name.

    Raises:
        EvidenceError: an unknown algorithm.
    """
    if algorithm not in HASH_ALGORITHMS:
        raise EvidenceError(f"unknown hash algorithm {algorithm}")
    if algorithm == "sm3":
        context = hashes.Hash(hashes.SM3())
        context.update(data)
        return context.finalize()
    return hashlib.new(algorithm, data).digest()


def runtime_data(
    nonce: str, tee_key: Mapping[str, str], additional: str | None
) -> dict[str, object]:
    """The object that is hashed: for the primary attester with `additional`, else without."""
    data: dict[str, object] = {"nonce": nonce, "tee-pubkey": dict(tee_key)}
    if additional is not None:
        data["additional-evidence"] = additional
    return data


def report_data(algorithm: str, data: Mapping[str, object]) -> bytes:
    """The digest that evidence must bind."""
    return digest(algorithm, canonical_json(data))


def algorithm_for(tee: str, selected: str | None) -> str:
    """The algorithm the server verifies with: the selected one, else its own choice."""
    if selected is not None:
        return selected.lower()
    return "sha512" if tee == "se" else DEFAULT_ALGORITHM


@dataclass(frozen=True, slots=True, kw_only=True)
class InitData:
    """The init data document as the guest sent it.

    Attributes:
        digest: over the exact bytes of the body, by the document's own algorithm.
        claims: what the token says of it.
    """

    digest: bytes
    claims: Mapping[str, object]


def parse_init_data(value: object) -> InitData | None:
    """Judge the member `init-data` of an attestation.

    Raises:
        EvidenceError: another format than `toml`, or a document that does not parse.
    """
    if value is None:
        return None
    try:
        if not isinstance(value, dict):
            raise EvidenceError("init-data is no object")
        if text_member(value, "format") != "toml":
            raise EvidenceError("init-data of a format other than toml")
        body = text_member(value, "body")
        document = tomllib.loads(body)
        algorithm = text_member(document, "algorithm").lower()
        text_member(document, "version")
    except (EncodingError, tomllib.TOMLDecodeError) as error:
        raise EvidenceError(f"init-data: {error}") from error
    data = document.get("data")
    if algorithm not in HASH_ALGORITHMS or not isinstance(data, dict):
        raise EvidenceError("init-data lacks a known algorithm or its data table")
    claims = {name: _init_data_claim(name, entry) for name, entry in data.items()}
    return InitData(digest=digest(algorithm, body.encode()), claims=claims)


def _init_data_claim(name: str, entry: object) -> object:
    if not isinstance(entry, str):
        raise EvidenceError(f"init-data: {name} is not a string")
    if name.endswith(".toml"):
        try:
            return tomllib.loads(entry)
        except tomllib.TOMLDecodeError:
            return entry
    return entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What a verifier found.

    Attributes:
        claims: go under the TEE's name.
        report_data: goes into the token as the verifier spells it.
        init_data: the verifier's spelling of the init data digest; None where it has none.
    """

    claims: Mapping[str, object]
    report_data: str
    init_data: str | None = None


Verifier = Callable[[object, bytes, "InitData | None"], Verified]
"""Judges evidence: value, expected report data, init data. Raises `EvidenceError`."""


UNREADABLE: Final = (
    AttributeError, LookupError, TypeError, ValueError, struct.error, EncodingError,
    InvalidSignature,
)  # fmt: skip
"""What taking evidence apart ends in where it has another form, or a signature is wrong."""


def verify_bound(found: bytes, expected: bytes, otherwise: str) -> None:
    """What evidence binds is what was expected, cut or padded with zeros to its length.

    Raises:
        EvidenceError: it is not; says `otherwise`.
    """
    if not hmac.compare_digest(found, expected[: len(found)].ljust(len(found), b"\0")):
        raise EvidenceError(otherwise)


def _sample_report_data(evidence: object, expected: bytes) -> tuple[str, str]:
    if not isinstance(evidence, dict):
        raise EvidenceError("sample evidence is not an object")
    try:
        svn = text_member(evidence, "svn")
        quoted = evidence.get("report_data", "")
        if not isinstance(quoted, str):
            raise EvidenceError("report_data is not a string")
        found = b64_decode(quoted)
    except EncodingError as error:
        raise EvidenceError(str(error)) from error
    if not hmac.compare_digest(found, expected):
        raise EvidenceError("report data does not match")
    return svn, quoted


def verify_sample(evidence: object, expected: bytes, init_data: InitData | None) -> Verified:
    """`{"svn", "report_data"}` whose report data is the digest exactly.

    The init data digest is not bound by this evidence; it is copied into the claims.
    """
    svn, quoted = _sample_report_data(evidence, expected)
    version = {"major": 1, "minor": 4}
    claims = {
        "debug": False,
        "launch_digest": "abcde",
        "platform_version": version,
        "svn": svn,
    }
    copied = b64_encode(init_data.digest) if init_data is not None else None
    return Verified(claims=claims, report_data=quoted, init_data=copied)


def verify_sample_device(evidence: object, expected: bytes, init_data: InitData | None) -> Verified:
    """The same for the sample device, which knows no init data."""
    svn, quoted = _sample_report_data(evidence, expected)
    return Verified(claims={"svn": svn}, report_data=quoted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Appraised:
    """One evidence that was verified.

    Attributes:
        tee: wire name.
        runtime_data: what was hashed for it.
    """

    tee: str
    verified: Verified
    runtime_data: Mapping[str, object]
    init_data: InitData | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """The body of `attest`, taken apart but not judged.

    Attributes:
        additional: the string exactly as received.
        additional_evidence: its parsed form, by TEE.
    """

    nonce: str
    tee_key: Mapping[str, str]
    primary: object
    additional: str
    additional_evidence: Mapping[str, object] = field(default_factory=dict)
    init_data: object = None


def parse_attestation(body: bytes) -> Attestation:
    """Take the body of `attest` apart.

    Raises:
        EvidenceError: it lacks something, or names a TEE that does not exist.
    """
    try:
        message = parse_object(body)
        runtime, evidence = message.get("runtime-data"), message.get("tee-evidence")
        if not isinstance(runtime, dict) or not isinstance(evidence, dict):
            raise EvidenceError("runtime-data or tee-evidence is missing")
        additional = text_member(evidence, "additional_evidence")
        devices = parse_object(additional) if additional else {}
        if "primary_evidence" not in evidence:
            raise EvidenceError("primary_evidence is missing")
        if unknown := devices.keys() - TEES:
            raise EvidenceError(f"unknown TEE in additional evidence: {sorted(unknown)}")
        return Attestation(
            nonce=text_member(runtime, "nonce"),
            tee_key=normalise_tee_key(runtime.get("tee-pubkey")),
            primary=evidence["primary_evidence"],
            additional=additional,
            additional_evidence=devices,
            init_data=message.get("init-data"),
        )
    except EncodingError as error:
        raise EvidenceError(str(error)) from error


def appraise(
    tee: str,
    attestation: Attestation,
    verifiers: Mapping[str, Verifier],
    selected: str | None,
) -> list[Appraised]:
    """Verify everything: the primary evidence first, then each additional one.

    Raises:
        EvidenceError: any of it does not convince, or there is no verifier for it.
    """
    init_data = parse_init_data(attestation.init_data)
    with_devices = runtime_data(attestation.nonce, attestation.tee_key, attestation.additional)
    bare = runtime_data(attestation.nonce, attestation.tee_key, None)
    jobs = [(tee, attestation.primary, with_devices, algorithm_for(tee, selected))]
    device_algorithm = selected.lower() if selected else DEFAULT_ALGORITHM
    for device, value in attestation.additional_evidence.items():
        jobs.append((device, value, bare, device_algorithm))
    appraised = []
    for name, value, data, algorithm in jobs:
        if name not in verifiers:
            raise EvidenceError(f"no verifier for {name}")
        verified = verifiers[name](value, report_data(algorithm, data), init_data)
        appraised.append(
            Appraised(tee=name, verified=verified, runtime_data=data, init_data=init_data)
        )
    return appraised
