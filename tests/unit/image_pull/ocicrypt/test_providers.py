"""Key providers of an ocicrypt configuration."""

import json
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.deadline import Deadline
from guest.errors import DecodeError, InvalidInputError, PeerError, PlatformError, UnsupportedError
from guest.rpc.address import TcpAddress, UnixAddress
from image_pull.ocicrypt.providers import (
    CommandProvider,
    ProviderEntry,
    TlsFiles,
    find_entry,
    parse_config,
)


def config(**providers: object) -> bytes:
    return json.dumps({"key-providers": providers}).encode()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:50000", TcpAddress("127.0.0.1", 50000)),
        ("localhost:50000", TcpAddress("localhost", 50000)),
        ("http://127.0.0.1:1", TcpAddress("127.0.0.1", 1)),
        ("tcp://127.0.0.1:1", TcpAddress("127.0.0.1", 1)),
        ("dns:///host:1", TcpAddress("host", 1)),
        ("[::1]:1", TcpAddress("::1", 1)),
        ("unix:///run/x.sock", UnixAddress("/run/x.sock")),
        ("unix:/run/x.sock", UnixAddress("/run/x.sock")),
    ],
)
def test_grpc_addresses_are_read_as_go_and_rust_do(
    text: str, address: TcpAddress | UnixAddress
) -> None:
    assert parse_config(config(a={"grpc": text}))["a"] == ProviderEntry(target=address)


@pytest.mark.parametrize(
    "text", ["localhost", "host:", ":1", "h:0", "h:65536", "h:x", "a/b:1", "https://h:1"]
)
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(DecodeError, match="key provider a"):
        parse_config(config(a={"grpc": text}))


def test_a_program_goes_before_a_server() -> None:
    entry = parse_config(config(a={"cmd": {"path": "/kp", "args": ["x"]}, "grpc": "nonsense"}))["a"]
    assert entry == ProviderEntry(command=("/kp", "x"))


def test_ways_that_cannot_wrap_are_named_when_they_are_used() -> None:
    parsed = parse_config(
        config(
            attestation={"ttrpc": "unix:///run/cdh.sock"},
            native={"native": "attestation-agent"},
        )
    )
    for name in parsed:
        with pytest.raises(UnsupportedError, match="Supported invocation methods are grpc and cmd"):
            find_entry(parsed, name)
    with pytest.raises(InvalidInputError, match=r"no wrapped keys produced.*'other'"):
        find_entry(parsed, "other")


def test_tls_is_kept_beside_its_server() -> None:
    tls = {"root-ca-file": "/ca", "server-name": "kp", "insecure-skip-verify": True}
    entry = find_entry(parse_config(config(a={"grpc": "h:1", "grpc-tls": tls})), "a")
    assert entry.target == TcpAddress("h", 1)
    assert entry.tls == TlsFiles(root_ca_file="/ca", server_name="kp", insecure_skip_verify=True)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'{"key-providers":[]}', b'{"key-providers":{"a":{"cmd":"x"}}}', b"{} x"]
)
def test_what_is_no_configuration_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_config(data)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_configuration_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        parse_config(data)


async def test_a_program_gets_the_input_and_the_environment_and_gives_the_output() -> None:
    script = (
        "import os,sys; sys.stdout.write(os.environ['COLOUR'] + sys.stdin.read() + sys.argv[1])"
    )
    provider = CommandProvider((sys.executable, "-c", script, "!"), {"COLOUR": "red "})
    assert await provider.wrap(b"request", Deadline.after(30)) == b"red request!"


@pytest.mark.spec("ocicrypt", 38)
async def test_a_program_that_fails_is_quoted() -> None:
    script = "import sys; sys.stderr.write('the safe is locked'); sys.exit(3)"
    provider = CommandProvider((sys.executable, "-c", script), {})
    with pytest.raises(PeerError, match="Error while running command") as caught:
        await provider.wrap(b"", Deadline.after(30))
    text = ": ".join(caught.value.causes())
    assert "the safe is locked" in text
    assert "exit status 3" in text


async def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(PlatformError):
        await CommandProvider((str(tmp_path / "none"),), {}).wrap(b"", Deadline.after(10))
