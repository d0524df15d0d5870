"""Keys of image signers, made and used by openssl."""

import base64
import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import DecodeError, IntegrityError
from image_pull.signature.public_key import SignerKey
from support.signing import OpensslKey, run

EC = ("-algorithm", "EC", "-pkeyopt")
RSA = ("-algorithm", "RSA", "-pkeyopt")
KINDS = {
    "P-256": ((*EC, "ec_paramgen_curve:P-256"), "sha256"),
    "P-384": ((*EC, "ec_paramgen_curve:P-384"), "sha384"),
    "RSA": ((*RSA, "rsa_keygen_bits:2048"), "sha256"),
}


def test_the_specifications_signature_is_good_for_its_payload_alone(vectors: Path) -> None:
    vector = json.loads((vectors / "image_pull" / "signatures.json").read_text())["cosign"]
    key = SignerKey.from_policy(vector["public_key"])
    signature, payload = base64.b64decode(vector["signature"]), vector["payload"].encode()
    key.verify(signature, payload)
    for position in (0, 100, len(payload) - 1):
        flipped = bytearray(payload)
        flipped[position] ^= 1
        with pytest.raises(IntegrityError):
            key.verify(signature, bytes(flipped))
    for damaged in (b"", signature[:-1], signature + b"\0", bytes(64)):
        with pytest.raises(IntegrityError):
            key.verify(damaged, payload)


@pytest.mark.openssl
@pytest.mark.parametrize("name", KINDS)
def test_a_signature_by_openssl_is_good(name: str, tmp_path: Path) -> None:
    options, digest = KINDS[name]
    made = OpensslKey.make(tmp_path / "key", *options)
    key = SignerKey.decode(made.public.encode())
    key.verify(made.sign(b"text", digest), b"text")
    with pytest.raises(IntegrityError):
        key.verify(made.sign(b"text", "sha512"), b"text")
    with pytest.raises(IntegrityError):
        key.verify(made.sign(b"other", digest), b"text")


@pytest.mark.openssl
def test_an_ed25519_signature_by_openssl_is_good(tmp_path: Path) -> None:
    made = OpensslKey.make(tmp_path / "key", "-algorithm", "ed25519")
    text = tmp_path / "text"
    text.write_bytes(b"text")
    sign = ("openssl", "pkeyutl", "-sign", "-rawin", "-inkey", str(made.path), "-in", str(text))
    signature = run(*sign)
    SignerKey.decode(made.public.encode()).verify(signature, b"text")
    with pytest.raises(IntegrityError):
        SignerKey.decode(made.public.encode()).verify(signature, b"Text")


@pytest.mark.openssl
def test_key_data_is_pem_or_base64_of_it(tmp_path: Path) -> None:
    pem = OpensslKey.make(tmp_path / "key").public
    wrapped = base64.encodebytes(pem.encode()).decode()
    for text in (pem, "\n" + pem, base64.b64encode(pem.encode()).decode(), wrapped):
        assert SignerKey.from_policy(text) == SignerKey.decode(pem.encode())
    for text in ("", "x", pem + pem, pem.replace("BEGIN PUBLIC", "BEGIN RSA PUBLIC"), pem + "é"):
        with pytest.raises(DecodeError):
            SignerKey.from_policy(text)


@pytest.mark.openssl
@pytest.mark.parametrize(
    "options",
    [
        (*EC, "ec_paramgen_curve:P-521"),
        (*EC, "ec_paramgen_curve:secp256k1"),
        (*RSA, "rsa_keygen_bits:1024"),
        ("-algorithm", "ed448"),
        ("-algorithm", "x25519"),
    ],
)
def test_a_key_of_another_kind_is_refused(options: tuple[str, ...], tmp_path: Path) -> None:
    made = OpensslKey.make(tmp_path / "key", *options)
    with pytest.raises(DecodeError):
        SignerKey.decode(made.public.encode())
    with pytest.raises(DecodeError):
        SignerKey.decode(made.path.read_bytes())


@given(st.text(max_size=60))
def test_any_text_is_a_key_or_a_decode_error(text: str) -> None:
    with suppress(DecodeError):
        SignerKey.from_policy(text)
