"""What a KBS makes of evidence of realms, Secure Execution guests, GPUs and DPUs. Sans-I/O.

Source: docs/spec/attesters.md 10, 13 and 14; RFC 9052 section 4.4.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from guest_simulator.devices import cbor
from guest_simulator.devices.realm import (
    CHALLENGE,
    COLLECTION_TAG,
    ES384,
    PERSONALIZATION,
    PLATFORM_TOKEN,
    REALM_TOKEN,
    SIGN1_TAG,
    Realm,
    Tag,
    encode,
)
from guest_simulator.encoding import b64_decode
from guest_simulator.kbs.evidence import (
    UNREADABLE,
    EvidenceError,
    InitData,
    Verified,
    verify_bound,
)

_SE_MEMBERS: Final = (
    "measurement", "additional_data", "user_data", "cuid",
    "encr_measurement_key", "encr_request_nonce", "image_hdr_tags",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CcaVerifier:
    """A verifier for `Behaviour.verifiers["cca"]`.

    Attributes:
        realm: whose keys are trusted.
    """

    realm: Realm

    def __call__(self, evidence: Any, expected: bytes, init_data: InitData | None) -> Verified:
        """Judge evidence; see `guest_simulator.kbs.evidence.Verifier`."""
        try:
            collection = cbor.decode(bytes(evidence["token"]))
            tokens = _tagged(collection, COLLECTION_TAG)
            _payload(tokens[PLATFORM_TOKEN], self.realm.platform_key.public_key())
            claims = cbor.decode(_payload(tokens[REALM_TOKEN], self.realm.realm_key.public_key()))
            challenge, bound = claims[CHALLENGE], claims[PERSONALIZATION]
        except UNREADABLE as error:
            raise EvidenceError(f"CCA evidence: {error!r}") from error
        verify_bound(challenge, expected, "cca-realm-challenge is another one")
        if init_data is not None and init_data.digest != bound:  # whole, as the original does
            raise EvidenceError("cca-realm-personalization-value is another one")
        return Verified(
            claims={"realm": {"challenge": challenge.hex()}},
            report_data=challenge.hex(),
            init_data=bound.hex(),
        )


def _tagged(value: Any, number: int) -> Any:
    if not isinstance(value, Tag) or value.number != number:
        raise ValueError(f"tag {number} is missing")
    return value.value


def _payload(message: bytes, key: ec.EllipticCurvePublicKey) -> bytes:
    """What a COSE_Sign1 message says, once its signature is checked."""
    protected, _, payload, signature = _tagged(cbor.decode(message), SIGN1_TAG)
    if protected != ES384 or len(signature) != 96:
        raise ValueError("another algorithm than ES384")
    text = encode(["Signature1", protected, b"", payload])
    _verify(key, signature, text)
    return bytes(payload)


def _verify(key: ec.EllipticCurvePublicKey, signature: bytes, text: bytes) -> None:
    r, s = (int.from_bytes(signature[at : at + 48], "big") for at in (0, 48))
    key.verify(encode_dss_signature(r, s), text, ec.ECDSA(hashes.SHA384()))


@dataclass(frozen=True, slots=True, kw_only=True)
class SeVerifier:
    """A verifier for `Behaviour.verifiers["se"]`.

    Attributes:
        key: of measurements, which the original has from its request.
        request: the attestation request that the challenge carried.
    """

    key: bytes
    request: bytes

    def __call__(self, evidence: Any, expected: bytes, init_data: InitData | None) -> Verified:
        """Judge evidence; init data is ignored, as by the original."""
        try:
            found = {name: b64_decode(evidence[name]) for name in _SE_MEMBERS}
        except UNREADABLE as error:
            raise EvidenceError(f"SE evidence: {error!r}") from error
        verify_bound(found["user_data"], expected, "user_data is another one")
        text = self.request + found["user_data"] + found["cuid"] + found["additional_data"]
        made = hmac.digest(self.key, text, hashlib.sha512)[: len(found["measurement"])]
        if not made or not hmac.compare_digest(made, found["measurement"]):
            raise EvidenceError("measurement is wrong")
        return Verified(claims={"cuid": found["cuid"].hex()}, report_data=found["user_data"].hex())


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuVerifier:
    """A verifier for `Behaviour.verifiers["nvidia"]`.

    Attributes:
        chains: PEM of the GPUs that are trusted, all of which must answer.
    """

    chains: tuple[bytes, ...]

    def __call__(self, evidence: Any, expected: bytes, init_data: InitData | None) -> Verified:
        """Judge evidence; see `guest_simulator.kbs.evidence.Verifier`."""
        try:
            entries = evidence["device_evidence_list"]
            chains = [b64_decode(entry["certificate"]) for entry in entries]
            reports = [b64_decode(entry["evidence"]) for entry in entries]
            for chain, report in zip(chains, reports, strict=True):
                _verify(_key_of(x509.load_pem_x509_certificate(chain)), report[-96:], report[:-96])
        except UNREADABLE as error:
            raise EvidenceError(f"GPU evidence: {error!r}") from error
        if sorted(chains) != sorted(self.chains):
            raise EvidenceError("not the GPUs that are trusted")
        for report in reports:
            verify_bound(report[4:36], expected, "GPU report binds another nonce")
        names = [str(entry["arch"]) for entry in entries]
        return Verified(claims={"arch": names}, report_data=expected[:32].hex())


@dataclass(frozen=True, slots=True, kw_only=True)
class DpuVerifier:
    """A verifier for `Behaviour.verifiers["nvidia-dpu"]`.

    Attributes:
        identity: what must have issued the alias certificate.
    """

    identity: ec.EllipticCurvePublicKey

    def __call__(self, evidence: Any, expected: bytes, init_data: InitData | None) -> Verified:
        """Judge evidence; see `guest_simulator.kbs.evidence.Verifier`."""
        try:
            (device,) = evidence["devices"]
            alias = x509.load_der_x509_certificate(b64_decode(device["alias_cert"]))
            identity = x509.load_der_x509_certificate(b64_decode(device["device_id_cert"]))
            if _key_of(identity) != self.identity:
                raise EvidenceError("not the DPU that is trusted")
            self.identity.verify(
                alias.signature, alias.tbs_certificate_bytes, ec.ECDSA(hashes.SHA384())
            )
            _verify(_key_of(alias), b64_decode(device["report_data_signature"]), expected)
        except UNREADABLE as error:
            raise EvidenceError(f"DPU evidence: {error!r}") from error
        claims: Mapping[str, object] = {"architecture": device["architecture"]}
        return Verified(claims=claims, report_data=expected.hex())


def _key_of(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("certificate of another kind of key")
    return key
