from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import InvalidInputError
from guest.rpc.address import (
    ANY_CID,
    Address,
    TcpAddress,
    UnixAddress,
    VsockAddress,
    parse_address,
    parse_tcp,
)

GOOD = (
    ("unix:///run/x.sock", UnixAddress("/run/x.sock")),
    ("unix://rel/x.sock", UnixAddress("rel/x.sock")),
    ("unix://@name", UnixAddress("name", abstract=True)),
    ("vsock://3:1024", VsockAddress(3, 1024)),
    ("vsock://-1:1024", VsockAddress(ANY_CID, 1024)),
    ("tcp://127.0.0.1:50002", TcpAddress("127.0.0.1", 50002)),
    ("tcp://[::1]:0", TcpAddress("::1", 0)),
)


@pytest.mark.spec("ttrpc", 33)
def test_every_form_of_the_table_is_parsed_and_others_are_not() -> None:
    for text, address in GOOD:
        assert parse_address(text) == address
    for text in ("/run/x.sock", "127.0.0.1:1", "UNIX:///run/x", "unix:/run/x", "http://a", ""):
        with pytest.raises(InvalidInputError) as caught:
            parse_address(text)
        assert str(caught.value) == f'Scheme of "{text}" is not supported'
    for text in ("vsock://1", "vsock://1:2:3", "vsock://a:1", "vsock://-2:1", "vsock://1:-1"):
        with pytest.raises(InvalidInputError):
            parse_address(text)
    with pytest.raises(InvalidInputError):
        parse_address("tcp://localhost:1")


@pytest.mark.parametrize(("text", "address"), GOOD)
def test_an_address_gives_its_text_back(text: str, address: Address) -> None:
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    ["", "1", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:+1", "::1:5", "[1.2.3.4]:5",
     "host:5", "127.0.0.1:٣", "[::1]", ":5"],
)  # fmt: skip
def test_what_is_no_ip_and_port_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_tcp(text)


@pytest.mark.parametrize("text", ["unix://", "unix://@", "unix:///a\0b"])
def test_a_unix_address_must_name_something(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_address(text)


@given(st.sampled_from(["unix://", "vsock://", "tcp://", ""]), st.text(max_size=30))
def test_any_text_is_an_address_that_parses_again_or_an_error(scheme: str, rest: str) -> None:
    with suppress(InvalidInputError):
        address = parse_address(scheme + rest)
        assert parse_address(str(address)) == address
