"""Messages of the quoting service and its configuration file, whatever the host sends."""

from contextlib import suppress

from attestation_agent.reports import qgs
from guest.errors import DecodeError

_MESSAGE = bytes.fromhex("0100010001000000200000000000000000000000080000000400020081000000")
SEEDS = (b"\0\0\0\x20" + _MESSAGE, _MESSAGE, b"port = 4050\n", b"# port = 1\nport=65536")


def one_input(data: bytes) -> None:
    """Decode as a frame, as a message and as a file."""
    with suppress(DecodeError):
        assert qgs.decode_framed_response(data) in data
    with suppress(DecodeError):
        assert qgs.decode_response(data) in data
    port = qgs.find_port(data.decode("utf-8", "replace"))
    assert port is None or 0 <= port <= 65535
