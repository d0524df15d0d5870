"""The key provider protocol's wrap messages, as the wrapping server has them. Sans-I/O.

Source: docs/spec/ocicrypt.md 11.1, 14.2 and 14.4.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec

from cdh.keyprovider.packet import MAX_DEPTH, MAX_INPUT_LENGTH
from guest import jsonio, wire
from guest.errors import DecodeError
from guest.secret import Secret

PROVIDER: Final = "attestation-agent"
"""The one provider name whose parameters are looked at."""

MAX_OPTIONS: Final = 64 * 1024
"""Most bytes of the private options of one layer."""


class IncompleteInputError(DecodeError):
    """The input lacks what wrapping needs; its text is the specification's."""


class OptionsEncodingError(DecodeError):
    """The private options are neither base64 nor the bare document."""


class _EncryptConfig(msgspec.Struct, frozen=True, rename="pascal"):
    parameters: dict[str, tuple[str | None, ...] | None] | None = None


class _WrapParams(msgspec.Struct, frozen=True):
    ec: _EncryptConfig | None = None
    optsdata: str | None = None


class _WrapInput(msgspec.Struct, frozen=True):
    op: str
    keywrapparams: _WrapParams


@dataclass(frozen=True, slots=True, kw_only=True)
class WrapRequest:
    """What is to be wrapped and how.

    Attributes:
        private_options: the document with the layer key.
        parameters: the first readable parameter string of `PROVIDER`.
    """

    private_options: Secret
    parameters: str


def decode_wrap_input(data: bytes) -> WrapRequest:
    """Read a wrap input; it carries other schemes' secrets, so it belongs in no log.

    Null lists, null elements, a null map and a missing `DecryptConfig` are what Go writes and are
    empty; `optsdata` may be the bare document, as Rust writes it.

    Raises:
        IncompleteInputError: something that wrapping needs is absent.
        OptionsEncodingError: `optsdata` cannot be read.
        DecodeError: not such a document.
    """
    request = jsonio.decode(data, _WrapInput, max_depth=MAX_DEPTH, max_bytes=MAX_INPUT_LENGTH)
    params = request.keywrapparams
    if params.optsdata is None:
        raise IncompleteInputError("illegal keywrapparams without optsdata")
    if params.ec is None:
        raise IncompleteInputError("illegal keywrapparams without ec")
    elements = (params.ec.parameters or {}).get(PROVIDER)
    if elements is None:
        raise IncompleteInputError(f"illegal encryption provider without {PROVIDER}")
    return WrapRequest(
        private_options=_options(params.optsdata), parameters=_first_readable(elements)
    )


def _options(text: str) -> Secret:
    try:
        options = wire.decode_base64(text, "optsdata")
    except DecodeError as error:
        if not text.startswith("{"):
            raise OptionsEncodingError("base64 decode") from error
        options = text.encode()
    if len(options) > MAX_OPTIONS:
        raise DecodeError(f"optsdata has {len(options)} bytes, at most {MAX_OPTIONS}")
    return Secret(options)


def _first_readable(elements: tuple[str | None, ...]) -> str:
    for element in elements:
        if element is not None:
            with suppress(DecodeError):  # undecodable ones are passed over
                return wire.decode_utf8(wire.decode_base64(element))
    raise IncompleteInputError(f"illegal encryption provider: {PROVIDER} has no readable parameter")


def encode_wrap_output(packet: bytes) -> bytes:
    """The wrap output: an array of byte values, which is what every client reads."""
    numbers = ",".join(map(str, packet))
    return b'{"keywrapresults":{"annotation":[' + numbers.encode("ascii") + b"]}}"
