"""The TDX attester on the kernel's own configfs-tsm and sysfs, with a provider for tests behind it.

The module `tsm_test_provider` (podvm-image/vm-test/module) gives a quote with the registers and the
input in their places; directories, attributes, generations and errors are the kernel's.
"""

import base64
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attestation_agent.attesters.base import TeeHints
from attestation_agent.attesters.tdx import open_tdx
from attestation_agent.hardware import tsm
from attestation_agent.hardware.steps import Steps
from attestation_agent.hardware.tsm import REPORTS, TsmReports, find_provider, remove_leftovers
from attestation_agent.hardware.tsm_mr import MEASUREMENTS, TsmRegisters
from guest.deadline import Deadline
from guest.errors import PlatformError
from support.tdx_world import make_guest

pytestmark = pytest.mark.tsm

PARAMETERS = Path("/sys/module/tsm_test_provider/parameters")
TEMPLATE = Path(MEASUREMENTS).parent / "test" / "template"
DATA = bytes(range(64))
REGISTERS_AT = 48 + 328
INPUT_AT = 48 + 520


@pytest.fixture(autouse=True)
def _provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Attempts follow each other at once; the provider works again afterwards."""
    monkeypatch.setattr(tsm, "RETRY_PAUSE", 0.01)
    yield
    (PARAMETERS / "failures").write_text("0")
    (PARAMETERS / "auxiliary").write_text("0")


def fail(times: int, number: int) -> None:
    (PARAMETERS / "error").write_text(str(number))
    (PARAMETERS / "failures").write_text(str(times))


def reports() -> TsmReports:
    return TsmReports(REPORTS, "tdx_guest")


def test_the_kernels_provider_is_found_and_nothing_is_left() -> None:
    assert find_provider(REPORTS) == "tdx_guest"
    assert os.listdir(REPORTS) == []


def test_a_report_of_the_kernel_binds_the_input(tmp_path: Path) -> None:
    TEMPLATE.write_bytes(make_guest(tmp_path).quote(bytes(64)))

    report = reports().report(DATA, Steps(), Deadline.after(30))

    assert report[INPUT_AT : INPUT_AT + 64] == DATA
    assert os.listdir(REPORTS) == []


def test_what_the_provider_gives_beside_a_report_is_read_too() -> None:
    (PARAMETERS / "auxiliary").write_text("5000")

    _, auxiliary = reports().report_with_auxiliary(DATA, Steps(), Deadline.after(30))

    assert auxiliary == b"x" * 5000


def test_without_anything_beside_it_the_kernels_empty_auxblob_is_taken() -> None:
    _, auxiliary = reports().report_with_auxiliary(DATA, Steps(), Deadline.after(30))

    assert auxiliary == b""


def test_a_busy_kernel_is_asked_again() -> None:
    fail(tsm.MAX_RETRIES, errno.EBUSY)

    assert reports().report(DATA, Steps(), Deadline.after(30))


@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.EIO])
def test_what_the_kernel_finally_refuses_is_named_and_leaves_nothing(number: int) -> None:
    fail(1, number)

    with pytest.raises(PlatformError, match=rf"/outblob: read: {errno.errorcode[number]} "):
        reports().report(DATA, Steps(), Deadline.after(30))

    assert (PARAMETERS / "failures").read_text().strip() == "0"
    assert os.listdir(REPORTS) == []


def test_the_kernel_counts_every_write_of_the_input() -> None:
    place = Path(REPORTS) / "by-hand"
    place.mkdir()
    try:
        assert (place / "generation").read_text() == "0\n"
        with pytest.raises(OSError) as caught:  # nothing was asked for yet
            (place / "outblob").read_bytes()
        assert caught.value.errno == errno.EINVAL
        for number in (1, 2):
            (place / "inblob").write_bytes(DATA)
            assert (place / "generation").read_text() == f"{number}\n"
        with pytest.raises(OSError, match=r"Invalid argument|File too large"):
            (place / "inblob").write_bytes(bytes(65))
    finally:
        place.rmdir()


def test_an_instance_of_an_agent_that_is_no_more_is_removed() -> None:
    left = Path(REPORTS) / "aa-4194305-7"  # beyond the largest process number
    other = Path(REPORTS) / "somebody-else"
    left.mkdir()
    other.mkdir()
    try:
        assert remove_leftovers(REPORTS) == 1
        assert os.listdir(REPORTS) == [other.name]
    finally:
        other.rmdir()


def test_registers_of_the_kernel_are_extended_by_one_whole_write() -> None:
    registers = TsmRegisters(MEASUREMENTS)
    before = registers.read_register(2, Steps())
    digest = hashlib.sha384(b"event").digest()

    registers.extend(2, digest, Steps())

    assert registers.read_register(2, Steps()) == hashlib.sha384(before + digest).digest()
    with pytest.raises(OSError, match="Invalid argument"):
        Path(MEASUREMENTS, "rtmr2:sha384").write_bytes(digest[:-1])


def test_a_register_of_the_firmware_cannot_be_extended() -> None:
    with pytest.raises(PlatformError, match="rtmr0:sha384: write: E"):
        TsmRegisters(MEASUREMENTS).extend(0, bytes(48), Steps())


async def test_the_attesters_quote_has_what_its_registers_were_extended_with(
    tmp_path: Path,
) -> None:
    TEMPLATE.write_bytes(make_guest(tmp_path).quote(bytes(64)))
    attester = open_tdx(TeeHints(event_log_path=str(tmp_path / "eventlog")))
    assert attester.registers is not None
    deadline = Deadline.after(50)
    before = await attester.registers.read(17, deadline)
    digest = hashlib.sha384(b"payload").digest()

    await attester.registers.extend(17, digest, deadline)
    evidence: Any = await attester.evidence(DATA, deadline)

    quote = base64.b64decode(evidence["quote"])
    register = attester.registers.log_index(17) - 1
    start = REGISTERS_AT + 48 * register
    assert quote[start : start + 48] == hashlib.sha384(before + digest).digest()
    assert quote[INPUT_AT : INPUT_AT + 64] == DATA
    assert evidence["cc_eventlog"] is None  # no log explains these registers
    assert os.listdir(REPORTS) == []
