"""Client keys are opened from PKCS#12, the old ciphers of the vendor included."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

from cdh.kms.aliyun.client_key import open_client_key
from guest.errors import PlatformError
from guest.secret import Secret
from guest.wire import encode_base64
from support.aliyun_world import VECTORS

LEGACY = VECTORS["legacy"]


@pytest.mark.blocks_loop
def test_a_key_under_rc2_and_triple_des_signs_as_openssl_does() -> None:
    key = open_client_key(Secret(LEGACY["document"].encode()), Secret(LEGACY["password"].encode()))
    assert key.key_id == "KAAP.legacy"
    assert encode_base64(key.sign(LEGACY["signed"].encode())) == LEGACY["signature"]


@pytest.mark.spec("confidential-data-hub", 40)
def test_a_password_as_plain_text_and_as_json_opens_the_same_key() -> None:
    given = VECTORS["client_key"]
    plain = given["password"].encode()
    signatures = set()
    for password in (
        plain,
        plain + b" \r\n",
        json.dumps({"ClientKeyPassword": given["password"]}).encode(),
    ):
        key = open_client_key(Secret(given["document"].encode()), Secret(password))
        signatures.add(key.sign(b"x"))
    assert len(signatures) == 1


def test_another_password_and_other_bytes_are_refused_without_being_told() -> None:
    document = LEGACY["document"].encode()
    for data, password in (
        (document, b"canary"),
        (document.replace(b"MII", b"MIA", 1), b"pw"),
        (b'{"KeyId":"k","PrivateKeyData":"Y2FuYXJ5"}', b"pw"),
        (b"canary", b"pw"),
        (document, b""),
    ):
        with pytest.raises(PlatformError, match="client key") as caught:
            open_client_key(Secret(data), Secret(password))
        assert "canary" not in " ".join(caught.value.causes())


def test_a_key_that_is_not_rsa_is_refused() -> None:
    data = pkcs12.serialize_key_and_certificates(
        None, ec.generate_private_key(ec.SECP256R1()), None, None, BestAvailableEncryption(b"pw")
    )
    document = json.dumps({"KeyId": "k", "PrivateKeyData": encode_base64(data)}).encode()
    with pytest.raises(PlatformError, match="no RSA key"):
        open_client_key(Secret(document), Secret(b"pw"))
