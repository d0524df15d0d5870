"""guest/crypto/jose.py: answers open for their key only, whole and unchanged."""

import base64
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwe as independent
from joserfc.jwk import ECKey, RSAKey

from guest.crypto import jose
from guest.crypto.key_algorithm import TeeKeyAlgorithm
from guest.crypto.keys import TeeKey
from guest.errors import DecodeError, IntegrityError
from guest.secret import Secret
from guest_simulator.kbs.jwe import encrypt_for

KINDS = ("P-256", "P-521", "RSA-OAEP-256", "RSA1_5", "ML-KEM-768")
PLAINTEXT = b"kbs test secret\n"
FOLDER = Path(__file__).resolve().parents[3] / "vectors"


def _load(name: str) -> dict[str, Any]:
    vectors = json.loads((FOLDER / "kbs" / name).read_text())["vectors"]
    return {vector["name"]: vector for vector in vectors}


KEYS = {
    name: TeeKey.from_pem(Secret(vector["pem"].encode()))
    for name, vector in _load("keys.json").items()
}
RESPONSES = _load("responses.json")


def _parts(kind: str) -> dict[str, str]:
    parts: dict[str, str] = json.loads(RESPONSES[kind]["text"])
    return parts


def _key(kind: str) -> TeeKey:
    return KEYS[RESPONSES[kind]["key"]]


def _open(parts: dict[str, str], key: TeeKey) -> bytes:
    return jose.open_jwe(json.dumps(parts).encode(), key).reveal()


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _seal(
    key: TeeKey, plaintext: bytes, header_text: str | None = None, aad: bytes | None = None
) -> dict[str, str]:
    """A JWE for an EC key, made step by step with nothing of ours."""
    import hashlib

    private = key.private
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    ephemeral = ec.generate_private_key(private.curve)
    point = ephemeral.public_key().public_numbers()
    length = {"secp256r1": 32, "secp521r1": 66}[private.curve.name]
    epk = {
        "crv": key.curve,
        "kty": "EC",
        "x": _b64(point.x.to_bytes(length, "big")),
        "y": _b64(point.y.to_bytes(length, "big")),
    }
    text = header_text or '{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":%s}'
    protected = _b64((text % json.dumps(epk, separators=(",", ":"))).encode())
    info = b"\0\0\0\x0eECDH-ES+A256KW" + bytes(8) + b"\0\0\1\0"
    shared = ephemeral.exchange(ec.ECDH(), private.public_key())
    wrapping_key = hashlib.sha256(b"\0\0\0\1" + shared + info).digest()
    authenticated = protected.encode() + (b"" if aad is None else b"." + _b64(aad).encode())
    sealed = AESGCM(bytes(32)).encrypt(bytes(12), plaintext, authenticated)
    parts = {
        "protected": protected,
        "encrypted_key": _b64(aes_key_wrap(wrapping_key, bytes(32))),
        "iv": _b64(bytes(12)),
        "ciphertext": _b64(sealed[:-16]),
        "tag": _b64(sealed[-16:]),
    }
    return parts if aad is None else {**parts, "aad": _b64(aad)}


@pytest.mark.spec("kbs-protocol", 14)
@pytest.mark.parametrize("kind", KINDS)
def test_a_published_answer_opens_with_its_key(kind: str) -> None:
    assert jose.open_jwe(RESPONSES[kind]["text"].encode(), _key(kind)).reveal() == PLAINTEXT


