"""P-256 keys for signing: JWK in and out, deterministic signatures."""

import base64
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.crypto.es256 import Es256Key
from guest.crypto.jose import verify_es256
from guest.errors import DecodeError
from guest.secret import Secret
from support.sealed_world import load_vectors

V = load_vectors()
JWK = json.loads(V["signing_jwk"])


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwk(**changes: object) -> Secret:
    members = {k: v for k, v in (JWK | changes).items() if v is not ...}
    return Secret(json.dumps(members).encode())


def test_the_published_signatures_come_out_byte_for_byte() -> None:
    key = Es256Key.from_jwk(jwk())
    for name in ("vault_sealed", "envelope_sealed"):
        message, _, signature = V[name].removeprefix("sealed.").rpartition(".")
        assert b64url(key.sign(message.encode())) == signature


def test_a_new_key_signs_what_the_library_verifies() -> None:
    key = Es256Key.generate()
    signed = f"{b64url(json.dumps({'alg': 'ES256'}).encode())}.{b64url(b'payload')}".encode()
    text = signed + b"." + b64url(key.sign(signed)).encode()
    assert verify_es256(text, key.public_jwk("k")) == b"payload"


def test_a_key_comes_back_from_its_jwk_and_prints_nothing() -> None:
    key = Es256Key.generate()
    again = Es256Key.from_jwk(key.private_jwk("k"))
    assert again.sign(b"m") == key.sign(b"m")
    assert json.loads(key.public_jwk("k")).keys() == JWK.keys() - {"d"}
    assert repr(key) == "<Es256Key>"


@pytest.mark.parametrize(
    "changes",
    [
        {"d": ...},
        {"d": 1},
        {"d": "AA"},
        {"d": b64url(bytes(32))},
        {"d": b64url(b"\xff" * 32)},
        {"d": JWK["d"] + "="},
        {"x": ...},
        {"x": JWK["y"]},
        {"y": JWK["x"]},
        {"crv": "P-384"},
        {"kty": "OKP"},
    ],
)
def test_what_is_no_pair_on_p256_is_refused_without_showing_it(changes: dict[str, object]) -> None:
    with pytest.raises(DecodeError) as caught:
        Es256Key.from_jwk(jwk(**changes))
    assert not [line for line in caught.value.causes() if JWK["d"] in line]


def test_a_public_part_of_another_key_is_refused() -> None:
    other = json.loads(Es256Key.generate().public_jwk("k"))
    with pytest.raises(DecodeError):
        Es256Key.from_jwk(jwk(x=other["x"], y=other["y"]))


@given(st.binary(max_size=200))
def test_any_bytes_give_a_key_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        Es256Key.from_jwk(Secret(data))
