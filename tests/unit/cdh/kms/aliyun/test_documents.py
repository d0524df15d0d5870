"""The credential files of Alibaba Cloud KMS."""

import json
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdh.kms.aliyun import documents
from guest.errors import DecodeError
from support.aliyun_world import KEY_ID, VECTORS

DOCUMENT = VECTORS["client_key"]["document"].encode()
ROLE = b'{"ecs_ram_role_name":"r","region_id":"cn-beijing"}'
DECODERS: tuple[Callable[[bytes], object], ...] = (
    documents.decode_client_key,
    documents.decode_password,
    documents.decode_pem,
    documents.decode_sts_token,
    documents.decode_role,
    documents.decode_id_token,
)


def test_a_client_key_file_has_an_id_and_pkcs12() -> None:
    file = documents.decode_client_key(DOCUMENT)
    assert file.key_id == KEY_ID
    assert file.pkcs12.reveal()[:2] == b"\x30\x82"
    for wrong in (
        b"{}",
        DOCUMENT.replace(b"KAAP.", b"../"),
        DOCUMENT.replace(b"==", b"="),
        DOCUMENT[:-1] + b',"KeyId":"other"}',
    ):
        with pytest.raises(DecodeError):
            documents.decode_client_key(wrong)


@pytest.mark.parametrize(
    ("data", "password"),
    [
        (b"plain", b"plain"),
        (b"plain \r\n\t\n", b"plain"),
        (b" lead", b" lead"),
        ('{"ClientKeyPassword":"pässwörd"}\n'.encode(), "pässwörd".encode()),
        (b'{"ClientKeyPassword":"with space "}', b"with space "),
        (b"{curly", b"{curly"),
        (b'{"Other":"x"}', b'{"Other":"x"}'),
    ],
)
def test_a_password_is_plain_text_or_the_json_of_the_examples(data: bytes, password: bytes) -> None:
    assert documents.decode_password(data).reveal() == password


def test_an_empty_password_is_none() -> None:
    for wrong in (b"", b" \n", b'{"ClientKeyPassword":""}', b"\xff"):
        with pytest.raises(DecodeError):
            documents.decode_password(wrong)


def test_an_sts_token_has_three_parts() -> None:
    key = documents.decode_sts_token(b" id:secret:CAIS+t/==\r\n")
    assert (key.key_id, key.secret.reveal(), key.token.reveal()) == (
        "id",
        b"secret",
        b"CAIS+t/==",
    )
    for wrong in (b"", b"a:b", b"a:b:c:d", b"a::c", b":b:c", b"a:b:c\x00", b"a:b:\xc3\xa9"):
        with pytest.raises(DecodeError):
            documents.decode_sts_token(wrong)


def test_a_role_file_names_role_and_region() -> None:
    role = documents.decode_role(ROLE)
    assert (role.role_name, role.region_id) == ("r", "cn-beijing")
    for wrong in (ROLE.replace(b'"r"', b'"../r"'), ROLE.replace(b"cn-beijing", b"x/y"), b"[]"):
        with pytest.raises(DecodeError):
            documents.decode_role(wrong)


def test_a_ca_is_pem_and_an_identity_token_is_printable() -> None:
    assert documents.decode_pem(b"-----BEGIN CERTIFICATE-----\n").startswith("-----BEGIN")
    for wrong in (b"", b"\x30\x82", "é-----BEGIN CERTIFICATE-----".encode()):
        with pytest.raises(DecodeError):
            documents.decode_pem(wrong)
    assert documents.decode_id_token(b"e.y.J\n").reveal() == b"e.y.J"
    for wrong in (b"", b"\n", b"a\x00b", b"\xff"):
        with pytest.raises(DecodeError):
            documents.decode_id_token(wrong)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_document_or_a_decode_error(data: bytes) -> None:
    for decode in DECODERS:
        with suppress(DecodeError):
            assert decode(data)


def test_json_cut_anywhere_is_refused() -> None:
    for cut in range(len(ROLE)):
        with pytest.raises(DecodeError):
            documents.decode_role(ROLE[:cut])
    for cut in range(0, len(DOCUMENT), 7):
        with pytest.raises(DecodeError):
            documents.decode_client_key(DOCUMENT[:cut])


def test_no_error_repeats_a_secret() -> None:
    broken = json.dumps({"KeyId": "k", "PrivateKeyData": "canary!"}).encode()
    for decode, data in (
        (documents.decode_client_key, broken),
        (documents.decode_sts_token, b"canary:canary"),
        (documents.decode_id_token, b"canary\xff"),
    ):
        with pytest.raises(DecodeError) as caught:
            decode(data)
        assert "canary" not in " ".join(caught.value.causes())
