"""guest/crypto/keys.py: what the verifier and the other daemon see of a key."""

import base64
import json
import sys
from pathlib import Path

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mlkem, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from guest.crypto.key_algorithm import TeeKeyAlgorithm
from guest.crypto.keys import TeeKey
from guest.errors import ConfigError, DecodeError, UnsupportedError
from guest.secret import Secret

MEMBERS = {
    "EC": ["kty", "crv", "alg", "x", "y"],
    "RSA": ["kty", "alg", "n", "e"],
    "AKP": ["kty", "alg", "pub"],
}


def _keys(vectors: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads((vectors / "kbs/keys.json").read_text())["vectors"]
    return found


def test_published_keys_give_the_published_public_keys(vectors: Path) -> None:
    for vector in _keys(vectors):
        key = TeeKey.from_pem(Secret(str(vector["pem"]).encode()))
        assert key.jwk() == vector["jwk"], vector["name"]
        assert key.algorithm == vector["algorithm"]


def test_a_published_key_is_written_as_published(vectors: Path) -> None:
    for vector in _keys(vectors):
        pem = Secret(str(vector["pem"]).encode())
        assert TeeKey.from_pem(pem).to_pem() == pem, vector["name"]


@pytest.mark.spec("kbs-protocol", 9)
@pytest.mark.parametrize("algorithm", list(TeeKeyAlgorithm))
def test_a_public_key_has_exactly_the_members_of_its_kind_in_order(
    algorithm: TeeKeyAlgorithm,
) -> None:
    key = TeeKey.generate(algorithm)
    jwk = key.jwk()
    assert list(jwk) == MEMBERS[jwk["kty"]]
    assert TeeKey.from_pem(key.to_pem()).jwk() == jwk
    # Scalar 2 gives a P-521 point whose x begins with a zero byte.
    narrow = TeeKey(ec.derive_private_key(2, ec.SECP521R1())).jwk()
    for member in ("x", "y"):
        assert len(base64.urlsafe_b64decode(narrow[member])) == 66
        assert len(narrow[member]) == 88
    assert base64.urlsafe_b64decode(narrow["x"])[0] == 0


def test_the_pem_label_is_pkcs1_for_rsa_and_pkcs8_for_ec() -> None:
    rsa_pem = TeeKey.generate(TeeKeyAlgorithm.RSA).to_pem().reveal()
    ec_pem = TeeKey.generate(TeeKeyAlgorithm.EC_P521).to_pem().reveal()
    assert rsa_pem.startswith(b"-----BEGIN RSA PRIVATE KEY-----\n")
    assert ec_pem.startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert ec_pem.endswith(b"-----END PRIVATE KEY-----\n")
    assert b"\r" not in rsa_pem + ec_pem


def _pem(key: object, form: PrivateFormat) -> Secret:
    return Secret(key.private_bytes(Encoding.PEM, form, NoEncryption()))  # type: ignore[attr-defined]  # any private key


def test_pkcs8_rsa_and_sec1_ec_are_read_too() -> None:
    ec_key, rsa_key = ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)
    assert TeeKey.from_pem(_pem(ec_key, PrivateFormat.TraditionalOpenSSL)).curve == "P-256"
    assert TeeKey.from_pem(_pem(rsa_key, PrivateFormat.PKCS8)).curve is None


def test_keys_of_other_kinds_and_sizes_are_refused() -> None:
    others = (
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 1024),
    )
    for other in others:
        with pytest.raises(DecodeError):
            TeeKey.from_pem(_pem(other, PrivateFormat.PKCS8))


@pytest.mark.parametrize("pem", [b"", b"x", b"-----BEGIN PRIVATE KEY-----\nAA==\n", b"a" * 20_000])
def test_what_is_no_private_key_is_refused(pem: bytes) -> None:
    with pytest.raises(DecodeError):
        TeeKey.from_pem(Secret(pem))


def test_where_pycryptodome_is_missing_no_ml_kem_key_is_made_or_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pem = TeeKey.generate(TeeKeyAlgorithm.ML_KEM_768).to_pem()
    monkeypatch.setitem(sys.modules, "Crypto.Hash", None)
    monkeypatch.delattr("Crypto.Hash.KMAC256", raising=False)
    with pytest.raises(UnsupportedError, match="pycryptodome, which is not installed"):
        TeeKey.generate(TeeKeyAlgorithm.ML_KEM_768)
    with pytest.raises(DecodeError, match="pycryptodome, which is not installed"):
        TeeKey.from_pem(pem)


def test_where_openssl_lacks_ml_kem_no_key_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    class OldOpenssl:
        @staticmethod
        def generate() -> None:
            raise UnsupportedAlgorithm("ML-KEM-768 is not supported by this backend")

    monkeypatch.setattr(mlkem, "MLKEM768PrivateKey", OldOpenssl)
    with pytest.raises(UnsupportedError, match="OpenSSL has no ML-KEM-768"):
        TeeKey.generate(TeeKeyAlgorithm.ML_KEM_768)


def test_a_configured_name_is_matched_exactly() -> None:
    assert TeeKeyAlgorithm.parse("RSA-OAEP-256") is TeeKeyAlgorithm.RSA
    for text in ("rsa-oaep-256", "ECDH-ES+A256KW", ""):
        with pytest.raises(ConfigError, match="expected one of"):
            TeeKeyAlgorithm.parse(text)


def test_a_key_prints_nothing_of_itself() -> None:
    key = TeeKey.generate(TeeKeyAlgorithm.EC_P256)
    assert repr(key) == "<TeeKey ECDH-ES+A256KW-P256>"
