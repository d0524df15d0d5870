"""The KBS's cryptography against the vectors of the specification."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mlkem
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from hypothesis import given
from hypothesis import strategies as st

from guest_simulator.encoding import (
    EncodingError,
    b64_decode,
    b64url_decode,
    b64url_encode,
    canonical_json,
)
from guest_simulator.kbs.admin import AdminDenied, AdminMode, AdminRules
from guest_simulator.kbs.evidence import (
    Appraised,
    EvidenceError,
    InitData,
    parse_init_data,
    report_data,
    runtime_data,
    verify_sample,
)
from guest_simulator.kbs.jwe import JweError, concat_kdf, encrypt_for, ml_kem_kdf
from guest_simulator.kbs.jws import es256_jwk, parse_jws, sign_jws, verify_jws
from guest_simulator.kbs.keccak import sponge256
from guest_simulator.kbs.tee_key import normalise_tee_key
from guest_simulator.kbs.token import (
    SAMPLE_REFERENCES,
    ear_claims,
    issue_token,
    status_of,
    tee_key_of,
    verify_token,
)

Vectors = dict[str, Any]


def ec_key(curve: ec.EllipticCurve, scalar: str) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int(scalar, 16), curve)


def fixed_random(vectors: Vectors) -> Callable[[int], bytes]:
    values = {32: bytes.fromhex(vectors["cek"]), 12: bytes.fromhex(vectors["iv"])}
    return values.__getitem__


def rsa_jwk(vectors: Vectors, algorithm: str) -> dict[str, str]:
    key: Any = serialization.load_pem_private_key(vectors["rsa_pem"].encode(), None)
    n = key.public_key().public_numbers().n
    return {"kty": "RSA", "alg": algorithm, "n": b64url_encode(n.to_bytes(256)), "e": "AQAB"}


def ml_kem_jwk(vectors: Vectors) -> dict[str, str]:
    key = mlkem.MLKEM768PrivateKey.from_seed_bytes(bytes.fromhex(vectors["ml_kem_seed"]))
    public = b64url_encode(key.public_key().public_bytes_raw())
    return {"kty": "AKP", "alg": "ML-KEM-768+A192KW", "pub": public}


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512", "sm3"])
def test_runtime_data_digests_are_the_specifications(kbs_vectors: Vectors, algorithm: str) -> None:
    nonce, jwk = kbs_vectors["nonce"], kbs_vectors["p256_jwk"]
    device = report_data(algorithm, runtime_data(nonce, jwk, None))
    primary = report_data(algorithm, runtime_data(nonce, jwk, ""))
    assert device.hex() == kbs_vectors["digests"]["device"][algorithm]
    assert primary.hex() == kbs_vectors["digests"]["primary"][algorithm]


def test_digests_of_the_other_key_kinds_are_the_specifications(kbs_vectors: Vectors) -> None:
    nonce, digests = kbs_vectors["nonce"], kbs_vectors["digests"]
    keys = {
        "p521": kbs_vectors["p521_jwk"],
        "rsa": rsa_jwk(kbs_vectors, "RSA-OAEP-256"),
        "akp": ml_kem_jwk(kbs_vectors),
    }
    for name, jwk in keys.items():
        device = report_data("sha384", runtime_data(nonce, jwk, None)).hex()
        primary = report_data("sha384", runtime_data(nonce, jwk, "")).hex()
        assert digests[name] == {"device": device, "primary": primary}
    data = runtime_data(nonce, kbs_vectors["p256_jwk"], kbs_vectors["device_string"])
    assert report_data("sha384", data).hex() == digests["primary_with_device"]


def test_the_specifications_sample_evidence_verifies(kbs_vectors: Vectors) -> None:
    expected = bytes.fromhex(kbs_vectors["digests"]["primary"]["sha384"])
    verified = verify_sample(kbs_vectors["sample_evidence"], expected, None)
    assert verified.claims["svn"] == "1"
    assert verified.init_data is None
    for wrong in (expected[:-1] + b"\0", expected + bytes(16), b""):
        with pytest.raises(EvidenceError):
            verify_sample(kbs_vectors["sample_evidence"], wrong, None)


@pytest.mark.parametrize("curve", ["p256", "p521"])
def test_ecdh_answers_are_the_specifications_byte_for_byte(
    kbs_vectors: Vectors, curve: str
) -> None:
    shape = ec.SECP256R1() if curve == "p256" else ec.SECP521R1()
    ephemeral = ec_key(shape, kbs_vectors["ephemeral"][curve])
    body = encrypt_for(
        kbs_vectors[f"{curve}_jwk"],
        kbs_vectors["plaintext"].encode(),
        fixed_random(kbs_vectors),
        ephemeral,
    )
    assert json.loads(body) == kbs_vectors["responses"][curve]


@pytest.mark.parametrize(("name", "algorithm"), [("rsa_oaep", "RSA-OAEP-256"), ("rsa15", "RSA1_5")])
def test_rsa_answers_differ_from_the_specifications_in_the_padding_only(
    kbs_vectors: Vectors, open_answer: Callable[..., bytes], name: str, algorithm: str
) -> None:
    key = serialization.load_pem_private_key(kbs_vectors["rsa_pem"].encode(), None)
    body = encrypt_for(
        rsa_jwk(kbs_vectors, algorithm),
        kbs_vectors["plaintext"].encode(),
        fixed_random(kbs_vectors),
    )
    theirs = kbs_vectors["responses"][name]
    ours = json.loads(body)
    assert {**ours, "encrypted_key": ""} == {**theirs, "encrypted_key": ""}
    for answer in (ours, theirs):
        plaintext = open_answer(key, json.dumps(answer).encode())
        assert plaintext == kbs_vectors["plaintext"].encode()


def test_ml_kem_derivations_are_the_specifications(kbs_vectors: Vectors) -> None:
    assert ml_kem_kdf(bytes(32)).hex() == kbs_vectors["kdf"]["zero_secret"]
    secret, key = kbs_vectors["kdf"]["ml_kem"]
    assert ml_kem_kdf(bytes.fromhex(secret)).hex() == key
    shared, kek = kbs_vectors["kdf"]["p256"]
    assert concat_kdf(bytes.fromhex(shared), "ECDH-ES+A256KW").hex() == kek


def test_ml_kem_answers_open_with_the_private_key(kbs_vectors: Vectors) -> None:
    key = mlkem.MLKEM768PrivateKey.from_seed_bytes(bytes.fromhex(kbs_vectors["ml_kem_seed"]))
    ours = json.loads(
        encrypt_for(ml_kem_jwk(kbs_vectors), b"kbs test secret\n", fixed_random(kbs_vectors))
    )
    for answer in (ours, kbs_vectors["responses"]["ml_kem"]):
        header = json.loads(b64url_decode(answer["protected"]))
        secret = key.decapsulate(b64url_decode(header["ek"]))
        content = aes_key_unwrap(ml_kem_kdf(secret), b64url_decode(answer["encrypted_key"]))
        sealed = b64url_decode(answer["ciphertext"]) + b64url_decode(answer["tag"])
        iv, aad = b64url_decode(answer["iv"]), answer["protected"].encode()
        assert AESGCM(content).decrypt(iv, sealed, aad) == b"kbs test secret\n"


def test_the_sponge_is_shake256_under_shakes_suffix() -> None:
    for length in (0, 1, 135, 136, 137, 300):
        data = bytes(range(256))[: length % 256] * 2
        assert sponge256(data, 0x1F, 64) == hashlib.shake_256(data).digest(64)


@pytest.mark.parametrize(
    "change",
    [{"crv": "P-384"}, {"x": "AA"}, {"x": "*"}, {"alg": "ECDH-ES"}, {"y": "A" * 43}],
)
def test_a_key_that_is_none_gives_no_answer(kbs_vectors: Vectors, change: dict[str, str]) -> None:
    with pytest.raises(JweError):
        encrypt_for({**kbs_vectors["p256_jwk"], **change}, b"", bytes)


def test_the_specifications_admin_token_is_taken(kbs_vectors: Vectors) -> None:
    seed = bytes.fromhex(kbs_vectors["admin_seed"])
    key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    rules = AdminRules(mode=AdminMode.AUTHENTICATED, keys=(key.public_key(),), issuer="issuer")
    header = f"Bearer {kbs_vectors['admin_token']}"
    rules.check(header, "/kbs/v0/resource/a/b/c", 1_800_000_000)
    with pytest.raises(AdminDenied, match="Cannot verify token with any of the issuers"):
        rules.check(header, "/kbs/v0/resource/a/b/c", 4_102_444_861)
    claims = parse_jws(kbs_vectors["admin_token"]).claims
    assert sign_jws({"alg": "EdDSA", "typ": "JWT"}, claims, key) == kbs_vectors["admin_token"]


def test_the_specifications_ear_verifies_and_holds_the_guests_key(kbs_vectors: Vectors) -> None:
    signer = ec_key(ec.SECP256R1(), kbs_vectors["signer_scalar"])
    token = kbs_vectors["ear_token"]
    claims = verify_token(token, (signer.public_key(),), 1_800_000_000, trust_header=False)
    assert tee_key_of(claims) == kbs_vectors["p256_jwk"]
    verify_jws(parse_jws(token), signer.public_key())


def test_our_ear_says_what_the_specifications_does(kbs_vectors: Vectors) -> None:
    signer = ec_key(ec.SECP256R1(), kbs_vectors["signer_scalar"])
    expected = bytes.fromhex(kbs_vectors["digests"]["primary"]["sha384"])
    verified = verify_sample(kbs_vectors["sample_evidence"], expected, None)
    data = runtime_data(kbs_vectors["nonce"], kbs_vectors["p256_jwk"], "")
    appraised = Appraised(tee="sample", verified=verified, runtime_data=data)
    seconds = 4_102_444_800 - 1_700_000_000
    token = issue_token(ear_claims([appraised], 1_700_000_000, seconds, {}), signer)
    ours, theirs = parse_jws(token), parse_jws(kbs_vectors["ear_token"])
    assert list(ours.claims.items()) == list(theirs.claims.items())
    assert json.dumps(ours.header) == json.dumps(theirs.header)
    assert es256_jwk(signer.public_key()) == theirs.header["jwk"]


def test_registered_reference_values_make_sample_evidence_affirming(kbs_vectors: Vectors) -> None:
    expected = bytes.fromhex(kbs_vectors["digests"]["primary"]["sha384"])
    verified = verify_sample(kbs_vectors["sample_evidence"], expected, None)
    appraised = Appraised(tee="sample", verified=verified, runtime_data={})
    claims: Any = ear_claims([appraised], 0, 1, SAMPLE_REFERENCES)
    assert claims["submods"]["cpu0"]["ear.status"] == "affirming"


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (-1, "none"),
        (1, "none"),
        (2, "affirming"),
        (-32, "affirming"),
        (32, "warning"),
        (-96, "warning"),
        (95, "warning"),
        (96, "contraindicated"),
        (-97, "contraindicated"),
    ],
)
def test_a_status_is_the_worst_tier(value: int, status: str) -> None:
    assert status_of({"hardware": value, "configuration": 0}) == status


def test_init_data_is_hashed_as_sent_and_its_tables_become_claims() -> None:
    body = 'version = "0.1.0"\nalgorithm = "sha256"\n[data]\n"aa.toml" = "a = 1"\nx = "y"\n'
    found = parse_init_data({"format": "toml", "body": body})
    assert isinstance(found, InitData)
    assert found.digest == hashlib.sha256(body.encode()).digest()
    assert found.claims == {"aa.toml": {"a": 1}, "x": "y"}


@pytest.mark.parametrize(
    "value",
    [{"format": "json", "body": "{}"}, {"format": "toml", "body": "="}, {"format": "toml"}, "x",
     {"format": "toml", "body": 'version="0.1.0"\nalgorithm="md5"\n[data]\n'},
     {"format": "toml", "body": 'version="0.1.0"\nalgorithm="sha256"\n'}],
)  # fmt: skip
def test_init_data_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(EvidenceError):
        parse_init_data(value)


def test_a_tee_key_loses_members_that_do_not_belong() -> None:
    jwk = {"kty": "RSA", "alg": "RSA-OAEP-256", "n": "AA", "e": "AQAB"}
    assert normalise_tee_key({**jwk, "kid": "1", "use": "enc"}) == jwk
    wrongs: list[object] = [{**jwk, "kty": "oct"}, {"kty": "EC"}, [], {**jwk, "n": 5}]
    for wrong in wrongs:
        with pytest.raises(EncodingError):
            normalise_tee_key(wrong)


@pytest.mark.parametrize("text", ["A", "AA==", "A+", "A/", "AB", "A A", "AAA\n"])
def test_base64url_is_read_strictly(text: str) -> None:
    with pytest.raises(EncodingError):
        b64url_decode(text)


@pytest.mark.parametrize("text", ["A", "AA", "AA=", "A-==", "AB==", "AA==\n", "\u00e9==="])
def test_base64_is_read_strictly(text: str) -> None:
    with pytest.raises(EncodingError):
        b64_decode(text)


@given(st.binary())
def test_base64url_round_trips(data: bytes) -> None:
    assert b64url_decode(b64url_encode(data)) == data


def test_canonical_json_sorts_by_utf16_units() -> None:
    assert canonical_json({"\ufb33": 1, "\U0001f600": [{"b": 1, "a": "/\x7f"}]}) == (
        '{"\U0001f600":[{"a":"/\x7f","b":1}],"\ufb33":1}'.encode()
    )
