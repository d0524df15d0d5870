"""What secrets and packets say of an eHSM-KMS, and the file of its credentials. Sans-I/O.

Source: docs/spec/confidential-data-hub.md 8.1 and 8.7.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from cdh.kms.members import id_member, text_member, verify_id
from guest import jsonio
from guest.errors import DecodeError
from guest.secret import Secret

MAX_LENGTH: Final = 64 * 1024
"""Most bytes of the credential file."""

MAX_DEPTH: Final = 8

MAX_ENDPOINT_LENGTH: Final = 300
"""Most characters of an endpoint."""

_ENDPOINT: Final = re.compile(
    r"https://(?:[A-Za-z0-9](?:[.-]?[A-Za-z0-9])*|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?"
    r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?\Z"
)


class _CredentialJson(msgspec.Struct, frozen=True, rename="pascal"):
    app_id: str
    api_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EhsmSettings:
    """Which service, as which application.

    Attributes:
        app_id: names the file of the credentials; what goes on the wire stands in it.
        endpoint: an `https` URL without a slash at its end.
    """

    app_id: str
    endpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EhsmCredentials:
    """An application that the service knows.

    Attributes:
        app_id: goes on the wire.
        api_key: signs.
    """

    app_id: str
    api_key: Secret


def parse_settings(settings: Mapping[str, object]) -> EhsmSettings:
    """Read `provider_settings`; unknown members are skipped.

    Raises:
        DecodeError: a member is missing, the id is none, the endpoint no `https` URL.
    """
    return EhsmSettings(
        app_id=id_member(settings, "app_id"),
        endpoint=verify_endpoint(text_member(settings, "endpoint")),
    )


def verify_endpoint(text: str) -> str:
    """An `https` URL of host, port and path, without user, query or fragment.

    Raises:
        DecodeError: anything else.
    """
    if len(text) > MAX_ENDPOINT_LENGTH or not _ENDPOINT.match(text):
        raise DecodeError(f"endpoint {text[:60]!r} is no https URL of host, port and path")
    return text.rstrip("/")


def decode_credentials(data: bytes) -> EhsmCredentials:
    """Read `credential_<app_id>.json`.

    Raises:
        DecodeError: no such document.
    """
    raw = jsonio.decode(data, _CredentialJson, max_depth=MAX_DEPTH, max_bytes=MAX_LENGTH)
    if not raw.api_key:
        raise DecodeError("ApiKey is empty")
    return EhsmCredentials(
        app_id=verify_id(raw.app_id, "AppId"), api_key=Secret(raw.api_key.encode("utf-8"))
    )
