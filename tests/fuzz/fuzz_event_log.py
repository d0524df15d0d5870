"""Event logs of firmware and of our own, and the record written ahead."""

from contextlib import suppress

from attestation_agent.eventlog.entry import Entry, WriteAhead, read_entries
from attestation_agent.eventlog.replay import assemble, find_mismatch
from attestation_agent.eventlog.tcg2 import SYNTHETIC_HEADER, parse_log
from guest.crypto.digest import HashAlgorithm
from guest.errors import DecodeError

_ENTRIES = b"".join(
    Entry(register=4, algorithm=algorithm, text=b"domain operation content").encode()
    for algorithm in (HashAlgorithm.SHA384, HashAlgorithm.SM3)
)
SEEDS = (
    _ENTRIES,
    SYNTHETIC_HEADER + _ENTRIES + b"\xff" * 8,
    SYNTHETIC_HEADER + bytes(16),
    bytes(56) + b"domain operation content",
)


def one_input(data: bytes) -> None:
    """Decode as each of them, and replay."""
    with suppress(DecodeError):
        assert b"".join(entry.encode() for entry in read_entries(data)) == data
    with suppress(DecodeError):
        assert WriteAhead.decode(data, HashAlgorithm.SHA384).encode() == data
    with suppress(DecodeError):
        parsed = parse_log(data)
        assert parsed.length <= len(data)
        again = parse_log(data[: parsed.length] + b"\xff" * 8)
        assert again == parsed
        log = assemble(data[: parsed.length], b"")
        assert log is not None
        assert find_mismatch(log, [bytes(48)] * 4, HashAlgorithm.SHA384) in (None, 1, 2, 3, 4)
