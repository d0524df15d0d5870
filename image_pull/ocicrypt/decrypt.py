"""From a layer's annotations to the stream that decrypts it.

Source: docs/spec/ocicrypt.md §6 and 13.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from guest.deadline import Deadline
from guest.errors import (
    DeadlineError,
    DecodeError,
    DeniedError,
    GuestError,
    IntegrityError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
    UnreachableError,
)
from guest.secret import Secret
from image_pull.layers.pipeline import LayerDescriptor
from image_pull.ocicrypt.annotations import (
    DECRYPT_FAILED,
    choose_nonce,
    decode_packet,
    decode_private_options,
    decode_public_options,
    wrapped_keys,
)
from image_pull.ocicrypt.cipher import LayerDecryptor
from image_pull.ocicrypt.keywrap import Unlocking, find_keywrap, unsupported
from image_pull.ocicrypt.protocol import KeyUnwrapper

UNWRAP_SECONDS: Final = 50.0
"""Seconds that unwrapping one packet may take."""

MAX_REASONS: Final = 400
"""Characters of each scheme's reason in the error."""

_NO_KEY: Final = "missing private key needed for decryption"
_NO_FIT: Final = (
    "no suitable key unwrapper found or none of the private keys could be used for decryption"
)
_TELLING: Final = (
    DeadlineError,
    DeniedError,
    UnauthenticatedError,
    UnreachableError,
    UnavailableError,
    NotFoundError,
)
"""Classes whose meaning the whole failure keeps, the most telling first."""


async def layer_decryptor(
    descriptor: LayerDescriptor,
    *,
    keys: KeyUnwrapper | None,
    private_keys: Sequence[Secret] = (),
    deadline: Deadline,
) -> LayerDecryptor:
    """Unwrap the layer's key; every scheme and packet is tried until one fits.

    The public options are read before anybody is asked for a key.

    Args:
        descriptor: of an encrypted layer.
        keys: answers for key providers; None where there is none.
        private_keys: PEM, DER or JWK texts, for JWE.
        deadline: for everything.

    Raises:
        GuestError: the text is `DECRYPT_FAILED`, then the cause; the class is that of the first
            telling reason (denied, not found, unreachable, ...), else `IntegrityError`.
    """
    try:
        public = decode_public_options(descriptor.annotations)
        with await unwrap_options(
            descriptor.annotations, keys=keys, private_keys=private_keys, deadline=deadline
        ) as document:
            private = decode_private_options(document)
        with private.key:
            return LayerDecryptor(private.key, choose_nonce(public, private), public.mac)
    except GuestError as error:
        kind = type(error) if isinstance(error, _TELLING) else IntegrityError
        raise kind(f"{DECRYPT_FAILED}: {error}") from error


async def unwrap_options(
    annotations: Mapping[str, str],
    *,
    keys: KeyUnwrapper | None,
    private_keys: Sequence[Secret] = (),
    deadline: Deadline,
) -> Secret:
    """The private options of a layer, without a look at its data.

    Raises:
        GuestError: no packet could be unwrapped; the text has every scheme's reasons.
    """
    unlocking = Unlocking(keys=keys, private_keys=private_keys)
    failures: list[tuple[str, GuestError]] = []
    for wrapped in wrapped_keys(annotations):
        row = find_keywrap(wrapped.scheme)
        if row is None:
            failures.append((wrapped.scheme, unsupported(wrapped.scheme)))
            continue
        if row.needs_private_key and not private_keys:
            continue
        for text in wrapped.packets:
            try:
                packet = decode_packet(text)
                return await row.unwrap(packet, unlocking, deadline.within(UNWRAP_SECONDS))
            except GuestError as error:
                failures.append((wrapped.scheme, error))
            if deadline.is_over():
                break
    raise _failure(failures, has_private_key=bool(private_keys))


def _failure(failures: Sequence[tuple[str, GuestError]], *, has_private_key: bool) -> GuestError:
    """One error for all that was tried: the class of the most telling one."""
    kind: type[GuestError] = DecodeError
    cause: GuestError | None = None
    for telling in _TELLING:
        cause = next((error for _, error in failures if isinstance(error, telling)), None)
        if cause is not None:
            kind = type(cause)
            break
    reasons = [
        f"no suitable key found for decrypting layer key: {scheme}: "
        f"{'; '.join(error.causes())[:MAX_REASONS]}"
        for scheme, error in failures
    ]
    text = ": ".join([_NO_FIT if has_private_key else _NO_KEY, *reasons[:4]])
    result = kind(text)
    result.__cause__ = cause
    return result
