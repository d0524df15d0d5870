"""Evidence of an SNP guest: bound, whole, verified by an independent parser."""

import asyncio
import errno
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from attestation_agent.attesters import detect
from attestation_agent.attesters.snp import SnpAttester
from guest.deadline import Deadline
from guest.errors import IntegrityError, InvalidInputError, PlatformError
from guest.tee import Tee
from guest_simulator.snp.chip import Launch, table_of
from guest_simulator.tdx.guest import Fault
from support.snp_world import SnpWorld, chip, verify

DATA = hashlib.sha384(b"runtime data").digest()


async def evidence_of(
    attester: SnpAttester, data: bytes = DATA, deadline: Deadline | None = None
) -> dict[str, Any]:
    value = await attester.evidence(data, deadline or Deadline.after(30))
    decoded: dict[str, Any] = json.loads(msgspec.json.encode(value))
    return decoded


INTERFACES = pytest.mark.parametrize("has_configfs", [True, False], ids=["configfs", "ioctl"])


@INTERFACES
@pytest.mark.parametrize("name", ["Milan", "Genoa", "Turin"])
@pytest.mark.parametrize("version", [3, 5])
async def test_evidence_verifies_with_an_independent_parser_and_binds_the_report_data(
    short_tmp: Path, has_configfs: bool, name: str, version: int
) -> None:
    world = SnpWorld(
        root=short_tmp,
        chip=chip(name),
        launch=Launch(version=version),
        has_configfs=has_configfs,
        table=chip(name).table("ASK", "VCEK", "ARK"),
    )
    evidence = await evidence_of(world.attester())
    assert set(evidence) == {"attestation_report", "cert_chain"}
    report = verify(evidence, world.chip)
    assert report[0x50:0x90] == DATA + bytes(16)
    assert [entry["cert_type"] for entry in evidence["cert_chain"]] == ["ARK", "VCEK", "ASK"]
    assert evidence == await evidence_of(world.attester()) | {
        "attestation_report": evidence["attestation_report"]
    }


async def test_configfs_is_preferred_and_the_other_interface_is_told_of(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = SnpWorld(root=short_tmp)
    await evidence_of(world.attester())
    assert world.device.requests == []
    assert [call.data for call in world.machine.calls if call.call == "write"] == [DATA + bytes(16)]
    world.machine.reports = None
    with caplog.at_level(logging.WARNING):
        await evidence_of(world.attester())
    assert world.device.requests == [DATA + bytes(16)]
    assert "Failed to access TSM Report path" in vars(caplog.records[-1])["not_used"]
    bare = SnpWorld(root=short_tmp, has_configfs=False, has_device=False)
    with pytest.raises(PlatformError, match=r"no source of SNP reports: configfs: .*; ioctl: "):
        await evidence_of(bare.attester())


async def test_an_interface_that_is_there_and_fails_is_no_reason_for_the_other(
    short_tmp: Path,
) -> None:
    world = SnpWorld(root=short_tmp)
    world.reports.provider = "tdx_guest"
    with pytest.raises(PlatformError, match="missing provider sev_guest, found tdx_guest"):
        await evidence_of(world.attester())
    assert world.device.requests == []
    assert world.reports.names() == ()


@pytest.mark.spec("attesters", 25)
@INTERFACES
async def test_a_table_without_the_chips_own_certificate_or_none_gives_null(
    short_tmp: Path, has_configfs: bool
) -> None:
    world = SnpWorld(root=short_tmp, has_configfs=has_configfs)
    assert (await evidence_of(world.attester()))["cert_chain"] is None
    world.table = chip().table("ARK", "ASK")
    evidence = await evidence_of(world.attester())
    assert evidence["cert_chain"] is None
    verify(evidence, world.chip)
    # One call was told INVALID_LEN and the length, the next had the room.
    assert len(world.device.requests) == (0 if has_configfs else 3)
    world.table = table_of([(bytes(range(16)), b"x" * 5000)]) + bytes(24)
    assert (await evidence_of(world.attester()))["cert_chain"] is None


@pytest.mark.spec("attesters", 8)
async def test_report_data_of_65_bytes_is_refused(short_tmp: Path) -> None:
    attester = SnpWorld(root=short_tmp).attester()
    await evidence_of(attester, bytes(64))
    await evidence_of(attester, b"")
    with pytest.raises(
        InvalidInputError, match=r"^SNP Attester: Report data must be no more than 64 bytes$"
    ):
        await attester.evidence(bytes(65), Deadline.after(5))


@pytest.mark.spec("attestation-agent", 40)
@INTERFACES
async def test_init_data_is_compared_with_hostdata_cut_or_padded(
    short_tmp: Path, has_configfs: bool
) -> None:
    # The TDX half of the check is in test_tdx.
    world = SnpWorld(root=short_tmp, has_configfs=has_configfs)
    attester = world.attester()
    for length in (32, 48, 64):
        digest = bytes(range(1, length + 1))
        world.launch.host_data = bytes(32)
        with pytest.raises(IntegrityError, match=r"^HOSTDATA does not match\.$"):
            await attester.init_data.bind(digest, Deadline.after(5))
        world.launch.host_data = digest[:32]
        await attester.init_data.bind(digest, Deadline.after(5))
    if not has_configfs:
        assert set(world.device.requests) == {bytes(64)}


async def test_init_data_that_cannot_be_compared_is_refused(short_tmp: Path) -> None:
    world = SnpWorld(root=short_tmp)
    world.machine.faults.append(Fault(path="/outblob", call="read", error=errno.EIO))
    with pytest.raises(PlatformError, match="outblob: read: EIO"):
        await world.attester().init_data.bind(bytes(32), Deadline.after(5))


GARBAGE: dict[str, Callable[[bytes], bytes]] = {
    "short": lambda report: report[:1183],
    "long": lambda report: report + b"\0",
    "zeros": lambda report: bytes(1184),
    "version": lambda report: b"\6" + report[1:],
    "reserved": lambda report: report[:0x29F] + b"\1" + report[0x2A0:],
    "processor": lambda report: report[:0x188] + b"\0\0" + report[0x18A:],
    "other report data": lambda report: report[:0x50] + bytes(64) + report[0x90:],
}


@INTERFACES
@pytest.mark.parametrize("name", GARBAGE)
async def test_what_is_no_report_over_our_data_never_leaves(
    short_tmp: Path, name: str, has_configfs: bool
) -> None:
    world = SnpWorld(root=short_tmp, has_configfs=has_configfs, transform=GARBAGE[name])
    if name in ("short", "long") and not has_configfs:
        return  # the ioctl's response has a fixed length
    with pytest.raises(PlatformError, match=r"SNP report by .*: read: EBADMSG"):
        await evidence_of(world.attester())


@INTERFACES
@pytest.mark.parametrize("table", [b"\1" * 100, b"\1" * 20 + b"\xff" * 4], ids=["ones", "length"])
async def test_a_table_that_is_none_is_an_error(
    short_tmp: Path, table: bytes, has_configfs: bool
) -> None:
    world = SnpWorld(root=short_tmp, has_configfs=has_configfs, table=table)
    with pytest.raises(PlatformError, match=r"EBADMSG .certificate table"):
        await evidence_of(world.attester())


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EPERM, errno.EFBIG])
@pytest.mark.parametrize(
    ("file", "call"),
    [("provider", "read"), ("inblob", "write"), ("outblob", "read"), ("auxblob", "read"),
     ("generation", "read")],
)  # fmt: skip
async def test_every_file_that_fails_is_named(
    short_tmp: Path, file: str, call: str, number: int
) -> None:
    world = SnpWorld(root=short_tmp)
    world.machine.faults.append(Fault(path=f"/{file}", call=call, error=number))
    with pytest.raises(PlatformError, match=f"/{file}: {call}: {errno.errorcode[number]}"):
        await evidence_of(world.attester())
    assert world.reports.names() == ()


