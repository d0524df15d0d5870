"""Tokens of a realm: bound to the report data, numbers in JSON."""

import asyncio
import errno
import json
import threading
from pathlib import Path

import msgspec
import pytest

from attestation_agent.attesters import detect
from attestation_agent.attesters.base import TeeHints
from attestation_agent.attesters.cca import open_cca
from guest.deadline import Deadline
from guest.errors import InvalidInputError, PlatformError
from guest.tee import Tee
from guest_simulator.devices.realm import Realm
from guest_simulator.machine import Machine
from guest_simulator.tdx.guest import Fault
from guest_simulator.tdx.tsm import TsmReports

REALM = Realm()


def soon() -> Deadline:
    return Deadline.after(30)


def machine(root: Path) -> tuple[Machine, TeeHints]:
    kernel = REALM.kernel(str(root))
    return kernel, TeeHints(root=str(root), kernel=kernel, machine="aarch64")


async def test_evidence_is_an_array_of_numbers_that_binds_the_padded_report_data(
    short_tmp: Path,
) -> None:
    kernel, hints = machine(short_tmp)
    evidence = json.loads(msgspec.json.encode(await open_cca(hints).evidence(b"\7" * 48, soon())))
    assert set(evidence) == {"token"}
    assert all(type(number) is int and 0 <= number <= 255 for number in evidence["token"])
    token = bytes(evidence["token"])
    assert b"\x0a\x58\x40" + b"\7" * 48 + bytes(16) in token
    written = [call.data for call in kernel.calls if call.call == "write"]
    assert written == [b"\7" * 48 + bytes(16)]
    assert kernel.reports is not None
    assert kernel.reports.names() == ()


async def test_report_data_of_65_bytes_is_refused_before_the_device_is_asked(
    short_tmp: Path,
) -> None:
    kernel, hints = machine(short_tmp)
    attester = open_cca(hints)
    await attester.evidence(bytes(64), soon())
    kernel.calls.clear()
    with pytest.raises(InvalidInputError) as caught:
        await attester.evidence(bytes(65), soon())
    assert str(caught.value) == "CCA Attester: Challenge size must be 64 bytes or less."
    assert kernel.calls == []


async def test_a_token_over_other_report_data_is_never_evidence(short_tmp: Path) -> None:
    _, hints = machine(short_tmp)
    reports = TsmReports(lambda _: REALM.token(bytes(64)), provider="arm_cca_guest")
    hints = TeeHints(root=str(short_tmp), kernel=Machine(root=str(short_tmp), reports=reports))
    with pytest.raises(PlatformError, match=r"read: EBADMSG .the token binds other report data"):
        await open_cca(hints).evidence(b"\1", soon())


async def test_a_provider_that_is_gone_is_a_failure_of_the_platform(short_tmp: Path) -> None:
    kernel, hints = machine(short_tmp)
    attester = open_cca(hints)
    assert kernel.reports is not None
    kernel.reports.provider = None
    with pytest.raises(PlatformError, match=r"mkdir: ENXIO"):
        await attester.evidence(b"", soon())


async def test_a_device_that_hangs_keeps_nobody_else_waiting(short_tmp: Path) -> None:
    kernel, hints = machine(short_tmp)
    attester = open_cca(hints)
    release = threading.Event()
    kernel.faults.append(Fault(path="/outblob", call="read", block=release, times=1))
    with pytest.raises(PlatformError, match=r"outblob: read: ETIMEDOUT"):
        await attester.evidence(b"", Deadline.after(0.3))
    release.set()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(attester.evidence(bytes((n,)), soon())) for n in range(5)]
    tokens = [msgspec.convert(task.result(), dict[str, list[int]])["token"] for task in tasks]
    assert len({bytes(token) for token in tokens}) == 5


def test_detection_needs_machine_and_provider(short_tmp: Path) -> None:
    _, hints = machine(short_tmp)
    attester = detect(hints)
    assert attester.tee is Tee.CCA
    assert attester.registers is None
    assert attester.init_data is None
    other = TeeHints(root=hints.root, kernel=hints.kernel, machine="x86_64")
    assert detect(other).tee is Tee.SAMPLE
    assert hints.kernel is not None
    broken = Machine(root=hints.root, reports=TsmReports(bytes, provider="arm_cca_guest"))
    broken.faults.append(Fault(path="/provider", call="read", error=errno.EIO))
    with pytest.raises(PlatformError, match=r"provider: read: EIO"):
        detect(TeeHints(root=hints.root, kernel=broken, machine="aarch64"))
