"""The attestation token: issue an EAR, verify a token, find the guest's key in it.

Source: docs/spec/kbs-protocol.md §7, §13.6.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from guest_simulator.encoding import EncodingError
from guest_simulator.kbs.evidence import CLASSES, Appraised
from guest_simulator.kbs.failures import KbsFailure, Kind
from guest_simulator.kbs.jws import (
    JwsError,
    PublicKey,
    es256_jwk,
    key_from_jwk,
    parse_jws,
    sign_jws,
    verify_jws,
)
from guest_simulator.kbs.tee_key import normalise_tee_key

LEEWAY: Final = 60
"""Seconds past `exp` for which a token is still taken."""

KEY_POINTERS: Final = (
    ("tdx", "attester_runtime_data", "tee-pubkey"),
    ("tdx", "attester_user_data", "tee-pubkey"),
    ("customized_claims", "runtime_data", "tee-pubkey"),
    (
        "submods",
        "cpu0",
        "ear.veraison.annotated-evidence",
        "runtime_data_claims",
        "tee-pubkey",
    ),
    ("tee-pubkey",),
)
"""Where the guest's key is looked for, first hit wins."""

SAMPLE_REFERENCES: Final[Mapping[str, object]] = {
    "launch_digest": "abcde",
    "svn": "1",
    "major_version": 1,
    "minimum_minor_version": 1,
}
"""Reference values with which the default policy finds sample evidence affirming."""

Claims = Mapping[str, object]


def _vector(configuration: int, executables: int, hardware: int) -> dict[str, int]:
    return {
        "instance-identity": 0,
        "configuration": configuration,
        "executables": executables,
        "file-system": 0,
        "hardware": hardware,
        "runtime-opaque": 0,
        "storage-opaque": 0,
        "sourced-data": 0,
    }


def status_of(vector: Mapping[str, int]) -> str:
    """The status of a trustworthiness vector: its worst tier."""
    tiers = ("none", "affirming", "warning", "contraindicated")
    return tiers[max(_tier(value) for value in vector.values())]


def _tier(value: int) -> int:
    for tier, (low, high) in enumerate(((-1, 1), (-32, 31), (-96, 95))):
        if low <= value <= high:
            return tier
    return 3


def _holds(references: Mapping[str, object], name: str) -> bool:
    value = references.get(name)
    return SAMPLE_REFERENCES[name] in (value if isinstance(value, list) else [value])


def _appraisal(appraised: Appraised, references: Mapping[str, object]) -> dict[str, object]:
    known = appraised.tee == "sample"
    launched = known and _holds(references, "launch_digest")
    platform = ("svn", "major_version", "minimum_minor_version")
    genuine = known and all(_holds(references, name) for name in platform)
    vector = _vector(2, 3 if launched else 33, 2 if genuine else 97)
    appraisal: dict[str, object] = {
        "ear.status": status_of(vector),
        "ear.trustworthiness-vector": vector,
        "ear.appraisal-policy-id": "default",
        "ear.veraison.annotated-evidence": _annotated(appraised),
    }
    if appraised.tee not in CLASSES:
        appraisal["ear.trustee.identifiers"] = {"validated": {}}
    return appraisal


def _annotated(appraised: Appraised) -> dict[str, object]:
    annotated: dict[str, object] = {}
    verified = appraised.verified
    if verified.init_data is not None and appraised.init_data is not None:
        annotated["init_data"] = verified.init_data
        annotated["init_data_claims"] = dict(appraised.init_data.claims)
    annotated["report_data"] = verified.report_data
    annotated["runtime_data_claims"] = dict(sorted(appraised.runtime_data.items()))
    annotated[appraised.tee] = dict(verified.claims)
    return annotated


def ear_claims(
    appraised: Iterable[Appraised], issued: int, seconds: int, references: Mapping[str, object]
) -> dict[str, object]:
    """The claims of a token, in the order CoCo AS writes them.

    Args:
        appraised: every evidence that was verified.
        issued: `iat`, seconds since the epoch.
        seconds: from `iat` to `exp`.
        references: registered reference values by name.
    """
    submods: dict[str, object] = {}
    running: Counter[str] = Counter()
    for item in appraised:
        name = CLASSES.get(item.tee, "cpu")
        submods[f"{name}{running[name]}"] = _appraisal(item, references)
        running[name] += 1
    return {
        "eat_profile": "tag:github.com,2024:confidential-containers/Trustee",
        "iat": issued,
        "ear.verifier-id": {
            "developer": "https://confidentialcontainers.org",
            "build": "attestation-service 0.1.0",
        },
        "submods": submods,
        "exp": issued + seconds,
        "iss": "CoCo-Attestation-Service",
    }


def issue_token(claims: Claims, signer: ec.EllipticCurvePrivateKey) -> str:
    """Sign claims with ES256, the signer's JWK in the header."""
    jwk = es256_jwk(signer.public_key())
    return sign_jws({"typ": "JWT", "alg": "ES256", "jwk": jwk}, claims, signer)


def verify_token(
    token: str, trusted: Iterable[PublicKey], now: float, *, trust_header: bool
) -> Claims:
    """The claims of a token whose signature and `exp` are good.

    Args:
        token: compact JWS.
        trusted: the keys that may have signed it.
        now: seconds since the epoch.
        trust_header: take any key in the header, as Trustee's `insecure_header_jwk` does.

    Raises:
        KbsFailure: `TokenVerifierError`.
    """
    try:
        jws = parse_jws(token)
        key = key_from_jwk(jws.header.get("jwk"))
        if not trust_header and key not in tuple(trusted):
            raise JwsError("the signer is not trusted")
        verify_jws(jws, key)
    except JwsError as error:
        raise KbsFailure(Kind.TOKEN_VERIFIER_ERROR, "Token Verifier error") from error
    expiry = jws.claims.get("exp")
    if not isinstance(expiry, int | float) or now > expiry + LEEWAY:
        raise KbsFailure(Kind.TOKEN_VERIFIER_ERROR, "Token Verifier error")
    return jws.claims


def tee_key_of(claims: Claims) -> dict[str, str]:
    """The guest's public key in a token.

    Raises:
        KbsFailure: there is none, or the first hit is no valid key.
    """
    for pointer in KEY_POINTERS:
        value: object = claims
        for step in pointer:
            value = value.get(step) if isinstance(value, Mapping) else None
        if value is not None:
            try:
                return normalise_tee_key(value)
            except EncodingError as error:
                raise KbsFailure(Kind.TOKEN_VERIFIER_ERROR, "Token Verifier error") from error
    raise KbsFailure(Kind.TOKEN_VERIFIER_ERROR, "Token Verifier error")
