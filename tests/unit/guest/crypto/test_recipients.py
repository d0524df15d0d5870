"""JWE for public keys; opened again by the code of the guest and by joserfc."""

import base64
import json
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwe
from joserfc.jwk import ECKey, RSAKey

from guest.crypto.recipients import MAX_KEY_LENGTH, RecipientKey, seal_for
from guest.deadline import Deadline
from guest.errors import DecodeError, IntegrityError
from guest.secret import Secret
from image_pull.ocicrypt.keywrap.jwe import unwrap_jwe

PLAIN = b'{"symkey":"..."}'
RSA_KEY = rsa.generate_private_key(65537, 2048)
CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
EC_KEYS = {name: ec.generate_private_key(curve) for name, curve in CURVES.items()}
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
ALL_KEYS: list[PrivateKey] = [RSA_KEY, *EC_KEYS.values()]


def public_pem(key: PrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def private_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


async def unwrapped(packet: bytes, key: PrivateKey) -> bytes:
    return (await unwrap_jwe(packet, [Secret(private_pem(key))], Deadline.after(10))).reveal()


@pytest.mark.parametrize("key", ALL_KEYS, ids=["RSA", *EC_KEYS])
async def test_one_recipient_gets_the_flattened_form_with_everything_protected(
    key: PrivateKey,
) -> None:
    packet = seal_for(Secret(PLAIN), [RecipientKey.decode(public_pem(key))])
    members = json.loads(packet)
    assert list(members) == ["protected", "encrypted_key", "iv", "ciphertext", "tag"]
    header = json.loads(base64.urlsafe_b64decode(members["protected"] + "=="))
    is_rsa = isinstance(key, rsa.RSAPrivateKey)
    assert header["alg"] == ("RSA-OAEP" if is_rsa else "ECDH-ES+A256KW")
    assert header["enc"] == "A256GCM"
    assert ("epk" in header) is not is_rsa
    assert await unwrapped(packet, key) == PLAIN


async def test_several_recipients_get_the_general_form_and_each_can_open_it() -> None:
    keys = ALL_KEYS
    packet = seal_for(Secret(PLAIN), [RecipientKey.decode(public_pem(key)) for key in keys])
    members = json.loads(packet)
    assert list(members) == ["protected", "recipients", "iv", "ciphertext", "tag"]
    protected = base64.urlsafe_b64decode(members["protected"] + "==")
    assert json.loads(protected) == {"enc": "A256GCM"}
    for key in keys:
        assert await unwrapped(packet, key) == PLAIN
    with pytest.raises(IntegrityError):
        await unwrapped(packet, ec.generate_private_key(ec.SECP256R1()))


def test_another_library_opens_it_too() -> None:
    registry = jwe.JWERegistry(algorithms=["ECDH-ES+A256KW", "RSA-OAEP", "A256GCM"])
    cases: tuple[tuple[PrivateKey, type[ECKey] | type[RSAKey]], ...] = (
        (EC_KEYS["P-384"], ECKey),
        (RSA_KEY, RSAKey),
    )
    for key, kind in cases:
        packet = seal_for(Secret(PLAIN), [RecipientKey.decode(public_pem(key))])
        opened = jwe.decrypt_json(
            json.loads(packet), kind.import_key(private_pem(key)), registry=registry
        )
        assert opened.plaintext == PLAIN


async def test_a_jwk_chooses_its_algorithm() -> None:
    jwk = RSAKey.import_key(private_pem(RSA_KEY)).as_dict(private=True)
    for algorithm in ("RSA-OAEP", "RSA-OAEP-256"):
        recipient = RecipientKey.decode(json.dumps(jwk | {"alg": algorithm}).encode())
        assert recipient.algorithm == algorithm
        assert await unwrapped(seal_for(Secret(PLAIN), [recipient]), RSA_KEY) == PLAIN
    key = EC_KEYS["P-256"]
    jwk = ECKey.import_key(private_pem(key)).as_dict(private=True)
    for algorithm in ("ECDH-ES+A128KW", "ECDH-ES+A192KW", "ECDH-ES+A256KW"):
        recipient = RecipientKey.decode(json.dumps(jwk | {"alg": algorithm}).encode())
        assert await unwrapped(seal_for(Secret(PLAIN), [recipient]), key) == PLAIN
    with pytest.raises(DecodeError, match="dir is an unsupported JWE key algorithm"):
        RecipientKey.decode(json.dumps(jwk | {"alg": "dir"}).encode())


def test_der_is_read_like_pem() -> None:
    der = RSA_KEY.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert RecipientKey.decode(der).algorithm == "RSA-OAEP"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"{}",
        b'{"kty":"oct","k":"AAAA"}',
        b'{"kty":"EC","crv":"P-256"}',
        b'{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}',
        b'{"kty":"EC","kty":"EC"}',
        b'{"kty":"RSA","n":"AQAB","e":"AQAB"}',
        b'{"kty":"RSA","n":1,"e":"AQAB"}',
        b"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n",
        public_pem(ed25519.Ed25519PrivateKey.generate()),
        public_pem(rsa.generate_private_key(65537, 1024)),  # too short on purpose
        public_pem(ec.generate_private_key(ec.SECP256K1())),
        private_pem(RSA_KEY),
        b" " * (MAX_KEY_LENGTH + 1),
    ],
)
def test_what_cannot_be_wrapped_for_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        RecipientKey.decode(data)


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: b"{" + tail))
def test_any_bytes_give_a_key_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        RecipientKey.decode(data)
