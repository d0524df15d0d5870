"""The edge of `coco_keyprovider`: requests in, packets or the specified statuses out.

Source: docs/spec/ocicrypt.md 14.4.
"""

import logging
from typing import Final

from cdh.keyprovider.parameters import WrapParameters
from cdh.keyprovider.wrap import LayerKeyWrapper
from cdh.keyprovider.wrap_input import (
    IncompleteInputError,
    OptionsEncodingError,
    WrapRequest,
    decode_wrap_input,
    encode_wrap_output,
)
from guest import wire
from guest.deadline import Deadline
from guest.errors import DeadlineError, DecodeError, GuestError
from guest.protos.keyprovider_pb2 import (
    KeyProviderKeyWrapProtocolInput,
    KeyProviderKeyWrapProtocolOutput,
)
from guest.protos.methods import UNWRAP_KEY, WRAP_KEY
from guest.rpc.method import CallContext, Routes
from guest.rpc.status import Code, Status, StatusError

log = logging.getLogger(__name__)

NOT_UTF8: Final = "key_provider_key_wrap_protocol_input is not legal utf8 string"


class KeyProviderService:
    """`WrapKey` for owners. `UnWrapKey` is for the guest, not for this."""

    def __init__(self, wrapper: LayerKeyWrapper) -> None:
        """Wrap with `wrapper`."""
        self._wrapper = wrapper

    def routes(self) -> Routes:
        """Both methods, bound."""
        routes = Routes()
        routes.bind(WRAP_KEY, self._wrap_key)
        routes.bind(UNWRAP_KEY, self._unwrap_key)
        return routes

    async def _wrap_key(
        self, request: KeyProviderKeyWrapProtocolInput, context: CallContext
    ) -> KeyProviderKeyWrapProtocolOutput:
        output = await self.wrap(request.KeyProviderKeyWrapProtocolInput, context.deadline)
        return KeyProviderKeyWrapProtocolOutput(KeyProviderKeyWrapProtocolOutput=output)

    async def _unwrap_key(
        self, request: KeyProviderKeyWrapProtocolInput, context: CallContext
    ) -> KeyProviderKeyWrapProtocolOutput:
        raise StatusError(
            Status(
                code=Code.UNIMPLEMENTED,
                message="UnWrapKey API of sample-kbs is unimplemented!",
            )
        )

    async def wrap(self, request: bytes, deadline: Deadline) -> bytes:
        """The protocol output for a protocol input; also how a tool wraps in its own process.

        Raises:
            StatusError: with the code and the text of the specification.
            DeadlineError: no time left.
        """
        parsed = _decode(request)
        try:
            parameters = WrapParameters.parse(parsed.parameters)
        except DecodeError as error:
            raise _status(Code.INVALID_ARGUMENT, "illegal parameters", error) from error
        try:
            with parsed.private_options as options:
                packet = await self._wrapper.wrap(options, parameters, deadline)
        except DeadlineError:
            raise
        except GuestError as error:
            raise _status(Code.INTERNAL, "encrypt failed", error) from error
        log.info("layer key wrapped", extra={"bytes": len(packet)})
        return encode_wrap_output(packet)


def _decode(request: bytes) -> WrapRequest:
    try:
        wire.decode_utf8(request)
    except DecodeError as error:
        raise _status(Code.INVALID_ARGUMENT, NOT_UTF8, error) from error
    try:
        return decode_wrap_input(request)
    except IncompleteInputError as error:
        raise StatusError(Status(code=Code.INVALID_ARGUMENT, message=str(error))) from error
    except OptionsEncodingError as error:
        raise StatusError(Status(code=Code.ABORTED, message=str(error))) from error
    except DecodeError as error:
        text = "parse key provider input failed"
        raise _status(Code.INVALID_ARGUMENT, text, error) from error


def _status(code: Code, text: str, error: GuestError) -> StatusError:
    return StatusError(Status(code=code, message=": ".join((text, *error.causes()))))
