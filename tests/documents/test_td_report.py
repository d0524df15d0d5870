"""The TDREPORT of a real TD, or one with its published registers."""

import struct
from typing import Final

import pytest

from attestation_agent.reports.tdx import TdReport
from guest_simulator.tdx.domain import Domain, RegisterFile
from support.documents import Documents

NAME: Final = "tdx_report_1.bin"
RTMR0, RTMR1 = bytes.fromhex("f4ec1a04670fe792"), bytes.fromhex("4e5f8826653198ab")


class _Published(RegisterFile):
    """Registers that begin as the published ones; the page publishes no more of them."""

    def all(self) -> tuple[bytes, ...]:
        return (RTMR0.ljust(48, b"\1"), RTMR1.ljust(48, b"\2"), bytes(48), bytes(48))


def build() -> bytes:
    return Domain(registers=_Published()).report(bytes(64))


@pytest.mark.spec("attesters", 11, built=True)
def test_a_report_gives_the_machines_registers_and_both_embedded_hashes_verify(
    documents: Documents,
) -> None:
    data = documents.get(NAME, build)
    assert data[:4].hex() == "81000100"
    report = TdReport.decode(data)
    assert report.registers[0].startswith(RTMR0)
    assert report.registers[1].startswith(RTMR1)
    assert report.registers[2:] == (bytes(48), bytes(48))
    assert report.hashes_match
    assert report.registers == tuple(struct.unpack_from("48s48s48s48s", data, 720))
    for at in (256, 494, 512, 1023, 32, 79, 80, 127):
        changed = bytearray(data)
        changed[at] ^= 1
        assert not TdReport.decode(bytes(changed)).hashes_match
