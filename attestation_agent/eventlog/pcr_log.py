"""The agent's event log as evidence of a TPM carries it. Sans-I/O.

Source: docs/spec/attesters.md 2.1 and 6.4; docs/spec/attestation-agent.md 7.7 and 7.8 (TCG PC
Client Platform Firmware Profile, 10.4.5.1: the first event).
"""

import struct
from collections.abc import Sequence
from typing import Final

from attestation_agent.eventlog.entry import read_entries
from attestation_agent.eventlog.replay import extend
from attestation_agent.eventlog.tcg2 import END_MARKER, NO_ACTION
from attestation_agent.reports.tpm import PCRS, start_value
from guest.crypto.digest import HashAlgorithm
from guest.errors import DecodeError

_SPEC_ID: Final = b"".join(
    (
        b"Spec ID Event03\0",
        struct.pack("<IBBBB", 0, 0, 2, 0, 2),
        struct.pack("<IHH", 1, 0x0B, HashAlgorithm.SHA256.length),
        b"\0",
    )
)
PCR_HEADER: Final = struct.pack("<II20xI", 0, NO_ACTION, len(_SPEC_ID)) + _SPEC_ID
"""Announces SHA-256."""


def assemble_pcr_log(own: bytes) -> bytes:
    """The log that goes into evidence."""
    return PCR_HEADER + own + END_MARKER


def find_pcr_mismatch(own: bytes, pcrs: Sequence[bytes]) -> int | None:
    """The first register that the log names and does not explain; None where there is none.

    Registers that it does not name are somebody else's.

    Args:
        own: the entries.
        pcrs: values of all registers of the SHA-256 bank.

    Raises:
        DecodeError: the log cannot be parsed, or names a register that there is not.
    """
    values: dict[int, bytes] = {}
    for entry in read_entries(own):
        if entry.register >= PCRS or entry.algorithm is not HashAlgorithm.SHA256:
            raise DecodeError(f"event log entry of register {entry.register}, {entry.algorithm}")
        before = values.get(entry.register, start_value(entry.register))
        values[entry.register] = extend(before, entry.digest, HashAlgorithm.SHA256)
    return next((number for number, value in values.items() if pcrs[number] != value), None)
