"""Settings, the credential file and answers of AWS."""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from cdh.kms.aws import api
from cdh.kms.aws.settings import decode_credentials, parse_context, parse_region, parse_version
from guest.errors import DecodeError
from support.fuzzing import decode_answers, parse_members

ANSWERS: Final[tuple[Callable[[int, bytes, str], object], ...]] = (
    api.decode_plaintext,
    api.decode_ciphertext,
    api.decode_secret,
    api.decode_stored,
)
STATUSES: Final = (200, 400, 500)

SEEDS = (
    b'{"access_key_id":"AKID","secret_access_key":"s","session_token":null}',
    b'{"region":"us-east-1","encryption_context":{"a":"b"},"version_id":"","version_stage":"s"}',
    b'{"KeyId":"k","Plaintext":"a2V5","CiphertextBlob":"AA=="}',
    b'{"Name":"n","SecretString":"x"}',
    b'{"Name":"n","SecretBinary":"AAE="}',
    b'{"ARN":"a","Name":"n","VersionId":"v"}',
    b'{"__type":"com.amazonaws#NotFoundException","message":"m","Message":"M"}',
)


def one_input(data: bytes) -> None:
    """Whatever the bytes are: a value, or an error of its taxonomy that is one printable line."""
    with suppress(DecodeError):
        decode_credentials(data)
    decode_answers(ANSWERS, STATUSES, data, data.decode("latin-1"))
    parse_members((parse_region, parse_context, parse_version), data)
