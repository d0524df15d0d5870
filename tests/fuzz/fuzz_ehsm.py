"""Settings, the credential file and answers of an eHSM-KMS."""

from contextlib import suppress
from typing import Final

from cdh.kms.ehsm import protocol
from cdh.kms.ehsm.settings import decode_credentials, parse_settings
from guest.errors import DecodeError
from support.fuzzing import decode_answers, parse_members

STATUSES: Final = (200, 401, 500)

SEEDS = (
    b'{"AppId":"4eb1e0f2","ApiKey":"k"}',
    b'{"app_id":"4eb1e0f2","endpoint":"https://host:9000/a/"}',
    b'{"code":200,"message":"success!","result":{"plaintext":"a2V5"}}',
    b'{"code":200,"message":"success!","result":{"ciphertext":"a2V5"}}',
    b'{"code":401,"message":"sign error","result":{}}',
    b"Y2lwaGVydGV4dA==",
)


def one_input(data: bytes) -> None:
    """Whatever the bytes are: a value, or an error of its taxonomy that is one printable line."""
    with suppress(DecodeError):
        decode_credentials(data)
    with suppress(DecodeError):
        protocol.decrypt_request(data, "k")
    decode_answers((protocol.decode_plaintext, protocol.decode_ciphertext), STATUSES, data)
    parse_members((protocol.string_to_sign, parse_settings), data)
