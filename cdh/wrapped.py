"""Data that was wrapped with a key of 32 bytes: layer keys and envelope secrets.

Source: docs/spec/confidential-data-hub.md 9.3.
"""

from typing import Final, assert_never

from cdh.keyprovider.packet import WrapType
from guest.errors import InvalidInputError
from guest.secret import Secret

KEY_LENGTH: Final = 32
"""Bytes of a wrapping key: all of it, nothing else."""

GCM_IV_LENGTH: Final = 12
GCM_TAG_LENGTH: Final = 16
CTR_IV_LENGTH: Final = 16


def check_wrapping(wrap_type: str, iv: bytes, wrapped: bytes) -> WrapType:
    """Judge what can be judged before a key is fetched.

    Raises:
        InvalidInputError: an unknown cipher, an IV or ciphertext of an impossible length.
    """
    try:
        kind = WrapType(wrap_type)
    except ValueError as error:
        raise InvalidInputError(f"Unknown WrapType: {wrap_type[:40]}") from error
    expected = GCM_IV_LENGTH if kind is WrapType.A256GCM else CTR_IV_LENGTH
    if len(iv) != expected:
        raise InvalidInputError(f"{kind} needs an IV of {expected} bytes, not {len(iv)}")
    if kind is WrapType.A256GCM and len(wrapped) < GCM_TAG_LENGTH:
        raise InvalidInputError(f"wrapped data of {len(wrapped)} bytes cannot hold a tag")
    return kind


def open_wrapped(kind: WrapType, key: Secret, iv: bytes, wrapped: bytes) -> Secret:
    """Decrypt; GCM's tag of 16 bytes is the end of `wrapped`, CTR has none.

    The primitives are imported here because most guests decrypt nothing at start.

    Args:
        kind: of `check_wrapping`, which also judged the lengths.
        key: `KEY_LENGTH` bytes.
        iv: initial counter block for CTR.
        wrapped: the ciphertext.

    Raises:
        IntegrityError: another key wrapped it, or it was changed.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    from guest.crypto import aead

    match kind:
        case WrapType.A256GCM:
            split = len(wrapped) - GCM_TAG_LENGTH
            return aead.open_sealed(key, iv, wrapped[:split], wrapped[split:])
        case WrapType.A256CTR:
            opener = Cipher(algorithms.AES(key.reveal()), modes.CTR(iv)).decryptor()
            return Secret(opener.update(wrapped) + opener.finalize())
        case _:
            assert_never(kind)
