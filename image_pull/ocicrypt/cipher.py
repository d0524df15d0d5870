"""The layer cipher AES_256_CTR_HMAC_SHA256, as a stream. Sans-I/O.

The same key encrypts and authenticates; the MAC covers the ciphertext only and is known to be
right only at the end, so what `update` gives is unverified until `finish` returns.

Source: docs/spec/ocicrypt.md §5.
"""

import hashlib
import hmac
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from guest.errors import DecodeError, IntegrityError
from guest.secret import Secret

CIPHER: Final = "AES_256_CTR_HMAC_SHA256"
KEY_LENGTH: Final = 32
NONCE_LENGTH: Final = 16
MAC_LENGTH: Final = 32


def _check(key: Secret, nonce: bytes) -> None:
    if len(key) != KEY_LENGTH:
        raise DecodeError(f"invalid key length of {len(key)} bytes; need {KEY_LENGTH} bytes")
    if len(nonce) != NONCE_LENGTH:
        raise DecodeError(f"invalid nonce length of {len(nonce)} bytes; need {NONCE_LENGTH} bytes")


class LayerDecryptor:
    """Decrypts one layer; the caller publishes nothing before `finish` has returned.

    Args:
        key: the layer key, 32 bytes; not kept, but the cipher has it until `finish`.
        nonce: the first counter block, 16 bytes.
        mac: HMAC-SHA256 of the whole ciphertext.

    Raises:
        DecodeError: a length is wrong.
    """

    __slots__ = ("_cipher", "_expected", "_hmac")

    def __init__(self, key: Secret, nonce: bytes, mac: bytes) -> None:
        _check(key, nonce)
        if not mac:
            raise DecodeError("HMAC is not provided for decryption process")
        if len(mac) != MAC_LENGTH:
            raise DecodeError(f"invalid HMAC length of {len(mac)} bytes; need {MAC_LENGTH} bytes")
        self._cipher = Cipher(AES(key.reveal()), CTR(nonce)).decryptor()
        self._hmac = hmac.new(key.reveal(), digestmod=hashlib.sha256)
        self._expected = mac

    def update(self, ciphertext: bytes) -> bytes:
        """The plaintext of the next bytes, unverified."""
        self._hmac.update(ciphertext)
        return self._cipher.update(ciphertext)

    def replay(self, plaintext: bytes) -> bytes:
        """The ciphertext that the next bytes came from, which counts as if it came again."""
        ciphertext = self._cipher.update(plaintext)  # in counter mode both ways are one
        self._hmac.update(ciphertext)
        return ciphertext

    def finish(self) -> None:
        """Check the MAC over everything; compares in constant time.

        Raises:
            IntegrityError: the ciphertext is not what was encrypted.
        """
        self._cipher.finalize()
        if not hmac.compare_digest(self._hmac.digest(), self._expected):
            raise IntegrityError("HMAC of the encrypted layer does not match")


class LayerEncryptor:
    """Encrypts one layer; its MAC is known after the last byte.

    Args:
        key: a fresh layer key, 32 random bytes.
        nonce: 16 random bytes.

    Raises:
        DecodeError: a length is wrong.
    """

    __slots__ = ("_cipher", "_hmac")

    def __init__(self, key: Secret, nonce: bytes) -> None:
        _check(key, nonce)
        self._cipher = Cipher(AES(key.reveal()), CTR(nonce)).encryptor()
        self._hmac = hmac.new(key.reveal(), digestmod=hashlib.sha256)

    def update(self, plaintext: bytes) -> bytes:
        """The ciphertext of the next bytes."""
        ciphertext = self._cipher.update(plaintext)
        self._hmac.update(ciphertext)
        return ciphertext

    def finish(self) -> bytes:
        """The MAC over everything, 32 bytes."""
        self._cipher.finalize()
        return self._hmac.digest()
