"""Evidence of an enclave under Gramine and under Occlum."""

import asyncio
import base64
import errno
import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from attestation_agent.attesters import detect
from attestation_agent.attesters.sgx import SgxAttester
from guest.deadline import Deadline
from guest.errors import InvalidInputError, PlatformError
from guest.tee import Tee
from guest_simulator.sgx.enclave import OCCLUM, QUOTE, USER_REPORT_DATA
from guest_simulator.tdx.guest import Fault
from support.sgx_world import SgxWorld, verify_quote

DATA = hashlib.sha384(b"runtime data").digest()
SYSTEMS = pytest.mark.parametrize("is_occlum", [False, True], ids=["gramine", "occlum"])


async def quote_of(attester: SgxAttester, data: bytes = DATA, seconds: float = 30.0) -> bytes:
    value = await attester.evidence(data, Deadline.after(seconds))
    evidence = msgspec.convert(value, dict[str, str])
    assert set(evidence) == {"quote"}
    return base64.b64decode(evidence["quote"], validate=True)


@SYSTEMS
async def test_evidence_is_a_quote_that_an_independent_parser_accepts(
    short_tmp: Path, is_occlum: bool
) -> None:
    world = SgxWorld(root=short_tmp, is_occlum=is_occlum)
    quote = await quote_of(world.attester())
    assert verify_quote(quote, world.enclave.platform.root) == DATA + bytes(16)


@pytest.mark.spec("attesters", 8)
async def test_report_data_of_65_bytes_is_refused(short_tmp: Path) -> None:
    attester = SgxWorld(root=short_tmp).attester()
    await quote_of(attester, bytes(64))
    await quote_of(attester, b"")
    with pytest.raises(
        InvalidInputError, match=r"^SGX Attester: Report data should be SHA384 base64 String$"
    ):
        await attester.evidence(bytes(65), Deadline.after(5))


async def test_gramines_files_are_written_then_read(short_tmp: Path) -> None:
    world = SgxWorld(root=short_tmp)
    await quote_of(world.attester())
    calls = [(call.call, call.path, call.data) for call in world.machine.calls]
    assert calls == [("write", USER_REPORT_DATA, DATA + bytes(16)), ("read", QUOTE, b"")]


async def test_a_quote_over_what_another_wrote_meanwhile_never_leaves(short_tmp: Path) -> None:
    world = SgxWorld(root=short_tmp)
    attester = world.attester()
    release = threading.Event()
    world.machine.faults.append(Fault(path=QUOTE, call="read", block=release, times=1))

    async def disturb() -> None:
        while not any(call.path == QUOTE for call in world.machine.calls):
            await asyncio.sleep(0.001)
        world.report_data.write(bytes(64))
        release.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(disturb())
        with pytest.raises(PlatformError, match=r"EBADMSG .the quote binds other report data"):
            await quote_of(attester)


GARBAGE: dict[str, Callable[[bytes], bytes]] = {
    "short": lambda quote: quote[:400],
    "version": lambda quote: b"\4" + quote[1:],
    "trailing": lambda quote: quote + b"\1",
    "other report data": lambda quote: quote[:368] + bytes(64) + quote[432:],
}


@SYSTEMS
@pytest.mark.parametrize("name", GARBAGE)
async def test_what_is_no_quote_over_our_data_never_leaves(
    short_tmp: Path, name: str, is_occlum: bool
) -> None:
    world = SgxWorld(root=short_tmp, is_occlum=is_occlum)
    world.enclave.transform = GARBAGE[name]
    step = "/dev/sgx: GEN_DCAP_QUOTE" if is_occlum else "/dev/attestation/quote: read"
    with pytest.raises(PlatformError, match=f"{step}: EBADMSG"):
        await quote_of(world.attester())


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EBUSY, errno.ENOENT])
async def test_every_failure_is_named(short_tmp: Path, number: int) -> None:
    name = errno.errorcode[number]
    for path, call in ((USER_REPORT_DATA, "write"), (QUOTE, "read")):
        world = SgxWorld(root=short_tmp)
        world.machine.faults.append(Fault(path=path, call=call, error=number))
        with pytest.raises(PlatformError, match=f"{path}: {call}: {name}"):
            await quote_of(world.attester())
    world = SgxWorld(root=short_tmp, is_occlum=True)
    world.machine.faults.append(Fault(path=OCCLUM, call="ioctl", error=number, times=1))
    with pytest.raises(PlatformError, match=f"/dev/sgx: GET_DCAP_QUOTE_SIZE: {name}"):
        await quote_of(world.attester())


async def test_lengths_that_cannot_be_are_refused(short_tmp: Path) -> None:
    world = SgxWorld(root=short_tmp, is_occlum=True)
    for room in (0, 65537, 2**32 - 1):
        world.occlum.room = room
        with pytest.raises(PlatformError, match=f"GET_DCAP_QUOTE_SIZE: EMSGSIZE .{room} bytes"):
            await quote_of(world.attester())
    world.occlum.room = None
    for told in (0, 2**32 - 1):
        world.occlum.told = told
        with pytest.raises(PlatformError, match=f"GEN_DCAP_QUOTE: EMSGSIZE .{told} bytes"):
            await quote_of(world.attester())
    gramine = SgxWorld(root=short_tmp)
    gramine.enclave.transform = lambda quote: quote.ljust(70000, b"\0")
    with pytest.raises(PlatformError, match=r"quote: read: EBADMSG .*at most 65536"):
        await quote_of(gramine.attester())


@SYSTEMS
async def test_a_device_that_hangs_is_named_when_time_runs_out(
    short_tmp: Path, is_occlum: bool
) -> None:
    world = SgxWorld(root=short_tmp, is_occlum=is_occlum)
    release = threading.Event()
    path, call = (OCCLUM, "ioctl") if is_occlum else (QUOTE, "read")
    world.machine.faults.append(Fault(path=path, call=call, block=release, times=1))
    with pytest.raises(PlatformError, match=f"{path}: .*: ETIMEDOUT"):
        await quote_of(world.attester(), seconds=1.0)
    release.set()


@pytest.mark.spec("attesters", 47)
@SYSTEMS
async def test_a_slow_device_blocks_nobody_and_each_caller_gets_its_own(
    short_tmp: Path, is_occlum: bool
) -> None:
    world = SgxWorld(root=short_tmp, is_occlum=is_occlum)
    world.enclave.seconds = 0.01
    attester = world.attester()
    data = [hashlib.sha384(bytes((n,))).digest() for n in range(8)]
    worst = 0.0
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(quote_of(attester, each)) for each in data]
        while not all(task.done() for task in tasks):
            before = time.thread_time()
            await asyncio.sleep(0.001)
            worst = max(worst, time.thread_time() - before)
    for each, task in zip(data, tasks, strict=True):
        assert verify_quote(task.result(), world.enclave.platform.root) == each + bytes(16)
    assert worst < 0.5


def test_detection_and_the_system_that_is_used(short_tmp: Path) -> None:
    for is_occlum in (False, True):
        world = SgxWorld(root=short_tmp / str(is_occlum), is_occlum=is_occlum)
        assert detect(world.hints()).tee is Tee.SGX
        assert {call.call for call in world.machine.calls} <= {"exists", "list"}


async def test_report_data_that_is_taken_in_part_is_an_error(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = SgxWorld(root=short_tmp)
    monkeypatch.setattr(world.report_data, "write", lambda _: 63)
    with pytest.raises(PlatformError, match="user_report_data: write: took 63 bytes, expected 64"):
        await quote_of(world.attester())