@pytest.mark.spec("kbs-protocol", 15)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("member", ["protected", "iv", "ciphertext", "tag", "encrypted_key"])
def test_a_flipped_bit_anywhere_gives_an_error_never_bytes(kind: str, member: str) -> None:
    value = _unb64(_parts(kind)[member])
    for bit in range(0, 8 * len(value), max(1, len(value) // 8)):
        flipped = bytearray(value)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((DecodeError, IntegrityError)):
            _open(_parts(kind) | {member: _b64(bytes(flipped))}, _key(kind))


def _header(kind: str, **changes: object) -> str:
    header = json.loads(_unb64(_parts(kind)["protected"]))
    return _b64(json.dumps(header | changes, separators=(",", ":")).encode())


@pytest.mark.spec("kbs-protocol", 16)
@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("P-256", {"protected": _header("P-256", enc="A128GCM")}),
        ("P-256", {"protected": _header("P-256", enc="A256CBC-HS512")}),
        ("P-256", {"protected": _header("P-256", alg="dir")}),
        ("P-256", {"protected": _header("P-256", alg="ECDH-ES")}),
        ("P-256", {"protected": _header("P-256", alg="RSA-OAEP-256")}),
        ("P-256", {"protected": _header("P-256", alg=None)}),
        ("P-256", {"protected": _parts("P-521")["protected"]}),
        ("P-521", {"protected": _parts("P-256")["protected"]}),
        ("P-256", {"protected": _parts("RSA1_5")["protected"]}),
        ("P-256", {"protected": _header("P-256", epk=None)}),
        ("RSA-OAEP-256", {"protected": _parts("P-256")["protected"]}),
        ("RSA-OAEP-256", {"protected": _header("RSA-OAEP-256", alg="RSA-OAEP")}),
        ("ML-KEM-768", {"protected": _parts("P-256")["protected"]}),
        ("ML-KEM-768", {"protected": _header("ML-KEM-768", alg="ML-KEM-768")}),
        ("ML-KEM-768", {"protected": _header("ML-KEM-768", ek=None)}),
        ("ML-KEM-768", {"protected": _header("ML-KEM-768", ek=_b64(bytes(1087)))}),
        ("ML-KEM-768", {"protected": _header("ML-KEM-768", ek=_b64(bytes(1088)) + "=")}),
        ("ML-KEM-768", {"encrypted_key": _b64(bytes(32))}),
        ("P-256", {"protected": _parts("ML-KEM-768")["protected"]}),
        ("P-256", {"encrypted_key": ""}),
        ("P-256", {"encrypted_key": _b64(bytes(7))}),
        ("P-256", {"encrypted_key": _b64(bytes(24))}),
        ("P-256", {"encrypted_key": _parts("P-256")["encrypted_key"][:-2]}),
        ("RSA-OAEP-256", {"encrypted_key": _b64(bytes(255))}),
        ("P-256", {"iv": _b64(bytes(16))}),
        ("P-256", {"tag": _b64(bytes(12))}),
        ("P-256", {"tag": _parts("P-256")["tag"] + "=="}),
        ("P-256", {"ciphertext": _parts("P-256")["ciphertext"] + "="}),
        ("P-256", {"protected": _header("P-256", crit=["exp"])}),
        ("P-256", {"protected": _header("P-256", zip="DEF")}),
        ("P-256", {"protected": _b64(b"[]")}),
        ("P-256", {"protected": "A" * 40_000}),
    ],
)
def test_a_wrong_form_fails_cleanly(kind: str, change: dict[str, str]) -> None:
    with pytest.raises(DecodeError):
        _open(_parts(kind) | change, _key(kind))


def test_an_ephemeral_key_off_the_curve_or_of_another_length_is_refused() -> None:
    zeros = {"kty": "EC", "crv": "P-256", "x": _b64(bytes(32)), "y": _b64(bytes(32))}
    short = {"kty": "EC", "crv": "P-256", "x": _b64(bytes(31)), "y": _b64(bytes(32))}
    for epk in (zeros, short, {**zeros, "kty": "OKP"}):
        with pytest.raises(DecodeError):
            _open(_parts("P-256") | {"protected": _header("P-256", epk=epk)}, _key("P-256"))


@pytest.mark.spec("kbs-protocol", 17)
@pytest.mark.parametrize(
    "header",
    [
        '{"epk":%s,"enc":"A256GCM","alg":"ECDH-ES+A256KW"}',
        '{ "alg" : "ECDH-ES+A256KW",\n "enc":"A256GCM", "epk": %s }',
        '{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":%s,"kid":"x","cty":{"a":[1]}}',
    ],
)
def test_a_header_in_another_layout_still_opens(header: str) -> None:
    for name in ("P-256", "P-521"):
        assert _open(_seal(KEYS[name], b"secret", header), KEYS[name]) == b"secret"


@pytest.mark.spec("kbs-protocol", 18)
def test_nothing_and_a_mebibyte_open() -> None:
    empty = _seal(KEYS["P-256"], b"")
    assert empty["ciphertext"] == ""
    assert _open(empty, KEYS["P-256"]) == b""
    large = bytes(range(256)) * 4096
    assert _open(_seal(KEYS["P-521"], large), KEYS["P-521"]) == large


def test_a_present_aad_member_is_authenticated_as_the_rfc_says() -> None:
    parts = _seal(KEYS["P-256"], b"secret", aad=b"more")
    assert _open(parts, KEYS["P-256"]) == b"secret"
    with pytest.raises(IntegrityError):
        _open({name: value for name, value in parts.items() if name != "aad"}, KEYS["P-256"])
    with pytest.raises(IntegrityError):
        _open(_parts("P-256") | {"aad": _b64(b"more")}, KEYS["P-256"])


@pytest.mark.parametrize("algorithm", [a for a in TeeKeyAlgorithm if "ML-KEM" not in a])
def test_what_an_independent_library_seals_opens(algorithm: TeeKeyAlgorithm) -> None:
    key = TeeKey.generate(algorithm)
    kind = RSAKey if algorithm is TeeKeyAlgorithm.RSA else ECKey
    public = kind.import_key(key.private.public_key())  # type: ignore[arg-type]  # fits its kind
    name = key.jwk()["alg"]
    header = {"alg": name, "enc": "A256GCM"}
    obj = independent.FlattenedJSONEncryption(header, b"from elsewhere")
    obj.add_recipient({}, public)
    sealed = independent.encrypt_json(obj, None, algorithms=[name, "A256GCM"])
    sealed.pop("header", None)
    if "epk" in json.loads(_unb64(sealed["protected"])) or name == "RSA-OAEP-256":
        assert jose.open_jwe(json.dumps(sealed).encode(), key).reveal() == b"from elsewhere"
        return
    compact = independent.encrypt_compact(header, b"from elsewhere", public, [name, "A256GCM"])
    names = ("protected", "encrypted_key", "iv", "ciphertext", "tag")
    parts = dict(zip(names, compact.split("."), strict=True))
    assert _open(parts, key) == b"from elsewhere"


