"""What secrets and packets say of AWS, and the file of its credentials. Sans-I/O.

Source: docs/spec/confidential-data-hub.md 8.1 and 8.6.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from cdh.kms.members import text_member, verify_text
from guest import jsonio
from guest.errors import DecodeError
from guest.secret import Secret

MAX_LENGTH: Final = 64 * 1024
"""Most bytes of the credential file."""

MAX_DEPTH: Final = 8

MAX_REGION_LENGTH: Final = 40
"""Most characters of a region."""

MAX_CONTEXT_PAIRS: Final = 64
"""Most pairs of an encryption context; the service takes 8 KiB in all."""

_REGION: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*\Z")


class _CredentialJson(msgspec.Struct, frozen=True):
    access_key_id: str
    secret_access_key: str
    session_token: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsCredentials:
    """An access key.

    Attributes:
        key_id: public.
        secret: signs.
        token: goes along with every request; None for a key without end.
    """

    key_id: str
    secret: Secret
    token: Secret | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretVersion:
    """Which version of a secret; both empty for the current one.

    Attributes:
        version_id: one version.
        stage: a label.
    """

    version_id: str = ""
    stage: str = ""


def parse_region(settings: Mapping[str, object]) -> str:
    """The region of `provider_settings`: part of a host's name. Unknown members are skipped.

    Raises:
        DecodeError: it is missing, or not lower-case words joined by `-`.
    """
    return verify_region(text_member(settings, "region"))


def verify_region(text: str) -> str:
    """Lower-case words joined by `-`: one label of a host's name.

    Raises:
        DecodeError: anything else.
    """
    if len(text) > MAX_REGION_LENGTH or not _REGION.match(text):
        raise DecodeError(f"region {text[:40]!r} is none")
    return text


def parse_context(annotations: Mapping[str, object]) -> Mapping[str, str]:
    """The encryption context that a key was wrapped with; empty where there is none.

    Raises:
        DecodeError: not an object of texts, or one with too many.
    """
    context = annotations.get("encryption_context")
    if context is None:
        return {}
    if not isinstance(context, Mapping) or len(context) > MAX_CONTEXT_PAIRS:
        raise DecodeError(f"encryption_context is no object of at most {MAX_CONTEXT_PAIRS} members")
    if not all(isinstance(part, str) for pair in context.items() for part in pair):
        raise DecodeError("encryption_context has a member that is no string")
    return {str(name): str(value) for name, value in context.items()}


def parse_version(annotations: Mapping[str, object]) -> SecretVersion:
    """Which version a vault secret means; absent members are empty.

    Raises:
        DecodeError: a member is no printable string.
    """
    version_id, stage = (
        verify_text(annotations.get(name, ""), name) for name in ("version_id", "version_stage")
    )
    return SecretVersion(version_id=version_id, stage=stage)


def decode_credentials(data: bytes) -> AwsCredentials:
    """Read `credential.json`; an empty session token is none.

    Raises:
        DecodeError: no such document.
    """
    raw = jsonio.decode(data, _CredentialJson, max_depth=MAX_DEPTH, max_bytes=MAX_LENGTH)
    if re.fullmatch(r"[A-Za-z0-9_]{1,128}", raw.access_key_id) is None:
        raise DecodeError("access_key_id is none")
    token = _secret(raw.session_token, "session_token") if raw.session_token else None
    secret = _secret(raw.secret_access_key, "secret_access_key")
    return AwsCredentials(key_id=raw.access_key_id, secret=secret, token=token)


def _secret(text: str, name: str) -> Secret:
    """What goes into a header, or makes one: ASCII without spaces."""
    if re.fullmatch(r"[!-~]+", text) is None:
        raise DecodeError(f"{name} is empty, or not printable ASCII")
    return Secret(text.encode("ascii"))
