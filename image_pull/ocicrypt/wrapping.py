"""The wrapping side of the key schemes: private options in, one packet out.

Source: docs/spec/ocicrypt.md 9.1 and 11.
"""

import json
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from guest import jsonio, wire
from guest.crypto.recipients import RecipientKey, seal_for
from guest.deadline import Deadline
from guest.errors import DecodeError, PeerError
from guest.secret import Secret
from image_pull.ocicrypt.annotations import KEYS_PREFIX, MAX_PACKET, PROVIDER
from image_pull.ocicrypt.protocol import MAX_OUTPUT

JWE_ANNOTATION: Final = KEYS_PREFIX + "jwe"
PROVIDER_ANNOTATION: Final = KEYS_PREFIX + PROVIDER


class KeyWrapper(Protocol):
    """One scheme with its recipients."""

    @property
    def annotation(self) -> str:
        """The annotation that packets of this scheme go to."""
        ...

    async def wrap(self, private_options: Secret, deadline: Deadline) -> bytes:
        """A packet from which the recipients get the options back.

        Raises:
            GuestError: it cannot be made.
        """
        ...


class KeyProvider(Protocol):
    """Whoever answers the key provider protocol's wrap."""

    async def wrap(self, request: bytes, deadline: Deadline) -> bytes:
        """The protocol output (JSON) for a protocol input (JSON).

        Raises:
            GuestError: it refuses or cannot be reached.
        """
        ...


class JweWrapper:
    """Wraps for public keys; all recipients share one packet."""

    annotation = JWE_ANNOTATION

    def __init__(self, keys: Sequence[RecipientKey]) -> None:
        """Wrap for `keys`, at least one."""
        self._keys = tuple(keys)

    async def wrap(self, private_options: Secret, deadline: Deadline) -> bytes:
        """A JWE in JSON."""
        return seal_for(private_options, self._keys)


class ProviderWrapper:
    """Wraps through a key provider."""

    def __init__(self, name: str, parameters: Sequence[str], provider: KeyProvider) -> None:
        """Use `provider` under `name`, which also names the annotation."""
        self._name = name
        self._parameters = tuple(parameters)
        self._provider = provider

    @property
    def annotation(self) -> str:
        """The provider's annotation."""
        return PROVIDER_ANNOTATION + self._name

    async def wrap(self, private_options: Secret, deadline: Deadline) -> bytes:
        """What the provider makes of the options.

        Raises:
            PeerError: its answer is not as specified.
            GuestError: it refuses or cannot be reached.
        """
        request = encode_wrap_input(self._name, self._parameters, private_options)
        output = await self._provider.wrap(request, deadline)
        try:
            return decode_wrap_output(output)
        except DecodeError as error:
            raise PeerError(f"key provider {self._name} gave no usable answer") from error


def encode_wrap_input(name: str, parameters: Sequence[str], private_options: Secret) -> bytes:
    """The wrap input for one provider, as Go writes it; other schemes' parameters are left out."""
    encoded = [wire.encode_base64(text.encode()) for text in parameters]
    message = {
        "op": "keywrap",
        "keywrapparams": {
            "ec": {"Parameters": {name: encoded}, "DecryptConfig": {"Parameters": {}}},
            "optsdata": wire.encode_base64(private_options.reveal()),
        },
        "keyunwrapparams": {"dc": None, "annotation": None},
    }
    return json.dumps(message, separators=(",", ":")).encode()


class _Results(msgspec.Struct, frozen=True):
    annotation: str | tuple[int, ...] | None = None


class _Output(msgspec.Struct, frozen=True):
    keywrapresults: _Results | None = None


def decode_wrap_output(data: bytes) -> bytes:
    """The packet in a wrap output, which holds base64 or an array of byte values.

    Raises:
        DecodeError: not such a document, no packet in it, or one beyond `MAX_PACKET`.
    """
    output = jsonio.decode(data, _Output, max_depth=8, max_bytes=MAX_OUTPUT)
    results = output.keywrapresults
    if results is None or results.annotation is None:
        raise DecodeError("keyprovider: get NULL reply from provider")
    if isinstance(results.annotation, str):
        packet = wire.decode_base64(results.annotation, "annotation")
    else:
        try:
            packet = bytes(results.annotation)
        except ValueError as error:
            raise DecodeError("annotation is not an array of byte values") from error
    if not 0 < len(packet) <= MAX_PACKET:
        raise DecodeError(f"packet has {len(packet)} bytes, expected 1 to {MAX_PACKET}")
    return packet
