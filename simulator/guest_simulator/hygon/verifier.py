"""What a KBS makes of CSV evidence and of that of Hygon's accelerators. Sans-I/O.

What hides a report is taken off, as the specification says; what the report binds and the event
log against the registers are checked. Hygon's certificates and SM2 signatures are not: the
simulated firmware has none.

Source: docs/spec/attesters.md 12.
"""

import struct
from typing import Any, Final

from guest_simulator.encoding import b64_decode
from guest_simulator.hygon.csv import MAGIC, PAGE, hidden, sm3
from guest_simulator.kbs.evidence import (
    UNREADABLE,
    EvidenceError,
    InitData,
    Verified,
    verify_bound,
)
from guest_simulator.tdx.verifier import replay

SM3: Final = 0x12
REGISTERS: Final = range(1, 5)


def verify_csv(evidence: Any, expected: bytes, init_data: InitData | None) -> Verified:
    """A verifier for `Behaviour.verifiers["csv"]`; CSV binds no init data."""
    try:
        report = evidence["attestation_report"]
        data, serial_number = bytes(report["data"]), bytes(evidence["serial_number"])
        is_extended = bytes(report["magic"]) == MAGIC
        if len(data) != PAGE or report["flags"] != int(is_extended):
            raise EvidenceError("CSV report of another form")
        (anonce,) = (0,) if is_extended else struct.unpack_from("<I", data, 0xBC)
        at = 0x490 if is_extended else 0x150
        if data[at + 2084 : at + 2148] != serial_number:
            raise EvidenceError("serial_number is not that of the CSV report")
        log = evidence["cc_eventlog"]
        if log is not None and is_extended:
            _verify_log(b64_decode(log), data)
    except UNREADABLE as error:
        raise EvidenceError(f"CSV evidence: {error!r}") from error
    report_data = hidden(data[0x40:0x80], anonce)
    verify_bound(report_data, expected, "REPORT_DATA is different from that in CSV Quote")
    claims = {
        "measure": hidden(data[0x90:0xB0], anonce).hex(),
        "serial_number": serial_number.rstrip(b"\0").decode("ascii", "replace"),
        "has_event_log": log is not None,
    }
    return Verified(claims=claims, report_data=report_data.hex())


def _verify_log(log: bytes, data: bytes) -> None:
    values = replay(log, SM3, _extended, bytes(32))
    for index in REGISTERS:
        if values.get(index, bytes(32)) != data[0xD0 + 32 * index : 0xF0 + 32 * index]:
            raise EvidenceError(f"Eventlog does not pass measurement replay [index = {index}]")


def verify_dcu(evidence: Any, expected: bytes, init_data: InitData | None) -> Verified:
    """A verifier for `Behaviour.verifiers["hygondcu"]`."""
    try:
        bodies = [report["body"] for report in evidence["attestation_reports"]]
        chips = [bytes(body["chip_id"]).rstrip(b"\0").decode("ascii") for body in bodies]
        bound = [bytes(body["user_data"]) for body in bodies]
    except UNREADABLE as error:
        raise EvidenceError(f"DCU evidence: {error!r}") from error
    if not bound:
        raise EvidenceError("DCU evidence of no accelerator")
    for found in bound:
        if len(found) != 64:
            raise EvidenceError("user_data has not 64 bytes")
        verify_bound(found, expected, "REPORT_DATA is different from that in DCU report")
    return Verified(claims={"chips": chips}, report_data=bound[0].hex())


def _extended(value: bytes, digest: bytes) -> bytes:
    return sm3(value + digest)
