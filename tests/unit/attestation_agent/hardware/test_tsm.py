"""The report interface of configfs, on a tree with the kernel's semantics."""

import errno
from pathlib import Path

import pytest

from attestation_agent.hardware import tsm
from attestation_agent.hardware.steps import Steps
from attestation_agent.hardware.tsm import TsmReports, find_provider, remove_leftovers
from guest.deadline import Deadline
from guest.errors import DeadlineError, PlatformError, UnsupportedError
from guest_simulator.tdx.guest import Fault, TdxGuest
from support.tdx_world import make_guest

DATA = bytes(range(48)) + bytes(16)


def report(guest: TdxGuest, data: bytes = DATA, *, seconds: float = 30.0) -> bytes:
    root = guest.root + tsm.REPORTS
    deadline = Deadline.after(seconds)
    return TsmReports(root, "tdx_guest", guest).report(data, Steps(), deadline)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once."""
    monkeypatch.setattr(tsm, "RETRY_PAUSE", 0.001)


@pytest.mark.spec("attesters", 3)
def test_a_report_is_one_instance_written_once_read_checked_and_removed(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    quote = report(guest)
    assert quote[48 + 520 : 48 + 584] == DATA
    calls = [(call.call, call.path.rsplit("/", 1)[-1]) for call in guest.calls]
    instance = calls[1][1]
    assert calls == [
        ("exists", "report"),
        ("mkdir", instance),
        ("read", "provider"),
        ("write", "inblob"),
        ("read", "outblob"),
        ("read", "generation"),
        ("rmdir", instance),
    ]
    assert guest.calls[3].data == DATA
    assert guest.reports.names() == ()


@pytest.mark.spec("attesters", 4)
def test_another_provider_is_an_error_that_names_both_and_leaves_nothing(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    guest.reports.provider = "sev_guest"
    with pytest.raises(PlatformError, match="missing provider tdx_guest, found sev_guest"):
        report(guest)
    assert guest.reports.names() == ()


@pytest.mark.spec("attesters", 5)
@pytest.mark.parametrize("generation", [b"2\n", b"0\n", b"", b"-1\n", b"x"])
def test_a_generation_that_is_not_ours_is_a_conflict(short_tmp: Path, generation: bytes) -> None:
    guest = make_guest(short_tmp)
    guest.faults.append(Fault(path="/generation", call="read", content=generation))
    with pytest.raises(PlatformError, match=r"inblob write conflict .*expected 1"):
        report(guest)
    assert sum(call.call == "mkdir" for call in guest.calls) == tsm.MAX_RETRIES
    assert guest.reports.names() == ()


def test_a_disturbed_instance_is_given_up_for_another(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    guest.faults.append(Fault(path="/generation", call="read", content=b"2\n", times=1))
    assert report(guest)[48 + 520 : 48 + 584] == DATA
    assert guest.reports.names() == ()


@pytest.mark.spec("attesters", 7)
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("number", [errno.EBUSY, errno.EINTR])
def test_a_busy_report_is_asked_for_again_three_times(short_tmp: Path, number: int) -> None:
    guest = make_guest(short_tmp)
    fault = Fault(path="/outblob", call="read", error=number, times=3)
    guest.faults.append(fault)
    assert report(guest)
    fault.times = 4
    with pytest.raises(PlatformError, match=f"outblob: read: {errno.errorcode[number]} "):
        report(guest)
    timeout = Fault(path="/outblob", call="read", error=errno.ETIMEDOUT)
    guest.faults[:] = [timeout]
    with pytest.raises(PlatformError, match="outblob: read: ETIMEDOUT"):
        report(guest)
    assert timeout.times == -2
    assert guest.reports.names() == ()


def test_a_busy_report_is_not_waited_for_without_time(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    guest.faults.append(Fault(path="/outblob", call="read", error=errno.EBUSY))
    with pytest.raises(PlatformError, match="outblob: read: EBUSY"):
        report(guest, seconds=0.5)


def test_nobody_waiting_ends_the_attempts(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    guest.faults.append(Fault(path="/outblob", call="read", error=errno.EBUSY))
    steps = Steps()
    steps.given_up.set()
    reports = TsmReports(guest.root + tsm.REPORTS, "tdx_guest", guest)
    with pytest.raises(DeadlineError):
        reports.report(DATA, steps, Deadline.after(30))
    assert guest.reports.names() == ()


@pytest.mark.parametrize("step", ["provider", "outblob", "generation"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ENOENT, errno.ENXIO])
def test_a_read_that_fails_names_path_step_and_errno_and_leaves_nothing(
    short_tmp: Path, step: str, number: int
) -> None:
    guest = make_guest(short_tmp)
    guest.faults.append(Fault(path=f"/{step}", call="read", error=number))
    with pytest.raises(PlatformError, match=f"/{step}: read: {errno.errorcode[number]} "):
        report(guest)
    assert guest.reports.names() == ()


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EPERM, errno.ENOENT])
def test_an_interface_that_refuses_is_an_error_not_an_absence(short_tmp: Path, number: int) -> None:
    guest = make_guest(short_tmp)
    guest.faults.append(Fault(path="", call="mkdir", error=number))
    for attempt in (lambda: report(guest), lambda: find_provider(guest.root + tsm.REPORTS, guest)):
        with pytest.raises(PlatformError, match=f"mkdir: {errno.errorcode[number]} "):
            attempt()


def test_a_write_that_fails_or_is_short_is_an_error(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    guest.faults.append(Fault(path="/inblob", call="write", error=errno.EIO))
    with pytest.raises(PlatformError, match="inblob: write: EIO"):
        report(guest)

    class Short(TdxGuest):
        def write(self, path: str, data: bytes) -> int:
            return super().write(path, data) - 1

    with pytest.raises(PlatformError, match="took 63 bytes, expected 64"):
        report(Short(root=str(short_tmp), platform=guest.platform))


def test_the_kernels_own_limits_come_through(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    with pytest.raises(PlatformError, match="inblob: write: EFBIG"):
        report(guest, bytes(65))
    with pytest.raises(PlatformError, match="outblob: read: EINVAL"):
        report(guest, bytes(63))
    guest.transform = lambda _: bytes(guest.reports.max_outblob + 1)
    with pytest.raises(PlatformError, match="outblob: read: EFBIG"):
        report(guest)
    guest.reports.max_outblob = 16 * 1024 * 1024
    guest.transform = lambda _: bytes(tsm.MAX_REPORT_BYTES + 1)
    with pytest.raises(PlatformError, match="outblob: read: 1048577 bytes"):
        report(guest)
    guest.transform = lambda _: b""
    with pytest.raises(PlatformError, match="outblob: read: 0 bytes"):
        report(guest)


def test_without_interface_or_provider_there_is_none(short_tmp: Path) -> None:
    guest = make_guest(short_tmp, has_configfs=False)
    assert find_provider(guest.root + tsm.REPORTS, guest) is None
    with pytest.raises(UnsupportedError, match="Failed to access TSM Report path"):
        report(guest)
    guest.has_configfs = True
    guest.reports.provider = None
    assert find_provider(guest.root + tsm.REPORTS, guest) is None
    with pytest.raises(UnsupportedError, match="ENXIO"):
        report(guest)


def test_the_provider_is_read_and_the_instance_removed(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    assert find_provider(guest.root + tsm.REPORTS, guest) == "tdx_guest"
    guest.reports.provider = "sev_guest"
    assert find_provider(guest.root + tsm.REPORTS, guest) == "sev_guest"
    guest.faults.append(Fault(path="/provider", call="read", content=b"\n"))
    with pytest.raises(PlatformError, match="names no provider"):
        find_provider(guest.root + tsm.REPORTS, guest)
    assert guest.reports.names() == ()


def test_a_taken_name_is_passed_over(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    taken = Fault(path="", call="mkdir", error=errno.EEXIST, times=2)
    guest.faults.append(taken)
    assert report(guest)
    taken.times = 1000
    with pytest.raises(PlatformError, match="100 names are taken"):
        report(guest)


def test_an_instance_that_cannot_be_removed_does_not_cost_the_report(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    guest.faults.append(Fault(path="", call="rmdir", error=errno.EBUSY))
    assert report(guest)


def test_only_instances_of_dead_agents_are_removed(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    for name in ("aa-1-0", "aa-2-0", "aa-2-7", "com.intel.dcap", "aa-x-1"):
        guest.reports.make(name)
    root = guest.root + tsm.REPORTS
    assert remove_leftovers(root, guest, lambda pid: pid == 1) == 2
    assert guest.reports.names() == ("aa-1-0", "aa-x-1", "com.intel.dcap")
    guest.faults.append(Fault(path="", call="list", error=errno.EIO))
    assert remove_leftovers(root, guest, lambda _: False) == 0
    guest.has_configfs = False
    assert remove_leftovers(root, guest) == 0
