"""Logs put together for evidence, and replayed to what the registers must then hold. Sans-I/O.

Source: docs/spec/attesters.md 1.5 and 2.1; docs/spec/attestation-agent.md 7.7.
"""

from collections.abc import Iterable, Mapping, Sequence

from attestation_agent.eventlog.entry import ALGORITHM_IDS
from attestation_agent.eventlog.tcg2 import END_MARKER, SYNTHETIC_HEADER, LogEvent, parse_log
from guest.crypto.digest import HashAlgorithm


def extend(value: bytes, digest: bytes, algorithm: HashAlgorithm) -> bytes:
    """A register after it was extended."""
    return algorithm.of(value + digest).value


def replay(events: Iterable[LogEvent], algorithm: HashAlgorithm) -> Mapping[int, bytes]:
    """Register index to its value after all events, from zeros; what is not named is zero."""
    number, zeros = ALGORITHM_IDS[algorithm], bytes(algorithm.length)
    values: dict[int, bytes] = {}
    for event in events:
        for kind, digest in event.digests:
            if kind == number:
                values[event.register] = extend(
                    values.get(event.register, zeros), digest, algorithm
                )
    return values


def assemble(firmware: bytes | None, own: bytes | None) -> bytes | None:
    """The log that goes into evidence; None where there is neither.

    Args:
        firmware: the CCEL log without its end marker.
        own: content of the agent's log.
    """
    if firmware is None and own is None:
        return None
    head = SYNTHETIC_HEADER if firmware is None else firmware
    return head + (own or b"") + END_MARKER


def find_mismatch(log: bytes, registers: Sequence[bytes], algorithm: HashAlgorithm) -> int | None:
    """The first register, counted from 1 as the log counts, that does not replay; None if all do.

    Args:
        log: as `assemble` gives it.
        registers: values of register 1, 2, ... that a quote holds.
        algorithm: whose digests count.

    Raises:
        DecodeError: the log cannot be parsed.
    """
    values = replay(parse_log(log).events, algorithm)
    zeros = bytes(algorithm.length)
    for index, register in enumerate(registers, 1):
        if values.get(index, zeros) != register:
            return index
    return None
