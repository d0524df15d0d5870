"""Settings, credential files and answers of Alibaba Cloud KMS."""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from cdh.kms.aliyun import documents, instance, openapi, recipient
from cdh.kms.aliyun.settings import parse_iv, parse_settings, parse_version
from guest.errors import DecodeError
from guest.protos import dkms_pb2
from support.fuzzing import decode_answers, parse_members

DOCUMENTS: Final[tuple[Callable[[bytes], object], ...]] = (
    documents.decode_client_key,
    documents.decode_password,
    documents.decode_pem,
    documents.decode_sts_token,
    documents.decode_given_key,
    documents.decode_role,
    documents.decode_id_token,
)
ANSWERS: Final[tuple[Callable[[int, bytes], object], ...]] = (
    instance.decode_plaintext,
    instance.decode_ciphertext,
    instance.decode_secret,
    openapi.decode_secret,
    openapi.decode_assumed_role,
    recipient.decode_challenge,
    recipient.decode_secret,
)
STATUSES: Final = (200, 403, 500)

SEEDS = (
    b'{"KeyId":"KAAP.1","PrivateKeyData":"AAEC"}',
    b'{"ClientKeyPassword":"x"}',
    b"id:secret:CAIS+t/==\n",
    b'{"ecs_ram_role_name":"r","region_id":"cn-beijing"}',
    b'{"client_type":"client_key","client_key_id":"KAAP.1","kms_instance_id":"kst-1"}',
    b'{"client_type":"oidc_ram","id_token":"e.y.J","role_arn":"r","region_id":"r","iv":"AA=="}',
    b'{"SecretData":"x","Code":"c","Message":"server string to sign is:POST"}',
    (
        b'{"Credentials":{"AccessKeyId":"a","AccessKeySecret":"b","SecurityToken":"c",'
        b'"Expiration":"2026-08-20T12:00:00Z"}}'
    ),
    b'{"client_type":"attestation","kms_instance_id":"kst-1","sts_token":"a:b:c","tee":"tdx"}',
    b'{"Nonce":"AAEC","ChallengeToken":"t"}',
    b'{"SecretName":"n","CiphertextForRecipient":"AAEC"}',
    dkms_pb2.DecryptResponse(KeyId="k", Plaintext=b"p", RequestId="r").SerializeToString(),
    dkms_pb2.GetSecretValueResponse(SecretName="n", SecretData="d").SerializeToString(),
    dkms_pb2.Error(StatusCode=403, ErrorCode="c", ErrorMessage="m").SerializeToString(),
)


def one_input(data: bytes) -> None:
    """Whatever the bytes are: a value, or an error of its taxonomy that is one printable line."""
    for decode in DOCUMENTS:
        with suppress(DecodeError):
            decode(data)
    decode_answers(ANSWERS, STATUSES, data)
    parse_members((parse_settings, parse_iv, parse_version), data)
