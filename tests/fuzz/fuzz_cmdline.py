"""The kernel command line, which the host may write, and log filters."""

from guest.cmdline import CommandLine, find_kbc_params
from guest.errors import DecodeError
from guest.log import parse_filter

SEEDS = (
    b"quiet root=/dev/vda1 agent.aa_kbc_params=cc_kbc::http://[::1]:8080 a=b=c",
    b"info,attester=trace,image_rs::pull=off,3",
)


def one_input(data: bytes) -> None:
    """A command line and its parameters, and a filter, or DecodeErrors."""
    text = data.decode("utf-8", "replace")
    line = CommandLine.parse(text)
    try:
        find_kbc_params(None, line)
    except DecodeError:
        pass
    try:
        parse_filter(text)
    except DecodeError:
        pass