@INTERFACES
async def test_a_device_that_hangs_is_named_when_time_runs_out(
    short_tmp: Path, has_configfs: bool
) -> None:
    world = SnpWorld(root=short_tmp, has_configfs=has_configfs)
    release = threading.Event()
    path, call = ("/outblob", "read") if has_configfs else ("/dev/sev-guest", "ioctl")
    world.machine.faults.append(Fault(path=path, call=call, block=release, times=1))
    with pytest.raises(PlatformError, match=f"{path}: .*: ETIMEDOUT"):
        await evidence_of(world.attester(), deadline=Deadline.after(1.0))
    release.set()


@pytest.mark.spec("attesters", 47)
@INTERFACES
async def test_a_slow_device_blocks_nobody_and_each_caller_gets_its_own(
    short_tmp: Path, has_configfs: bool
) -> None:
    world = SnpWorld(root=short_tmp, has_configfs=has_configfs, seconds=0.02)
    attester = world.attester()
    data = [hashlib.sha384(bytes((n,))).digest() for n in range(10)]
    worst = 0.0
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(evidence_of(attester, each)) for each in data]
        while not all(task.done() for task in tasks):
            before = time.thread_time()
            await asyncio.sleep(0.001)
            worst = max(worst, time.thread_time() - before)
    for each, task in zip(data, tasks, strict=True):
        assert verify(task.result(), world.chip)[0x50:0x90] == each + bytes(16)
    assert worst < 0.5


def test_detection_opens_no_device_where_a_name_is_enough(short_tmp: Path) -> None:
    world = SnpWorld(root=short_tmp, has_configfs=False)
    assert detect(world.hints()).tee is Tee.SNP
    assert {call.call for call in world.machine.calls} <= {"exists", "list"}
    only_configfs = SnpWorld(root=short_tmp, has_device=False)
    assert detect(only_configfs.hints()).tee is Tee.SNP
    assert only_configfs.reports.names() == ()
    (short_tmp / "sys/devices/platform/sev-guest").mkdir(parents=True)
    bare = SnpWorld(root=short_tmp, has_configfs=False, has_device=False)
    assert detect(bare.hints()).tee is Tee.SNP


def test_a_mark_that_cannot_be_looked_at_is_an_error(short_tmp: Path) -> None:
    world = SnpWorld(root=short_tmp)
    world.machine.faults.append(Fault(path="/sev-guest", call="exists", error=errno.EACCES))
    with pytest.raises(PlatformError, match="sev-guest: stat: EACCES"):
        detect(world.hints())


async def test_a_guest_measures_nothing(short_tmp: Path) -> None:
    assert SnpWorld(root=short_tmp).attester().registers is None


async def test_a_failure_of_the_second_choice_says_why_it_was_used(short_tmp: Path) -> None:
    world = SnpWorld(root=short_tmp, has_configfs=False)
    world.device.fails = 0x16
    with pytest.raises(
        PlatformError, match=r"GET_EXT_REPORT: EIO .*, by ioctl because of configfs: Failed to"
    ):
        await evidence_of(world.attester())
