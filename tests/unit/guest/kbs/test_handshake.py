"""guest/kbs/handshake.py: what is bound, in which order, and what is sent."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from guest.crypto.digest import HashAlgorithm
from guest.crypto.key_algorithm import TeeKeyAlgorithm
from guest.crypto.keys import TeeKey
from guest.errors import DecodeError
from guest.kbs.handshake import Challenged, Start
from guest.tee import Tee

NONCE = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
AKP_DEVICE = (
    "81a498c61d579f283ff31c69e1f58425c4fc8ad349c26f599fa9158c20956fd2"
    "034e53334f6ca3588591491d0c86de82"
)
AKP_PRIMARY = (
    "170c9ed03996cabc7c08c5589b0a140d2f185196a8d271e9f117673980c9e9c8"
    "f2667c8799d8ccf081f6c9c943f2947e"
)


def _state(jwk: dict[str, str], nonce: str, algorithm: str, tee: Tee = Tee.SAMPLE) -> Challenged:
    return Challenged(
        tee=tee, jwk=jwk, init_data=None, nonce=nonce, algorithm=HashAlgorithm(algorithm)
    )


def _vectors(folder: Path) -> tuple[list[dict[str, Any]], dict[str, dict[str, str]]]:
    digests = json.loads((folder / "kbs/digests.json").read_text())["vectors"]
    keys = json.loads((folder / "kbs/keys.json").read_text())["vectors"]
    return digests, {key["name"]: key["jwk"] for key in keys}


def _akp() -> dict[str, str]:
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

    public = MLKEM768PrivateKey.from_seed_bytes(bytes(range(64))).public_key().public_bytes_raw()
    encoded = base64.urlsafe_b64encode(public).rstrip(b"=").decode()
    return {"kty": "AKP", "alg": "ML-KEM-768+A192KW", "pub": encoded}


@pytest.mark.spec("kbs-protocol", 5)
def test_the_published_digests_come_out_for_all_algorithms_and_kinds_of_key(
    vectors: Path,
) -> None:
    digests, keys = _vectors(vectors)
    assert {vector["algorithm"] for vector in digests} == {"sha256", "sha384", "sha512", "sm3"}
    for vector in digests:
        state = _state(keys[vector["key"]], vector["nonce"], vector["algorithm"])
        if vector["additional"] is None:
            found = state.report_data()
        else:
            found = state.devices_attested(vector["additional"]).report_data()
        assert found.hex() == vector["digest"], vector
    akp = _state(_akp(), NONCE, "sha384")
    assert akp.report_data().hex() == AKP_DEVICE
    assert akp.devices_attested("").report_data().hex() == AKP_PRIMARY


def test_the_device_string_is_bound_and_sent_byte_for_byte() -> None:
    odd = '{ "sampledevice" : {"b":1, "a":"\\u00e4ä"} }'
    devices = _state({"kty": "EC"}, "n", "sha256").devices_attested(odd)
    body = json.loads(devices.primary_attested(b"{}").body())
    assert body["tee-evidence"]["additional_evidence"] == odd
    assert (
        devices.report_data()
        != _state({"kty": "EC"}, "n", "sha256").devices_attested(odd.replace(" ", "")).report_data()
    )


def test_a_nonce_is_text_and_may_be_anything() -> None:
    key = TeeKey.generate(TeeKeyAlgorithm.EC_P256)
    nonce = 'not base64: "\\ ä \u2028 \x01'
    answer = json.dumps({"nonce": nonce, "extra-params": ""}).encode()
    state = Start(tee=Tee.SAMPLE).challenged(answer, key)
    body = state.devices_attested("").primary_attested(b"{}").body()
    assert json.loads(body)["runtime-data"] == {"nonce": nonce, "tee-pubkey": key.jwk()}
    bound = {"nonce": nonce, "tee-pubkey": key.jwk()}
    text = json.dumps(bound, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert state.report_data() == HashAlgorithm.SHA384.of(text.encode()).value


def test_ibm_se_gets_its_nonce_back_with_the_digest() -> None:
    nonce = '{"request_blob":"cg==","measurement_size":64}'
    state = _state({"kty": "EC"}, nonce, "sha512", Tee.SE)
    asked = json.loads(state.devices_attested("").report_data())
    sample = _state({"kty": "EC"}, nonce, "sha512").devices_attested("").report_data()
    assert list(asked) == ["request_blob", "measurement_size", "runtime_data_digest"]
    assert base64.b64decode(asked["runtime_data_digest"]) == sample
    for wrong in ("nonsense", "[]", '{"a":1,"a":2}'):
        with pytest.raises(DecodeError):
            _state({}, wrong, "sha512", Tee.SE).devices_attested("").report_data()


@pytest.mark.parametrize(
    "body", [b"{}", b"", b'{"token":1}', b'{"token":"nodots"}', b'{"token":"a.!.c"}']
)
def test_an_answer_without_a_usable_token_is_refused(body: bytes) -> None:
    attesting = _state({}, "n", "sha384").devices_attested("").primary_attested(b"{}")
    with pytest.raises(DecodeError):
        attesting.token(body)
