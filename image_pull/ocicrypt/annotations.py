"""Encrypted-layer annotations: wrapped keys, public and private options. Sans-I/O.

Readers take what Go's tools write and leave out: any order, unknown members, `null`.

Source: docs/spec/ocicrypt.md §3 and 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from guest import wire
from guest.errors import DecodeError
from guest.prepared import prepared
from guest.secret import Secret
from image_pull.ocicrypt.cipher import CIPHER

PREFIX: Final = "org.opencontainers.image.enc."
KEYS_PREFIX: Final = PREFIX + "keys."
PUBLIC_OPTIONS: Final = PREFIX + "pubopts"
PROVIDER: Final = "provider."

MAX_OPTIONS: Final = 64 * 1024
"""Most bytes of an options document."""

MAX_PACKET: Final = 1024 * 1024
"""Most bytes of one wrapped key."""

MAX_PACKETS: Final = 64
"""Most wrapped keys of one layer, whatever their scheme."""

DECRYPT_FAILED: Final = (
    "Failed to decrypt layer: Failed to decrypt the image layer, "
    "please ensure that the decryption key is placed and correct"
)
"""What a pull fails with when a key is missing or wrong; callers look for it."""

SCHEME_ORDER: Final = ("jwe", "pkcs7", "pgp", "pkcs11")
"""Schemes after the key providers, in the order in which they are tried."""


class _Public(msgspec.Struct, frozen=True):
    cipher: str | None = None
    hmac: str | None = None
    cipheroptions: dict[str, str] | None = None


class _Private(msgspec.Struct, frozen=True):
    symkey: str
    digest: str | None = None
    cipheroptions: dict[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicOptions:
    """What anyone may read of an encrypted layer.

    Attributes:
        mac: HMAC of the ciphertext.
        nonce: a nonce that stands here, if one does.
    """

    mac: bytes
    nonce: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateOptions:
    """What is wrapped.

    Attributes:
        key: the layer key.
        nonce: the first counter block, if it stands here.
        digest: what the encryptor noted of its source; no check, see docs/spec/ocicrypt.md §4.1.
    """

    key: Secret
    nonce: bytes | None = None
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedKeys:
    """The packets of one annotation.

    Attributes:
        scheme: `jwe`, `pkcs7`, `pgp`, `pkcs11` or `provider.<name>`.
        packets: base64 text of each, in order.
    """

    scheme: str
    packets: tuple[str, ...]


def wrapped_keys(
    annotations: Mapping[str, str], provider: str = "attestation-agent"
) -> tuple[WrappedKeys, ...]:
    """All wrapped keys, in the order in which they are tried.

    Key providers first, of those the one that has our provider's name, then by their names.

    Raises:
        DecodeError: more than `MAX_PACKETS`.
    """
    found = []
    for key in sorted(annotations):
        if key.startswith(KEYS_PREFIX) and annotations[key]:
            packets = tuple(annotations[key].split(","))
            found.append(WrappedKeys(scheme=key[len(KEYS_PREFIX) :], packets=packets))
    if sum(len(keys.packets) for keys in found) > MAX_PACKETS:
        raise DecodeError(f"layer has more than {MAX_PACKETS} wrapped keys")
    return tuple(sorted(found, key=lambda keys: _rank(keys.scheme, provider)))


def _rank(scheme: str, provider: str) -> tuple[int, int]:
    if scheme.startswith(PROVIDER):
        return 0, int(scheme != PROVIDER + provider)
    return 1, SCHEME_ORDER.index(scheme) if scheme in SCHEME_ORDER else len(SCHEME_ORDER)


def decode_packet(text: str) -> bytes:
    """One wrapped key.

    Raises:
        DecodeError: not base64, or longer than `MAX_PACKET`.
    """
    if len(text) > MAX_PACKET // 3 * 4 + 4:
        raise DecodeError(f"wrapped key is longer than {MAX_PACKET} bytes")
    return wire.decode_base64(text, "wrapped key")


def decode_public_options(annotations: Mapping[str, str]) -> PublicOptions:
    """The public options of a layer.

    Raises:
        DecodeError: the annotation is missing, not base64, not JSON, or names another cipher.
    """
    text = annotations.get(PUBLIC_OPTIONS)
    if not text:
        raise DecodeError(f"layer has no annotation {PUBLIC_OPTIONS}")
    if len(text) > 2 * MAX_OPTIONS:
        raise DecodeError(f"public options are longer than {MAX_OPTIONS} bytes")
    data = wire.decode_base64(text, "annotation with the public options")
    try:
        options = msgspec.json.decode(data, type=prepared(_Public))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError("public options are not such a JSON document") from error
    if options.cipher != CIPHER:
        raise DecodeError(f"unsupported cipher type: {(options.cipher or '')[:80]}")
    if not options.hmac:
        raise DecodeError("HMAC is not provided for decryption process")
    mac = wire.decode_base64(options.hmac, "HMAC")
    return PublicOptions(mac=mac, nonce=_nonce(options.cipheroptions))


def decode_private_options(document: Secret) -> PrivateOptions:
    """The wrapped options.

    Raises:
        DecodeError: not such a JSON document, or it has no key; the message has none of it.
    """
    if len(document) > MAX_OPTIONS:
        raise DecodeError(f"private options are longer than {MAX_OPTIONS} bytes")
    try:
        options = msgspec.json.decode(document.reveal(), type=prepared(_Private))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # the cause would quote what was wrapped
        raise DecodeError("private options are not such a JSON document") from None
    return PrivateOptions(
        key=Secret(wire.decode_base64(options.symkey, "layer key")),
        nonce=_nonce(options.cipheroptions),
        digest=options.digest or "",
    )


def _nonce(options: Mapping[str, str] | None) -> bytes | None:
    text = (options or {}).get("nonce")
    return None if text is None else wire.decode_base64(text, "nonce")


def choose_nonce(public: PublicOptions, private: PrivateOptions) -> bytes:
    """The nonce: from the public options, else from the private ones.

    Raises:
        DecodeError: there is none, or there are two that differ: anyone can edit the public ones.
    """
    if public.nonce is None and private.nonce is None:
        raise DecodeError("layer has no nonce")
    if public.nonce is not None and private.nonce is not None and public.nonce != private.nonce:
        raise DecodeError("layer has a public nonce that is not the wrapped one")
    nonce = private.nonce if public.nonce is None else public.nonce
    assert nonce is not None
    return nonce
