"""JWE packets of skopeo's and of joserfc's making."""

import base64
import json
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwe
from joserfc.jwk import ECKey, RSAKey

from guest.errors import DecodeError, GuestError, IntegrityError
from guest.secret import Secret
from image_pull.ocicrypt.keywrap.jwe import open_packet

TEXT = b'{"symkey":"x"}'
CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
EC_ALGORITHMS = ("ECDH-ES+A128KW", "ECDH-ES+A192KW", "ECDH-ES+A256KW")
CONTENT = (
    "A128GCM",
    "A192GCM",
    "A256GCM",
    "A128CBC-HS256",
    "A192CBC-HS384",
    "A256CBC-HS512",
)
KEYS = {name: ec.generate_private_key(curve) for name, curve in CURVES.items()}
RSA = rsa.generate_private_key(65537, 2048)
ALLOWED = [*EC_ALGORITHMS, "RSA-OAEP", "RSA-OAEP-256", *CONTENT]

Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def pem(key: Private, form: PrivateFormat = PrivateFormat.PKCS8) -> Secret:
    return Secret(key.private_bytes(Encoding.PEM, form, NoEncryption()))


def jose_key(key: Private) -> Any:
    kind = RSAKey if isinstance(key, rsa.RSAPrivateKey) else ECKey
    return kind.import_key(pem(key).reveal().decode())


def sealed(algorithm: str, encryption: str, *keys: Private) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if len(keys) == 1:
            flat = jwe.FlattenedJSONEncryption({"alg": algorithm, "enc": encryption}, TEXT)
            flat.add_recipient({}, jose_key(keys[0]))
            return dict(jwe.encrypt_json(flat, None, algorithms=ALLOWED))
        general = jwe.GeneralJSONEncryption({"enc": encryption}, TEXT)
        for key in keys:
            general.add_recipient({"alg": algorithm}, jose_key(key))
        return dict(jwe.encrypt_json(general, None, algorithms=ALLOWED))


def opened(document: dict[str, Any], *keys: Secret) -> Secret:
    return open_packet(json.dumps(document).encode(), keys)


@pytest.mark.parametrize("encryption", CONTENT)
@pytest.mark.parametrize("algorithm", EC_ALGORITHMS)
@pytest.mark.parametrize("curve", CURVES)
def test_every_curve_and_algorithm_that_joserfc_writes_opens(
    curve: str, algorithm: str, encryption: str
) -> None:
    assert opened(sealed(algorithm, encryption, KEYS[curve]), pem(KEYS[curve])) == Secret(TEXT)


@pytest.mark.parametrize("encryption", CONTENT)
@pytest.mark.parametrize("algorithm", ["RSA-OAEP", "RSA-OAEP-256"])
def test_rsa_opens_what_joserfc_writes(algorithm: str, encryption: str) -> None:
    assert opened(sealed(algorithm, encryption, RSA), pem(RSA)) == Secret(TEXT)


def test_the_compact_form_opens() -> None:
    header = {"alg": "ECDH-ES+A256KW", "enc": "A256GCM"}
    text = jwe.encrypt_compact(header, TEXT, jose_key(KEYS["P-256"]), algorithms=ALLOWED)
    assert open_packet(text.encode(), [pem(KEYS["P-256"])]) == Secret(TEXT)


@pytest.mark.spec("ocicrypt", 7)
def test_skopeos_packet_and_the_general_form_with_a_stray_key_open(vectors: Path) -> None:
    rows = json.loads((vectors / "ocicrypt" / "layers.json").read_text())["vectors"]
    row = next(row for row in rows if row["name"] == "jwe")
    real = open_packet(row["packet"].encode(), [Secret(row["key"].encode())])
    assert real == Secret(row["private"].encode())
    general = sealed("ECDH-ES+A256KW", "A256GCM", KEYS["P-256"], KEYS["P-384"])
    stray = general | {"encrypted_key": general["recipients"][0]["encrypted_key"]}
    for document in (general, stray):
        for curve in ("P-256", "P-384"):
            assert opened(document, pem(KEYS["P-521"]), pem(KEYS[curve])) == Secret(TEXT)


def test_keys_are_read_as_der_pem_and_jwk() -> None:
    for key in (KEYS["P-256"], RSA):
        algorithm = "RSA-OAEP" if key is RSA else "ECDH-ES+A256KW"
        document = sealed(algorithm, "A256GCM", key)
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        old = pem(key, PrivateFormat.TraditionalOpenSSL)
        jwk = json.dumps(jose_key(key).as_dict(private=True)).encode()
        for form in (Secret(der), old, Secret(jwk)):
            assert opened(document, form) == Secret(TEXT)


def test_a_key_that_does_not_fit_and_a_change_are_refused() -> None:
    document = sealed("ECDH-ES+A256KW", "A256GCM", KEYS["P-256"])
    text = "JWE: No suitable private key found for decryption"
    other = ec.generate_private_key(ec.SECP256R1())
    for key in (pem(other), pem(RSA), pem(KEYS["P-384"]), Secret(b"no key")):
        with pytest.raises(IntegrityError, match=text):
            opened(document, key)
    for name in ("ciphertext", "tag", "iv", "encrypted_key"):
        raw = bytearray(base64.urlsafe_b64decode(document[name] + "=="))
        raw[0] ^= 1
        changed = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
        with pytest.raises(IntegrityError, match=text):
            opened(document | {name: changed}, pem(KEYS["P-256"]))
    with pytest.raises(IntegrityError, match=text):
        opened(document | {"aad": "AAAA"}, pem(KEYS["P-256"]))


def test_a_cbc_packet_that_was_changed_is_refused() -> None:
    document = sealed("ECDH-ES+A256KW", "A256CBC-HS512", KEYS["P-256"])
    with pytest.raises(IntegrityError):
        opened(document | {"tag": "A" * 43}, pem(KEYS["P-256"]))


def test_without_keys_the_text_says_so() -> None:
    with pytest.raises(DecodeError, match="No private keys found for JWE decryption"):
        open_packet(b"{}", [])


@pytest.mark.parametrize(
    "header", [{"enc": "A256GCM", "crit": ["x"]}, {"zip": "DEF", "enc": "A256GCM"}, {}]
)
def test_a_header_that_is_not_understood_is_refused(header: dict[str, object]) -> None:
    document = sealed("ECDH-ES+A256KW", "A256GCM", KEYS["P-256"])
    text = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    with pytest.raises(DecodeError):
        opened(document | {"protected": text}, pem(KEYS["P-256"]))


@given(st.binary(max_size=400))
def test_any_bytes_give_an_error_of_ours(data: bytes) -> None:
    with suppress(GuestError):
        open_packet(data, [pem(KEYS["P-256"])])
