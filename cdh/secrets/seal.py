"""What an owner does with sealed secrets: make, look at, verify, and make keys for them.

Source: docs/spec/confidential-data-hub.md 1.5 and 7.
"""

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from cdh.keyprovider.packet import WrapType
from cdh.kms.base import Encrypter
from cdh.secrets.sealed import (
    EnvelopeSecret,
    Payload,
    VaultSecret,
    encode_signed,
    signing_input,
)
from cdh.wrapped import GCM_IV_LENGTH, KEY_LENGTH
from guest.crypto import aead
from guest.crypto.es256 import Es256Key
from guest.deadline import Deadline
from guest.errors import InvalidInputError, PlatformError
from guest.secret import Secret

MAX_KID: Final = 200
"""Most characters of a `kid` that becomes a file name."""


def seal(payload: Payload, kid: str, key: Es256Key) -> bytes:
    """The sealed secret.

    Args:
        payload: pointer or envelope.
        kid: where guests find the public part of `key`: a resource URI or a file name.
        key: signs.
    """
    signed = signing_input(kid, payload.encode())
    return encode_signed(signed, key.sign(signed))


def vault(
    name: str, provider: str, settings: Mapping[str, object], annotations: Mapping[str, object]
) -> VaultSecret:
    """A pointer to what lies with a provider already, or will.

    Raises:
        InvalidInputError: no name or no provider.
    """
    if not name or not provider:
        raise InvalidInputError("a vault secret needs a name and a provider")
    return VaultSecret(
        name=name, provider=provider, provider_settings=settings, annotations=annotations
    )


async def make_envelope(
    plaintext: Secret, key_id: str, provider: str, kms: Encrypter, deadline: Deadline
) -> EnvelopeSecret:
    """Encrypt with a new data key, and that with the service's key.

    Args:
        plaintext: the secret.
        key_id: the service's key.
        provider: the service's name.
        kms: the service.
        deadline: when it must have answered.

    Raises:
        GuestError: as the service says.
    """
    iv = secrets.token_bytes(GCM_IV_LENGTH)
    with Secret(secrets.token_bytes(KEY_LENGTH)) as data_key:
        ciphertext, tag = aead.seal(data_key, iv, plaintext.reveal())
        encrypted_key, annotations = await kms.encrypt(data_key, key_id, deadline)
    return EnvelopeSecret(
        key_id=key_id,
        encrypted_key=encrypted_key,
        encrypted_data=ciphertext + tag,
        wrap_type=WrapType.A256GCM,
        iv=iv,
        provider=provider,
        provider_settings=kms.settings,
        annotations=annotations,
    )


def make_key_files(kid: str, directory: Path) -> tuple[Path, Path]:
    """Make a signing key: `<kid>-private.json` (mode 0600) and `<kid>-public.json`.

    Returns:
        The two paths, the private one first.

    Raises:
        InvalidInputError: a `kid` that is no file name.
        PlatformError: a file of that name is there, or cannot be made; neither is left behind.
    """
    if not kid or "/" in kid or "\0" in kid or len(kid) > MAX_KID:
        raise InvalidInputError(f"kid {kid[:40]!r} is no file name")
    key = Es256Key.generate()
    private = directory / f"{kid}-private.json"
    public = directory / f"{kid}-public.json"
    if public.exists():
        raise PlatformError(f"{public} is there already")
    with key.private_jwk(kid) as jwk:
        write_new(private, jwk)
    try:
        write_new(public, Secret(key.public_jwk(kid)), mode=0o644)
    except BaseException:
        private.unlink()
        raise
    return private, public


def write_new(path: Path, content: Secret, *, mode: int = 0o600) -> None:
    """Write a file that must not be there yet: whole or not at all.

    Raises:
        PlatformError: it is there, or cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, mode)
    except FileExistsError as error:
        raise PlatformError(f"{path} is there already") from error
    except (OSError, ValueError) as error:
        raise PlatformError(f"cannot write {path}") from error
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content.reveal())
    except BaseException as error:
        with suppress(OSError):  # the failure is told, not this
            path.unlink()
        if isinstance(error, OSError):
            raise PlatformError(f"cannot write {path}") from error
        raise
