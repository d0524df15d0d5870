"""A client key of a KMS instance: opened from PKCS#12, used to sign. Both block: use a thread.

Source: docs/spec/confidential-data-hub.md 8.2.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cdh.kms.aliyun.documents import decode_client_key, decode_password
from guest.errors import DecodeError, PlatformError
from guest.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientKey:
    """An RSA key that an instance knows.

    Attributes:
        key_id: goes on the wire.
        sign: RSA PKCS#1 v1.5 with SHA-256 over its argument.
    """

    key_id: str
    sign: Callable[[bytes], bytes]


def open_client_key(document: Secret, password: Secret) -> ClientKey:
    """Open a key; the library of the primitives is loaded here.

    Args:
        document: the content of `clientKey_<id>.json`.
        password: the content of `password_<id>.json`.

    Raises:
        PlatformError: a file is not as specified, the password is another's, no RSA key inside.
    """
    try:
        file = decode_client_key(document.reveal())
        with decode_password(password.reveal()) as opened, file.pkcs12 as pkcs12:
            return ClientKey(key_id=file.key_id, sign=_open(pkcs12, opened))
    except DecodeError as error:
        raise PlatformError(f"client key: {error}") from error


def _open(pkcs12: Secret, password: Secret) -> Callable[[bytes], bytes]:
    from cryptography.exceptions import InternalError, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.serialization import pkcs12 as library

    try:
        key, _, _ = library.load_key_and_certificates(pkcs12.reveal(), password.reveal())
    except (ValueError, UnsupportedAlgorithm, InternalError) as error:
        raise DecodeError("not PKCS#12 under this password") from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise DecodeError("PKCS#12 holds no RSA key")
    private = key
    return lambda data: private.sign(data, padding.PKCS1v15(), hashes.SHA256())
