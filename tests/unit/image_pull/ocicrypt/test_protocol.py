"""Key provider messages byte by byte."""

import base64
import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import DecodeError
from guest.secret import Secret
from image_pull.ocicrypt.protocol import decode_unwrap_output, encode_unwrap_input


def test_the_request_is_what_guests_send(repository: Path) -> None:
    page = (repository / "docs" / "spec" / "ocicrypt.md").read_text()
    packet = re.findall(r"^`(\{\"kid\".*A256GCM\"\})`$", page, re.MULTILINE)[0].encode()
    request = encode_unwrap_input(packet)
    assert len(request) == 621
    assert request == (
        b'{"op":"keyunwrap","keywrapparams":{"ec":null,"optsdata":null},"keyunwrapparams":'
        b'{"dc":{"Parameters":{}},"annotation":"' + base64.b64encode(packet) + b'"}}'
    )


@pytest.mark.parametrize("extra", [{}, {"keywrapresults": {"annotation": None}}])
def test_both_spellings_of_bytes_are_read(extra: dict[str, object]) -> None:
    for options in (list(b'{"a"}'), base64.b64encode(b'{"a"}').decode()):
        document = extra | {"keyunwrapresults": {"optsdata": options}}
        assert decode_unwrap_output(Secret(json.dumps(document).encode())) == Secret(b'{"a"}')


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"keyunwrapresults":null}',
        '{"keyunwrapresults":{"optsdata":null}}',
        '{"keyunwrapresults":{"optsdata":[256]}}',
        '{"keyunwrapresults":{"optsdata":[-1]}}',
        '{"keyunwrapresults":{"optsdata":"%"}}',
        '{"keyunwrapresults":{"optsdata":7}}',
    ],
)
def test_an_answer_without_options_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        decode_unwrap_output(Secret(text.encode()))


def test_an_answer_beyond_its_limit_is_refused() -> None:
    with pytest.raises(DecodeError, match="longer"):
        decode_unwrap_output(Secret(b" " * (4 * 1024 * 1024 + 1)))


@given(st.binary(max_size=200))
def test_any_bytes_give_options_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        decode_unwrap_output(Secret(data))
