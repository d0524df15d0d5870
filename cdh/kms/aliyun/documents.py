"""The credential files of Alibaba Cloud KMS. Sans-I/O.

Source: docs/spec/confidential-data-hub.md 8.2 to 8.4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from cdh.kms.aliyun.openapi import AccessKey
from cdh.kms.members import verify_id
from guest import jsonio, wire
from guest.errors import DecodeError
from guest.secret import Secret

MAX_LENGTH: Final = 256 * 1024
"""Most bytes of one document."""

MAX_DEPTH: Final = 8


class _ClientKeyJson(msgspec.Struct, frozen=True, rename="pascal"):
    key_id: str
    private_key_data: str


class _PasswordJson(msgspec.Struct, frozen=True, rename="pascal"):
    client_key_password: str


class _RoleJson(msgspec.Struct, frozen=True):
    ecs_ram_role_name: str
    region_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientKeyFile:
    """A client key as its file has it.

    Attributes:
        key_id: goes on the wire.
        pkcs12: DER, under a password.
    """

    key_id: str
    pkcs12: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleFile:
    """The role of this machine.

    Attributes:
        role_name: verified.
        region_id: verified.
    """

    role_name: str
    region_id: str


def decode_client_key(data: bytes) -> ClientKeyFile:
    """Read `clientKey_<id>.json`.

    Raises:
        DecodeError: no such document.
    """
    raw = jsonio.decode(data, _ClientKeyJson, max_depth=MAX_DEPTH, max_bytes=MAX_LENGTH)
    pkcs12 = Secret(wire.decode_base64(raw.private_key_data, "PrivateKeyData"))
    return ClientKeyFile(key_id=verify_id(raw.key_id, "KeyId"), pkcs12=pkcs12)


def decode_password(data: bytes) -> Secret:
    """Read `password_<id>.json`: the password as plain text, or in the JSON of the examples.

    White space at the end is none of it. What begins with `{` and is not that JSON is a password.

    Raises:
        DecodeError: it is empty, or not UTF-8.
    """
    text = wire.decode_utf8(data, "password").rstrip()
    if text.startswith("{"):
        try:
            raw = jsonio.decode(
                text.encode("utf-8"), _PasswordJson, max_depth=MAX_DEPTH, max_bytes=MAX_LENGTH
            )
        except DecodeError:
            pass
        else:
            text = raw.client_key_password
    if not text:
        raise DecodeError("password is empty")
    return Secret(text.encode("utf-8"))


def decode_pem(data: bytes) -> str:
    """Read `PrivateKmsCA_<id>.pem`; whether it is a certificate is for TLS to judge.

    Raises:
        DecodeError: not ASCII, or no certificate in it.
    """
    if not data.isascii() or b"-----BEGIN CERTIFICATE-----" not in data:
        raise DecodeError("no PEM certificate")
    return data.decode("ascii")


def decode_sts_token(data: bytes) -> AccessKey:
    """Read `<AccessKeyId>:<AccessKeySecret>:<SecurityToken>`; white space around it is dropped.

    Raises:
        DecodeError: not three parts of printable ASCII.
    """
    parts = data.strip().split(b":")
    if len(parts) != 3:
        raise DecodeError(f"STS token has {len(parts)} parts, expected 3")
    return _access_key(parts, "STS token")


def decode_given_key(data: bytes) -> AccessKey:
    """Read `<AccessKeyId>:<AccessKeySecret>:<SecurityToken>` of a secret's settings.

    Only the first two colons divide.

    Raises:
        DecodeError: not three parts of printable ASCII.
    """
    parts = data.split(b":", 2)
    if len(parts) != 3:
        raise DecodeError(f"sts_token has {len(parts)} parts, expected 3")
    return _access_key(parts, "sts_token")


def decode_role(data: bytes) -> RoleFile:
    """Read `ecsRamRole.json`.

    Raises:
        DecodeError: no such document, or names that are no ids.
    """
    raw = jsonio.decode(data, _RoleJson, max_depth=MAX_DEPTH, max_bytes=MAX_LENGTH)
    return RoleFile(
        role_name=verify_id(raw.ecs_ram_role_name, "ecs_ram_role_name"),
        region_id=verify_id(raw.region_id, "region_id"),
    )


def decode_id_token(data: bytes) -> Secret:
    """Read an identity token; white space around it is dropped.

    Raises:
        DecodeError: empty, or not printable ASCII.
    """
    token = data.strip()
    if not token or not token.isascii() or not token.decode("ascii").isprintable():
        raise DecodeError("identity token is empty or not printable ASCII")
    return Secret(token)


def _access_key(parts: Sequence[bytes], what: str) -> AccessKey:
    for part in parts:
        if not part or not part.isascii() or not part.decode("ascii").isprintable():
            raise DecodeError(f"{what} has a part that is empty or not printable ASCII")
    key_id, secret, token = parts
    return AccessKey(key_id=key_id.decode("ascii"), secret=Secret(secret), token=Secret(token))
