"""Evidence of accelerators: one report each, all or nothing."""

import errno
import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from attestation_agent.attesters import detect_devices
from attestation_agent.attesters.hygon_dcu import HygonDcuAttester
from guest.deadline import Deadline
from guest.errors import PlatformError
from guest.tee import Tee
from guest_simulator.hygon.dcu import PATH, Mkfd
from guest_simulator.tdx.guest import Fault
from support.hygon_world import DcuWorld


async def evidence_of(
    attester: HygonDcuAttester, data: bytes = b"abc", seconds: float = 30.0
) -> dict[str, Any]:
    value = await attester.evidence(data, Deadline.after(seconds))
    decoded: dict[str, Any] = json.loads(msgspec.json.encode(value))
    return decoded


async def test_every_accelerator_reports_and_processors_do_not(short_tmp: Path) -> None:
    evidence = await evidence_of(DcuWorld(root=short_tmp).attester())
    assert set(evidence) == {"attestation_reports"}
    reports = evidence["attestation_reports"]
    chips = [bytes(report["body"]["chip_id"]).rstrip(b"\0") for report in reports]
    assert chips == [b"DCU51234", b"DCU4711"]
    assert all(bytes(r["body"]["user_data"]) == b"abc" + bytes(61) for r in reports)


@pytest.mark.spec("attesters", 45)
async def test_report_data_of_80_bytes_is_cut_to_64_with_a_warning(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    attester = DcuWorld(root=short_tmp).attester()
    with caplog.at_level(logging.WARNING):
        evidence = await evidence_of(attester, bytes(range(80)))
    for report in evidence["attestation_reports"]:
        assert bytes(report["body"]["user_data"]) == bytes(range(64))
    assert caplog.records[-1].message == "DCU report data is cut"
    caplog.clear()
    await evidence_of(attester, bytes(64))
    assert not caplog.records


async def test_a_node_that_this_guest_may_not_see_is_left_out_and_a_broken_one_is_not(
    short_tmp: Path,
) -> None:
    for number in (errno.ENOENT, errno.EPERM, errno.EACCES):
        world = DcuWorld(root=short_tmp)
        world.machine.faults.append(Fault(path="/2/gpu_id", call="read", error=number))
        assert len((await evidence_of(world.attester()))["attestation_reports"]) == 1
    world.machine.faults[:] = [Fault(path="/2/gpu_id", call="read", error=errno.EIO)]
    with pytest.raises(PlatformError, match="nodes/2/gpu_id: read: EIO"):
        await evidence_of(world.attester())
    for content in (b"", b"x", b"-1", b"99999999999", b"\xff"):
        world.machine.faults[:] = [Fault(path="/2/gpu_id", call="read", content=content)]
        with pytest.raises(PlatformError, match="nodes/2/gpu_id: read: EBADMSG"):
            await evidence_of(world.attester())


async def test_without_an_accelerator_or_with_one_gone_there_is_no_evidence(
    short_tmp: Path,
) -> None:
    with pytest.raises(PlatformError, match=r"mkfd: list: ENODEV .there is no accelerator"):
        await evidence_of(DcuWorld(root=short_tmp / "none", ids=(0, 0)).attester())
    with pytest.raises(PlatformError, match="nodes: list: ENOENT"):
        await evidence_of(DcuWorld(root=short_tmp / "empty", ids=()).attester())
    world = DcuWorld(root=short_tmp / "two")
    attester = world.attester()  # there when the agent started, and never seen since
    world.machine.faults.append(Fault(path="/2/gpu_id", call="read", error=errno.ENOENT))
    with pytest.raises(PlatformError, match=r"ENODEV .accelerator 4711 is gone"):
        await evidence_of(attester)
    lost = DcuWorld(root=short_tmp / "lost", device=Mkfd(accelerators=(51234,)))
    with pytest.raises(PlatformError, match="/dev/mkfd: ATTEST 4711: ENODEV"):
        await evidence_of(lost.attester())


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EBUSY, errno.ENOENT])
async def test_every_failure_of_the_device_is_named(short_tmp: Path, number: int) -> None:
    world = DcuWorld(root=short_tmp)
    world.machine.faults.append(Fault(path=PATH, call="ioctl", error=number))
    with pytest.raises(PlatformError, match=f"mkfd: ATTEST 51234: {errno.errorcode[number]}"):
        await evidence_of(world.attester())


GARBAGE: dict[str, Callable[[bytes], bytes]] = {
    "zeros": lambda page: bytes(4096),
    "other data": lambda page: page[:52] + bytes(64) + page[116:],
    "length": lambda page: b"\xff" * 4 + page[4:],
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_what_is_no_report_over_our_data_never_leaves(short_tmp: Path, name: str) -> None:
    world = DcuWorld(root=short_tmp, device=Mkfd(transform=GARBAGE[name]))
    with pytest.raises(PlatformError, match="/dev/mkfd: ATTEST 51234: EBADMSG"):
        await evidence_of(world.attester())
    broken = DcuWorld(root=short_tmp, device=Mkfd(firmware_error=0x2A))
    with pytest.raises(PlatformError, match=r"ATTEST 51234: EIO .firmware error 0x2a"):
        await evidence_of(broken.attester())


async def test_a_device_that_hangs_is_named_when_time_runs_out(short_tmp: Path) -> None:
    world = DcuWorld(root=short_tmp)
    release = threading.Event()
    world.machine.faults.append(Fault(path=PATH, call="ioctl", block=release, times=1))
    with pytest.raises(PlatformError, match="/dev/mkfd: ATTEST 51234: ETIMEDOUT"):
        await evidence_of(world.attester(), seconds=1.0)
    release.set()


def test_detection_wants_the_device_and_nodes_and_opens_no_device(short_tmp: Path) -> None:
    world = DcuWorld(root=short_tmp / "a")
    assert [device.tee for device in detect_devices(world.hints())] == [Tee.HYGON_DCU]
    assert {call.call for call in world.machine.calls} <= {"exists", "list", "read"}
    reads = [call.path for call in world.machine.calls if call.call == "read"]
    assert all(path.endswith("/gpu_id") for path in reads)
    bare = DcuWorld(root=short_tmp / "b", ids=())
    assert detect_devices(bare.hints()) == ()
    (short_tmp / "b/sys/devices/virtual/kfd/kfd/topology/nodes").mkdir(parents=True)
    assert detect_devices(bare.hints()) == ()
    world.machine.devices.clear()
    assert detect_devices(world.hints()) == ()
    world.machine.faults.append(Fault(path=PATH, call="exists", error=errno.EACCES))
    with pytest.raises(PlatformError, match="/dev/mkfd: stat: EACCES"):
        detect_devices(world.hints())


async def test_a_topology_without_end_is_refused(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = DcuWorld(root=short_tmp)
    names = [str(number) for number in range(1025)]
    monkeypatch.setattr(world.machine, "list_names", lambda _: names)
    with pytest.raises(PlatformError, match=r"nodes: list: E2BIG .1025 nodes"):
        await evidence_of(world.attester())
