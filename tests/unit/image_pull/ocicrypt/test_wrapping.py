"""The wrapping clients: JWE and key provider."""

import base64
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.deadline import Deadline
from guest.errors import DecodeError, PeerError
from guest.secret import Secret
from image_pull.ocicrypt.annotations import MAX_PACKET
from image_pull.ocicrypt.wrapping import (
    ProviderWrapper,
    decode_wrap_output,
    encode_wrap_input,
)


class Provider:
    def __init__(self, output: bytes) -> None:
        self.output = output
        self.request = b""

    async def wrap(self, request: bytes, deadline: Deadline) -> bytes:
        self.request = request
        return self.output


def test_the_wrap_input_is_what_go_writes() -> None:
    expected = (
        '{"op":"keywrap","keywrapparams":{"ec":{"Parameters":{"attestation-agent":["YT0x"]},'
        '"DecryptConfig":{"Parameters":{}}},"optsdata":"e30="},'
        '"keyunwrapparams":{"dc":null,"annotation":null}}'
    )
    assert encode_wrap_input("attestation-agent", ["a=1"], Secret(b"{}")).decode() == expected


@pytest.mark.spec("ocicrypt", 23)
@pytest.mark.parametrize("annotation", ['"AAH/"', "[0,1,255]"])
def test_both_spellings_of_bytes_are_read(annotation: str) -> None:
    for tail in ("}", ',"keyunwrapresults":{"optsdata":null}}', ',"keyunwrapresults":null}'):
        data = f'{{"keywrapresults":{{"annotation":{annotation}}}{tail}'
        assert decode_wrap_output(data.encode()) == b"\0\1\xff"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b'{"keywrapresults":null}',
        b'{"keywrapresults":{}}',
        b'{"keywrapresults":{"annotation":null}}',
        b'{"keywrapresults":{"annotation":""}}',
        b'{"keywrapresults":{"annotation":[]}}',
        b'{"keywrapresults":{"annotation":[256]}}',
        b'{"keywrapresults":{"annotation":[-1]}}',
        b'{"keywrapresults":{"annotation":[1.5]}}',
        b'{"keywrapresults":{"annotation":"?"}}',
        json.dumps(
            {"keywrapresults": {"annotation": base64.b64encode(bytes(MAX_PACKET + 1)).decode()}}
        ).encode(),
    ],
)
async def test_an_answer_without_a_packet_is_the_providers_fault(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_wrap_output(data)
    with pytest.raises(PeerError, match="key provider x"):
        await ProviderWrapper("x", [], Provider(data)).wrap(Secret(b""), Deadline.after(10))


async def test_a_provider_gets_its_parameters_and_names_the_annotation() -> None:
    provider = Provider(b'{"keywrapresults":{"annotation":"AAA="}}')
    wrapper = ProviderWrapper("name", ["p", "q"], provider)
    assert await wrapper.wrap(Secret(b"{}"), Deadline.after(10)) == b"\0\0"
    assert wrapper.annotation == "org.opencontainers.image.enc.keys.provider.name"
    parameters = json.loads(provider.request)["keywrapparams"]["ec"]["Parameters"]
    assert parameters == {"name": ["cA==", "cQ=="]}


@given(st.binary(max_size=200))
def test_any_bytes_give_a_packet_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        decode_wrap_output(data)


@given(st.binary(min_size=1, max_size=200))
def test_a_packet_comes_back_from_either_spelling(packet: bytes) -> None:
    for value in (list(packet), base64.b64encode(packet).decode()):
        data = json.dumps({"keywrapresults": {"annotation": value}}).encode()
        assert decode_wrap_output(data) == packet
