"""Hygon machines for tests: simulated devices, attesters on them, parsers of their own kind.

The parsers are written from Hygon's layouts as the specification has them and share nothing with
the product.
"""

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attestation_agent.attesters.base import TeeHints
from attestation_agent.attesters.csv import CsvAttester, open_csv
from attestation_agent.attesters.hygon_dcu import HygonDcuAttester, open_hygon_dcu
from guest_simulator.hygon import csv as csv_device
from guest_simulator.hygon import dcu as dcu_device
from guest_simulator.hygon.csv import CsvGuest, hidden, sm3
from guest_simulator.hygon.dcu import Mkfd
from guest_simulator.machine import Machine


@dataclass(kw_only=True)
class CsvWorld:
    """A CSV guest."""

    root: Path
    device: CsvGuest = field(default_factory=CsvGuest)

    def __post_init__(self) -> None:
        self.machine = Machine(root=str(self.root), devices={csv_device.PATH: self.device})

    def hints(self) -> TeeHints:
        """Where detection and attester look."""
        return TeeHints(root=str(self.root), kernel=self.machine)

    def attester(self) -> CsvAttester:
        """The product's attester on it."""
        return open_csv(self.hints())

    def put_firmware_log(self, log: bytes) -> None:
        """What ACPI shows of the firmware's log."""
        path = self.root / "sys/firmware/acpi/tables/data/CCEL"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(log)


@dataclass(kw_only=True)
class DcuWorld:
    """A machine with accelerators; `ids` are the nodes' numbers, 0 for a processor."""

    root: Path
    ids: tuple[int, ...] = (0, 51234, 4711)
    device: Mkfd = field(default_factory=Mkfd)

    def __post_init__(self) -> None:
        self.machine = Machine(root=str(self.root), devices={dcu_device.PATH: self.device})
        dcu_device.put_nodes(self.root, *self.ids)

    def hints(self) -> TeeHints:
        """Where detection and attester look."""
        return TeeHints(root=str(self.root), kernel=self.machine)

    def attester(self) -> HygonDcuAttester:
        """The product's attester on it."""
        return open_hygon_dcu(self.hints())


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedCsv:
    """What a verifier reads in CSV evidence."""

    is_extended: bool
    report_data: bytes
    measure: bytes
    registers: tuple[bytes, ...]
    pek: bytes
    serial_number: bytes


def parse_csv(evidence: dict[str, Any]) -> ParsedCsv:
    """Read the report of evidence, undoing what hides it."""
    report = evidence["attestation_report"]
    data = bytes(report["data"])
    assert len(data) == 4096
    is_extended = bytes(report["magic"]) == b"ATTESTATION_EXT\0"
    assert report["flags"] == int(is_extended)
    assert is_extended or bytes(report["magic"]) == bytes(16)
    anonce = 0 if is_extended else struct.unpack_from("<I", data, 0xBC)[0]
    at = 0x490 if is_extended else 0x150
    assert data[at + 2084 + 64 : at + 2084 + 96] == bytes(32)
    registers = tuple(data[0xD0 + 32 * n : 0xF0 + 32 * n] for n in range(5)) if is_extended else ()
    return ParsedCsv(
        is_extended=is_extended,
        report_data=hidden(data[0x40:0x80], anonce),
        measure=hidden(data[0x90:0xB0], anonce),
        registers=registers,
        pek=data[at : at + 2084],
        serial_number=data[at + 2084 : at + 2148],
    )


def encode_certificate(value: dict[str, Any]) -> bytes:
    """The 2084 bytes that a certificate's JSON describes."""
    body, key = value["body"]["data"], value["body"]["data"]["pubkey"]
    parts = [
        struct.pack("<I", value["body"]["ver"]),
        bytes((body["firmware"]["major"], body["firmware"]["minor"])),
        struct.pack("<HII", body["reserved1"], key["usage"], key["algo"]),
        struct.pack("<I", key["key"]["g"]) + bytes(key["key"]["x"]) + bytes(key["key"]["y"]),
        struct.pack("<H", body["uid_size"]) + bytes(body["user_id"]),
        bytes(body["sid"]) + bytes(body["reserved2"]),
    ]
    for one in value["sigs"]:
        signature = bytes(one["signature"]["r"]) + bytes(one["signature"]["s"])
        parts.append(struct.pack("<II", one["usage"], one["algo"]) + signature)
        parts.append(bytes(one["_reserved"]))
    return b"".join(parts)


def encode_hsk(value: dict[str, Any]) -> bytes:
    """The 832 bytes that an HSK's JSON describes."""
    body, head = value["body"], value["body"]["preamble"]
    key, signature = body["pubkey"], value["signature"]
    return b"".join(
        (
            struct.pack("<I", head["ver"]),
            bytes(head["data"]["kid"]) + bytes(head["data"]["sid"]),
            struct.pack("<I", head["data"]["usage"]) + bytes(head["data"]["reserved"]),
            struct.pack("<I", key["g"]) + bytes(key["x"]) + bytes(key["y"]),
            struct.pack("<H", body["uid_size"]) + bytes(body["user_id"]),
            bytes(body["reserved"]) + bytes(signature["r"]) + bytes(signature["s"]),
            bytes(value["_reserved"]),
        )
    )


def replay_sm3(log: bytes) -> dict[int, bytes]:
    """What a verifier makes of `cc_eventlog`: SM3 registers by index."""
    (size,) = struct.unpack_from("<I", log, 28)
    spec, at = log[32 : 32 + size], 32 + size
    (count,) = struct.unpack_from("<I", spec, 24)
    sizes = dict(struct.unpack_from("<HH", spec, 28 + 4 * i) for i in range(count))
    values: dict[int, bytes] = {}
    while log[at : at + 8] != b"\xff" * 8:
        index, _kind, digests = struct.unpack_from("<III", log, at)
        at += 12
        for _ in range(digests):
            (algorithm,) = struct.unpack_from("<H", log, at)
            digest = log[at + 2 : at + 2 + sizes[algorithm]]
            at += 2 + sizes[algorithm]
            if algorithm == 0x12:
                values[index] = sm3(values.get(index, bytes(32)) + digest)
        (length,) = struct.unpack_from("<I", log, at)
        at += 4 + length
    assert at == len(log) - 8
    return values
