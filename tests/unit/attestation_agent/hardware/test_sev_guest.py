"""The SEV guest device: the calls, the table's length, a busy host, the key that is lost."""

import errno
import struct
from pathlib import Path

import pytest

from attestation_agent.hardware import sev_guest
from attestation_agent.hardware.memory import Pages
from attestation_agent.hardware.sev_guest import SevGuestDevice
from attestation_agent.hardware.steps import Steps
from guest.deadline import Deadline
from guest.errors import DeadlineError, PlatformError, UnsupportedError
from guest_simulator.tdx.guest import Fault
from support.snp_world import SnpWorld, chip

DATA = bytes(range(64))


def device_of(world: SnpWorld) -> SevGuestDevice:
    return SevGuestDevice(world.machine.root + sev_guest.NODE, world.machine)


def extended(world: SnpWorld, *, seconds: float = 30.0) -> tuple[bytes, bytes]:
    return device_of(world).extended_report(DATA, Steps(), Deadline.after(seconds))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once."""
    monkeypatch.setattr(sev_guest, "BUSY_PAUSE", 0.0001)


def test_a_report_is_asked_for_with_one_call(short_tmp: Path) -> None:
    world = SnpWorld(root=short_tmp)
    report = device_of(world).report(DATA, Steps(), Deadline.after(30))
    assert report[0x50:0x90] == DATA
    assert [call.call for call in world.machine.calls] == ["exists", "ioctl"]
    assert (sev_guest.GET_REPORT, sev_guest.GET_EXT_REPORT) == (0xC0205300, 0xC0205302)


def test_the_host_names_the_length_of_its_table_and_the_second_call_has_room(
    short_tmp: Path,
) -> None:
    world = SnpWorld(root=short_tmp, table=chip().table("VCEK", "ASK", "ARK"))
    report, table = extended(world)
    assert report[0x50:0x90] == DATA
    assert len(table) % 4096 == 0
    assert table[: len(world.table)] == world.table
    assert len(world.device.requests) == 2


def test_a_host_without_a_table_answers_at_once(short_tmp: Path) -> None:
    world = SnpWorld(root=short_tmp)
    assert extended(world)[1] == b""
    assert len(world.device.requests) == 1


def test_a_table_that_grows_between_two_calls_is_asked_for_again_but_not_for_ever(
    short_tmp: Path,
) -> None:
    world = SnpWorld(root=short_tmp)
    sizes = iter([b"\1" * 10, b"\1" * 5000, b"\1" * 5000])
    world.device.table = lambda: next(sizes)
    assert len(extended(world)[1]) == 8192
    sizes = iter([b"\1" * 4096 * n for n in range(1, 9)])
    with pytest.raises(PlatformError, match=r"EMSGSIZE .*keeps changing"):
        extended(world)


def test_a_table_longer_than_the_kernel_fetches_is_refused(short_tmp: Path) -> None:
    world = SnpWorld(root=short_tmp, table=b"\1" * 16385)
    with pytest.raises(PlatformError, match=r"/dev/sev-guest: GET_EXT_REPORT: EMSGSIZE .*20480"):
        extended(world)


@pytest.mark.usefixtures("quick")
def test_a_busy_host_is_asked_again_and_nothing_else_is(short_tmp: Path) -> None:
    world = SnpWorld(root=short_tmp)
    world.device.busy = 3
    assert extended(world)[0][0x50:0x90] == DATA
    world.device.busy = 100
    with pytest.raises(PlatformError, match=r"EAGAIN .*VMM error 0x2"):
        extended(world)
    world.device.busy = 0
    world.device.fails = 0x16
    before = len(world.device.requests)
    with pytest.raises(PlatformError, match=r"GET_EXT_REPORT: EIO .*firmware error 0x16, VMM"):
        extended(world)
    assert len(world.device.requests) == before + 1
    with pytest.raises(PlatformError, match=r"ENOTTY .*the key to the security processor is lost"):
        extended(world)


def test_a_busy_host_is_left_when_there_is_no_time(short_tmp: Path) -> None:
    world = SnpWorld(root=short_tmp)
    world.device.busy = 100
    with pytest.raises(DeadlineError, match="GET_EXT_REPORT"):
        extended(world, seconds=0.1)


def test_what_the_firmware_refuses_is_named(short_tmp: Path) -> None:
    world = SnpWorld(root=short_tmp)
    names = {0x16: "EINVAL", 0x27: "EKEYREJECTED", 5: "EIO .status 0x5"}
    for status, name in names.items():
        world.device.status = status
        with pytest.raises(PlatformError, match=f"/dev/sev-guest: GET_EXT_REPORT: {name}"):
            extended(world)
    world.device.status = 0
    for size in (0, 1183, 4096):
        world.device.size = size
        with pytest.raises(PlatformError, match=f"EBADMSG .a report of {size} bytes"):
            extended(world)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EPERM, errno.EBUSY])
def test_every_failure_names_path_step_and_errno(short_tmp: Path, number: int) -> None:
    world = SnpWorld(root=short_tmp)
    name = errno.errorcode[number]
    world.machine.faults.append(Fault(path=sev_guest.NODE, call="ioctl", error=number))
    with pytest.raises(PlatformError, match=f"/dev/sev-guest: GET_EXT_REPORT: {name}"):
        extended(world)
    world.machine.faults[:] = [Fault(path=sev_guest.NODE, call="exists", error=number)]
    with pytest.raises(PlatformError, match=f"/dev/sev-guest: stat: {name}"):
        extended(world)
    with pytest.raises(UnsupportedError, match="does not exist"):
        extended(SnpWorld(root=short_tmp, has_device=False))


def test_pages_begin_at_a_page_and_hold_what_a_driver_puts_there() -> None:
    pages = Pages(5000)
    assert (pages.length, pages.address % 4096) == (8192, 0)
    pages.write(struct.pack("<I", 7), 4996)
    assert pages.read(8, 4992) == struct.pack("<II", 0, 7)
    assert Pages(0).length == 4096
