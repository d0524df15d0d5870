"""AES-GCM with keys that are secrets. Sans-I/O.

Source: NIST SP 800-38D; RFC 7518 section 5.3.
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from guest.errors import DecodeError, IntegrityError
from guest.secret import Secret

TAG_LENGTH: Final = 16
NONCE_LENGTH: Final = 12
KEY_LENGTHS: Final = (16, 24, 32)


def seal(key: Secret, nonce: bytes, plaintext: bytes, aad: bytes = b"") -> tuple[bytes, bytes]:
    """Encrypt and authenticate.

    Args:
        key: 16, 24 or 32 bytes.
        nonce: 12 bytes, never used with this key before.
        plaintext: what is hidden.
        aad: what is only authenticated.

    Returns:
        The ciphertext, as long as the plaintext, and the tag of 16 bytes.

    Raises:
        DecodeError: a key or nonce of another length.
    """
    sealed = _cipher(key, nonce).encrypt(nonce, plaintext, aad)
    return sealed[:-TAG_LENGTH], sealed[-TAG_LENGTH:]


def open_sealed(
    key: Secret, nonce: bytes, ciphertext: bytes, tag: bytes, aad: bytes = b""
) -> Secret:
    """Verify and decrypt; nothing comes back unless the tag is right.

    Raises:
        DecodeError: a key, nonce or tag of a wrong length.
        IntegrityError: key, nonce, ciphertext, tag or `aad` is not what was sealed.
    """
    if len(tag) != TAG_LENGTH:
        raise DecodeError(f"tag has {len(tag)} bytes, expected {TAG_LENGTH}")
    try:
        return Secret(_cipher(key, nonce).decrypt(nonce, ciphertext + tag, aad))
    except InvalidTag as error:
        raise IntegrityError("authentication tag does not match") from error


def _cipher(key: Secret, nonce: bytes) -> AESGCM:
    if len(key) not in KEY_LENGTHS:
        raise DecodeError(f"AES key has {len(key)} bytes, expected 16, 24 or 32")
    if len(nonce) != NONCE_LENGTH:
        raise DecodeError(f"AES-GCM nonce has {len(nonce)} bytes, expected {NONCE_LENGTH}")
    return AESGCM(key.reveal())
