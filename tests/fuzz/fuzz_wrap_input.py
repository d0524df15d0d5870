"""Any bytes as a key provider's wrap input, any text as its parameters."""

from contextlib import suppress

from cdh.keyprovider.parameters import WrapParameters
from cdh.keyprovider.wrap_input import decode_wrap_input
from guest.errors import DecodeError

SEEDS = (
    (
        b'{"op":"keywrap","keywrapparams":{"ec":{"Parameters":{"attestation-agent":'
        b'["a2V5cGF0aD0va2V5OjprZXlpZD1rYnM6Ly8vYS9iL2M6OmFsZ29yaXRobT1BMjU2Q1RS"]},'
        b'"DecryptConfig":{"Parameters":null}},"optsdata":"e30="},'
        b'"keyunwrapparams":{"dc":null,"annotation":null}}'
    ),
    (
        b'{"op":"keywrap","keywrapparams":{"ec":{"Parameters":{"attestation-agent":[null,"?"]}},'
        b'"optsdata":"{}"}}'
    ),
    b"keyid=kbs://[::1]/a/b/c::packet=2::sample=true",
)


def one_input(data: bytes) -> None:
    """Raises nothing but decode errors."""
    with suppress(DecodeError):
        WrapParameters.parse(decode_wrap_input(data).parameters)
    with suppress(DecodeError):
        WrapParameters.parse(data.decode("utf-8", "replace"))
