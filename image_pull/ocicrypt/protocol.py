"""The key provider protocol: what an image puller asks and is answered. Sans-I/O.

Byte strings travel as base64 text or as arrays of numbers, depending on who writes; this client
writes base64 and reads both.

Source: docs/spec/ocicrypt.md §11.
"""

import json
from typing import Final, Protocol

import msgspec

from guest import wire
from guest.deadline import Deadline
from guest.errors import DecodeError
from guest.prepared import prepared
from guest.secret import Secret

MAX_OUTPUT: Final = 4 * 1024 * 1024
"""Most bytes of a provider's answer."""


class KeyUnwrapper(Protocol):
    """Whoever answers `UnWrapKey`: CDH's own hub, or a configured key provider."""

    async def unwrap(self, request: bytes, deadline: Deadline) -> Secret:
        """The protocol output (JSON) for a protocol input (JSON).

        Raises:
            GuestError: the key cannot be unwrapped.
        """
        ...


class _Results(msgspec.Struct, frozen=True):
    optsdata: str | list[int] | None = None


class _Output(msgspec.Struct, frozen=True):
    keyunwrapresults: _Results | None = None


def encode_unwrap_input(packet: bytes) -> bytes:
    """The request to unwrap a packet, exactly as guests send it: without keys of other schemes."""
    document = {
        "op": "keyunwrap",
        "keywrapparams": {"ec": None, "optsdata": None},
        "keyunwrapparams": {"dc": {"Parameters": {}}, "annotation": wire.encode_base64(packet)},
    }
    return json.dumps(document, separators=(",", ":")).encode()


def decode_unwrap_output(output: Secret) -> Secret:
    """The private options out of an answer.

    Raises:
        DecodeError: not such a document, or it holds no options; the message has none of it.
    """
    if len(output) > MAX_OUTPUT:
        raise DecodeError(f"answer of the key provider is longer than {MAX_OUTPUT} bytes")
    try:
        parsed = msgspec.json.decode(output.reveal(), type=prepared(_Output))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # the cause would quote what was unwrapped
        raise DecodeError("answer of the key provider is not such a JSON document") from None
    if parsed.keyunwrapresults is None or parsed.keyunwrapresults.optsdata is None:
        raise DecodeError("keyprovider: get NULL reply from provider")
    options = parsed.keyunwrapresults.optsdata
    if isinstance(options, str):
        return Secret(wire.decode_base64(options, "options of the key provider"))
    try:
        return Secret(bytes(options))
    except ValueError:
        raise DecodeError("answer of the key provider has a number that is no byte") from None
