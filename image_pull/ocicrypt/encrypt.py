"""Encrypting one layer: the stream, the option documents, the annotations.

Source: docs/spec/ocicrypt.md 2 to 5 and 7.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from guest import wire
from guest.deadline import Deadline
from guest.errors import DecodeError, InvalidInputError
from guest.secret import Secret
from image_pull.layers.media_types import ENCRYPTED, PLAIN
from image_pull.ocicrypt.annotations import KEYS_PREFIX, MAX_PACKETS, PUBLIC_OPTIONS, wrapped_keys
from image_pull.ocicrypt.cipher import CIPHER, KEY_LENGTH, NONCE_LENGTH, LayerEncryptor
from image_pull.ocicrypt.wrapping import KeyWrapper

_OCI: Final = "application/vnd.oci.image.layer."
_DOCKER: Final = "application/vnd.docker.image.rootfs."

PLAIN_TYPES: Final = (
    *(each for each in PLAIN if each.startswith(_OCI)),
    "application/vnd.wasm.content.layer.v1+wasm",
)
"""The layer types that have an encrypted form."""

OF_DOCKER: Final = {
    f"{_DOCKER}diff.tar": f"{_OCI}v1.tar",
    f"{_DOCKER}diff.tar.gzip": f"{_OCI}v1.tar+gzip",
    f"{_DOCKER}diff.tar.zstd": f"{_OCI}v1.tar+zstd",
    f"{_DOCKER}foreign.diff.tar": f"{_OCI}nondistributable.v1.tar",
    f"{_DOCKER}foreign.diff.tar.gzip": f"{_OCI}nondistributable.v1.tar+gzip",
}
"""Docker's layer types to OCI's."""


def is_encrypted(annotations: Mapping[str, str]) -> bool:
    """Whether a layer with these annotations is encrypted already."""
    return any(key.startswith(KEYS_PREFIX) and value for key, value in annotations.items())


def encrypted_media_type(media_type: str) -> str:
    """The type of a layer after encryption.

    Raises:
        DecodeError: the layer's type has no encrypted form.
    """
    plain = OF_DOCKER.get(media_type, media_type)
    if plain not in PLAIN_TYPES:
        raise DecodeError(f"layers of type {media_type[:200]} cannot be encrypted")
    return plain + ENCRYPTED


def encode_private_options(key: Secret, nonce: bytes, digest: str) -> Secret:
    """The document that is wrapped: layer key, digest of the source blob, nonce; Go's order."""
    return Secret(
        b'{"symkey":"%s","digest":"%s","cipheroptions":{"nonce":"%s"}}'
        % (
            wire.encode_base64(key.reveal()).encode(),
            digest.encode(),
            wire.encode_base64(nonce).encode(),
        )
    )


def encode_public_options(mac: bytes) -> bytes:
    """The document that anyone may read; Go's order."""
    document = {"cipher": CIPHER, "hmac": wire.encode_base64(mac), "cipheroptions": {}}
    return json.dumps(document, separators=(",", ":")).encode()


class LayerEncryption:
    """One layer under one fresh key. First the whole stream, then the rest."""

    def __init__(self, source_digest: str) -> None:
        """Make key and nonce; `source_digest` is what the plain layer's descriptor says."""
        self._key = Secret(os.urandom(KEY_LENGTH))
        self._nonce = os.urandom(NONCE_LENGTH)
        self._digest = source_digest
        self._mac: bytes | None = None

    def stream(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The ciphertext of `chunks`, as long as they are; may be used once."""
        encryptor = LayerEncryptor(self._key, self._nonce)
        for chunk in chunks:
            yield encryptor.update(chunk)
        self._mac = encryptor.finish()

    def private(self) -> Secret:
        """The private options."""
        assert self._mac is not None, "Read()ing not complete, unable to finalize"
        return encode_private_options(self._key, self._nonce, self._digest)

    def annotations(self) -> dict[str, str]:
        """The annotation with the public options."""
        assert self._mac is not None, "Read()ing not complete, unable to finalize"
        return {PUBLIC_OPTIONS: wire.encode_base64(encode_public_options(self._mac))}

    def wipe(self) -> None:
        """Forget the key."""
        self._key.wipe()


async def wrap_for(
    wrappers: Sequence[KeyWrapper],
    private_options: Secret,
    annotations: Mapping[str, str],
    deadline: Deadline,
) -> dict[str, str]:
    """The annotations with one more packet for each scheme.

    Args:
        wrappers: the schemes, at least one.
        private_options: what is wrapped.
        annotations: of the layer so far; packets in it stay.
        deadline: for all schemes.

    Raises:
        InvalidInputError: no scheme produced anything.
        GuestError: a scheme failed; then no layer is written.
    """
    result = dict(annotations)
    if not wrappers:
        raise InvalidInputError("no wrapped keys produced by encryption")
    for wrapper in wrappers:
        packet = await wrapper.wrap(private_options, deadline)
        encoded = wire.encode_base64(packet)
        before = result.get(wrapper.annotation)
        result[wrapper.annotation] = f"{before},{encoded}" if before else encoded
    try:
        wrapped_keys(result)
    except DecodeError as error:
        raise InvalidInputError(
            f"a layer with more than {MAX_PACKETS} wrapped keys would not be read again"
        ) from error
    return result