def test_an_ml_kem_answer_of_the_simulated_kbs_opens() -> None:
    """The KBS has a KMAC256 of its own."""
    key = TeeKey.generate(TeeKeyAlgorithm.ML_KEM_768)
    for plaintext in (b"", b"from elsewhere", bytes(1 << 20)):
        assert jose.open_jwe(encrypt_for(key.jwk(), plaintext, os.urandom), key).reveal() == (
            plaintext
        )


def test_an_answer_for_another_key_of_the_same_kind_is_refused() -> None:
    with pytest.raises(IntegrityError, match="not made for this key"):
        _open(_parts("ML-KEM-768"), TeeKey.generate(TeeKeyAlgorithm.ML_KEM_768))
    with pytest.raises(IntegrityError, match="not made for this key"):
        _open(_parts("P-256"), KEYS["P-256 scalar 1"])
    with pytest.raises(IntegrityError, match="not made for this key"):
        _open(_parts("RSA1_5"), TeeKey.generate(TeeKeyAlgorithm.RSA))


@given(st.binary(max_size=80) | st.sampled_from(KINDS).map(lambda k: RESPONSES[k]["text"].encode()))
def test_any_bytes_give_a_secret_or_an_error_of_ours(data: bytes) -> None:
    with suppress(DecodeError, IntegrityError):
        assert jose.open_jwe(data, KEYS["P-256"]).reveal() == PLAINTEXT


def test_a_registration_jwt_is_the_published_one() -> None:
    page = FOLDER.parent.parent / "docs/spec/ocicrypt.md"
    body = "MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
    pem = f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n"
    key = jose.SigningKey.from_pem(Secret(pem.encode()))
    claims: dict[str, object] = {"iat": 1700000000, "exp": 1700007200, "nbf": 1700000000}
    assert f"`{key.sign_jwt(claims).reveal().decode()}`" in page.read_text()


@pytest.mark.parametrize("name", ["P-256", "RSA"])
def test_a_signing_key_that_is_not_ed25519_is_refused(name: str) -> None:
    with pytest.raises(DecodeError):
        jose.SigningKey.from_pem(KEYS[name].to_pem())
    with pytest.raises(DecodeError):
        jose.SigningKey.from_pem(Secret(b"nonsense"))


JWK = (
    b'{"kty":"EC","crv":"P-256","alg":"ES256","use":"sig","kid":"sealed-secret-test",'
    b'"d":"9m9xZgnlIzsBkVN_stUjq3909frK7wvZndqMyN1Rd4c",'
    b'"x":"hoivzjS0iVMIM4D0N04E9MHrWIQyo9sI4xpu5oW5sB0",'
    b'"y":"jJHkBwmsY4uFWyNPcGRULAz1jPNIQJrfNx1-xaSTIl8"}'
)


def _sealed() -> bytes:
    page = (FOLDER.parent.parent / "docs/spec/confidential-data-hub.md").read_text()
    start = page.index("sealed.eyJiNjQiOnRydWUsImFsZyI6IkVTMjU2Iiwia2lkIjoia2JzOi8vL2RlZmF1bHQv")
    return page[start + 7 : page.index("\n", start)].encode()


def test_the_published_sealed_secret_verifies() -> None:
    assert b'"name":"kbs:///default/sealed-secret/test"' in jose.verify_es256(_sealed(), JWK)


def test_a_changed_signature_or_payload_is_refused() -> None:
    header, payload, signature = _sealed().split(b".")
    flipped = payload[:-1] + (b"A" if payload[-1:] != b"A" else b"E")
    for text in (
        b".".join([header, payload, signature[:-2] + b"AA"]),
        b".".join([header, b"e30", signature]),
        b".".join([header, flipped, signature]),
    ):
        with pytest.raises((IntegrityError, DecodeError)):
            jose.verify_es256(text, JWK)


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "HS256"},
        {"alg": "ES384"},
        {"alg": "ES256", "crit": ["exp"]},
        {"alg": "ES256", "b64": False},
        {},
    ],
)
def test_a_header_that_is_not_plain_es256_is_refused(header: dict[str, object]) -> None:
    _, payload, signature = _sealed().split(b".")
    text = b".".join([_b64(json.dumps(header).encode()).encode(), payload, signature])
    with pytest.raises(DecodeError):
        jose.verify_es256(text, JWK)


@pytest.mark.parametrize("jwk", [b"{}", b"[]", b'{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}'])
def test_what_is_no_p256_key_is_refused(jwk: bytes) -> None:
    with pytest.raises(DecodeError):
        jose.verify_es256(_sealed(), jwk)
