"""What the specification says of several attesters at once."""

import json
from pathlib import Path

import msgspec
import pytest

from attestation_agent.attesters.base import Attester
from attestation_agent.hardware import csv_guest, mkfd, sev_guest, tdx_device, uv
from guest.deadline import Deadline
from guest.errors import InvalidInputError
from support.attester_worlds import WORLDS, World

TOO_LONG = {
    "tdx-configfs": "TDX Attester: Report data must be no more than 64 bytes",
    "snp-configfs": "SNP Attester: Report data must be no more than 64 bytes",
    "cca": "CCA Attester: Challenge size must be 64 bytes or less.",
    "csv": "CSV Attester: Report data must be no more than 64 bytes",
    "sgx": "SGX Attester: Report data should be SHA384 base64 String",
}


def world_of(name: str) -> World:
    return next(world for world in WORLDS if world.name == name)


async def evidence_of(attester: Attester, data: bytes) -> object:
    return json.loads(msgspec.json.encode(await attester.evidence(data, Deadline.after(30))))


@pytest.mark.spec("attesters", 8)
@pytest.mark.parametrize("name", TOO_LONG)
async def test_report_data_of_65_bytes_is_refused_in_the_published_words(
    name: str, short_tmp: Path
) -> None:
    _, attester = world_of(name).build(short_tmp)
    assert await evidence_of(attester, bytes(64))
    with pytest.raises(InvalidInputError) as caught:
        await attester.evidence(bytes(65), Deadline.after(30))
    assert str(caught.value) == TOO_LONG[name]


@pytest.mark.spec("attesters", 42)
async def test_bytes_of_cca_and_the_serial_number_of_csv_are_arrays_of_numbers(
    short_tmp: Path,
) -> None:
    _, cca = world_of("cca").build(short_tmp / "cca")
    _, csv = world_of("csv").build(short_tmp / "csv")
    token = msgspec.convert(await evidence_of(cca, b""), dict[str, list[int]])["token"]
    evidence = await evidence_of(csv, b"")
    assert isinstance(evidence, dict)
    serial = evidence["serial_number"]
    for numbers in (token, serial):
        assert isinstance(numbers, list)
        assert numbers
        assert all(type(number) is int and 0 <= number <= 255 for number in numbers)


@pytest.mark.spec("attesters", 13)
def test_ioctl_numbers_are_the_published_ones() -> None:
    assert tdx_device.GET_REPORT == 0xC4405401
    assert (sev_guest.GET_REPORT, sev_guest.GET_EXT_REPORT) == (0xC0205300, 0xC0205302)
    assert (csv_guest.GET_REPORT, csv_guest.RTMR) == (0xC0104401, 0xC0184402)
    assert mkfd.ATTEST == 0xC0384D17
    assert uv.ATTEST == 0xC0407501


@pytest.mark.spec("attesters", 9)
@pytest.mark.parametrize("name", ["tdx-configfs", "cca", "snp-configfs"])
async def test_report_data_of_48_bytes_is_written_with_16_zeros(name: str, short_tmp: Path) -> None:
    kernel, attester = world_of(name).build(short_tmp)
    await attester.evidence(b"\7" * 48, Deadline.after(30))
    written = [call.data for call in kernel.calls if call.call == "write"]
    assert written == [b"\7" * 48 + bytes(16)]
