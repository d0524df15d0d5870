"""The simulated kernel of a TDX guest as real files, and the attester on them."""

import asyncio
import base64
import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from attestation_agent.attesters import detect
from attestation_agent.attesters.base import TeeHints
from attestation_agent.attesters.tdx import TdxAttester, open_tdx
from attestation_agent.eventlog.files import LogFiles
from attestation_agent.eventlog.journal import Journal
from attestation_agent.hardware.calls import KernelCalls
from attestation_agent.hardware.kernel import KERNEL
from attestation_agent.hardware.steps import Steps
from attestation_agent.hardware.tdx_device import TdxDevice
from guest.deadline import Deadline
from guest.errors import IntegrityError, PlatformError, UnsupportedError
from guest.tee import Tee
from guest_simulator.tdx.ccel import BOOT, area_of, digest_of, log_of
from guest_simulator.tdx.guest import MEASUREMENTS, REPORTS
from guest_simulator.tdx.mounted import MountedGuest, is_mounted, mounted
from guest_simulator.tdx.tsm import MAX_NEWER_OUTBLOB
from support.tdx_world import make_guest, parse_quote, replay_log

pytestmark = pytest.mark.fuse

MIB = 1024 * 1024


def soon() -> Deadline:
    return Deadline.after(30)


@pytest.fixture
def guest(short_tmp: Path) -> Iterator[MountedGuest]:
    with mounted(short_tmp) as made:
        yield made
    assert not is_mounted(short_tmp / "sys")


def attester_on(guest: MountedGuest) -> TdxAttester:
    return open_tdx(TeeHints(root=str(guest.root)))


async def evidence_of(attester: TdxAttester, data: bytes = b"data") -> dict[str, bytes]:
    value = await attester.evidence(data, soon())
    texts = msgspec.convert(value, dict[str, str | None])
    return {name: base64.b64decode(text) for name, text in texts.items() if text is not None}


def instance_of(guest: MountedGuest, name: str = "x") -> Path:
    path = Path(f"{guest.root}{REPORTS}/{name}")
    path.mkdir()
    return path


async def test_firmwares_and_own_events_explain_a_quote_that_came_through_real_files(
    guest: MountedGuest,
) -> None:
    for event in BOOT:
        guest.order(extend=[event.register - 1, digest_of(event).hex()])
    guest.order(ccel=area_of(log_of(BOOT)).hex())
    attester = attester_on(guest)
    assert attester.registers is not None
    files = LogFiles(f"{guest.root}/run/attestation-agent")
    journal = Journal(attester.registers, files, default_register=17)
    await journal.open()
    await journal.append("domain", "operation", "content", None, soon())
    await journal.append("domain", "operation", "content", 9, soon())
    found = await evidence_of(attester)
    state = guest.order()
    parsed = parse_quote(found["quote"], state["root"].encode())
    assert parsed.report_data == b"data".ljust(64, b"\0")
    assert [value.hex() for value in parsed.registers] == state["registers"]
    replayed = replay_log(found["cc_eventlog"])
    assert [replayed[index] for index in (1, 2, 3, 4)] == list(parsed.registers)
    assert state["instances"] == []


async def test_detection_finds_the_provider_where_no_device_is_named(guest: MountedGuest) -> None:
    (guest.root / "dev" / "tdx_guest").unlink()
    attester = detect(TeeHints(root=str(guest.root)))
    assert attester.tee is Tee.TDX
    assert isinstance(attester, TdxAttester)
    assert (await evidence_of(attester))["quote"]
    guest.order(provider=None)
    assert detect(TeeHints(root=str(guest.root))).tee is Tee.SAMPLE
    assert guest.order()["instances"] == []


async def test_init_data_is_what_the_mounted_mrconfigid_says(guest: MountedGuest) -> None:
    attester = attester_on(guest)
    with pytest.raises(IntegrityError, match=r"^Init data does not match!$"):
        await attester.init_data.bind(b"\x01" * 48, soon())
    guest.order(config_id="01" * 48)
    await attester.init_data.bind(b"\x01" * 64, soon())


def test_the_device_gives_reports_through_a_real_ioctl(guest: MountedGuest) -> None:
    device = TdxDevice(f"{guest.root}/dev/tdx_guest", KERNEL)
    data = bytes(range(64))
    report = device.report(data, Steps())
    assert report.report_data == data
    assert report.hashes_match
    with pytest.raises(UnsupportedError):
        device.extend(3, bytes(48), Steps())


def test_a_report_is_made_once_for_what_was_closed_last_and_counted(guest: MountedGuest) -> None:
    path = instance_of(guest)
    assert (path / "generation").read_bytes() == b"0\n"
    handle = os.open(path / "inblob", os.O_WRONLY)
    assert os.write(handle, b"a" * 32) == 32
    assert os.write(handle, b"b" * 32) == 32
    assert (path / "generation").read_bytes() == b"0\n"
    os.close(handle)
    assert (path / "generation").read_bytes() == b"1\n"
    first = (path / "outblob").read_bytes()
    assert first[568:632] == b"a" * 32 + b"b" * 32
    assert (path / "outblob").read_bytes() == first
    (path / "inblob").write_bytes(b"c" * 64)
    assert (path / "generation").read_bytes() == b"2\n"
    assert (path / "outblob").read_bytes()[568:632] == b"c" * 64
    path.rmdir()


def test_a_wrapped_counter_takes_no_write_and_the_kernel_does_not_say_so(short_tmp: Path) -> None:
    with mounted(short_tmp, counter_bits=2) as guest:
        path = instance_of(guest)
        for _ in range(5):
            (path / "inblob").write_bytes(b"a" * 64)
        assert (path / "generation").read_bytes() == b"3\n"
        assert (path / "outblob").read_bytes()
        (path / "inblob").write_bytes(b"b" * 64)
        assert (path / "generation").read_bytes() == b"0\n"
        assert (path / "outblob").read_bytes()[568:632] == b"b" * 64


async def test_blobs_of_32_kib_and_16_mib_have_their_kernels_limits(guest: MountedGuest) -> None:
    attester = attester_on(guest)
    path = instance_of(guest)
    (path / "inblob").write_bytes(bytes(64))
    guest.order(pad=32 * 1024)
    assert len((await evidence_of(attester))["quote"]) == 32 * 1024
    guest.order(pad=32 * 1024 + 1)
    with pytest.raises(PlatformError, match=r"outblob: read: EFBIG"):
        await evidence_of(attester)
    guest.order(max_outblob=MAX_NEWER_OUTBLOB, pad=MIB)
    assert len((await evidence_of(attester))["quote"]) == MIB
    guest.order(pad=MAX_NEWER_OUTBLOB)
    assert len((path / "outblob").read_bytes()) == MAX_NEWER_OUTBLOB
    with pytest.raises(PlatformError, match=r"outblob: read: 1048577 bytes"):
        await evidence_of(attester)
    path.rmdir()
    assert guest.order()["instances"] == []


async def test_callers_of_a_slow_device_get_their_own_and_the_loop_is_free(
    guest: MountedGuest,
) -> None:
    guest.order(quote_seconds=0.05)
    attester = attester_on(guest)
    worst = 0.0
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(evidence_of(attester, bytes((n,)))) for n in range(8)]
        while not all(task.done() for task in tasks):
            before = time.thread_time()
            await asyncio.sleep(0.001)
            worst = max(worst, time.thread_time() - before)
    for number, task in enumerate(tasks):
        assert task.result()["quote"][568:632] == bytes((number,)).ljust(64, b"\0")
    assert worst < 0.5


async def test_a_device_that_is_slower_than_the_deadline_and_then_disappears_is_named(
    guest: MountedGuest,
) -> None:
    guest.order(quote_seconds=60)
    attester = attester_on(guest)
    with pytest.raises(PlatformError, match=r"/outblob: read: ETIMEDOUT"):
        await attester.evidence(b"late", Deadline.after(0.3))
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(failure_of(attester))
        await asyncio.sleep(0)
        guest.vanish()
    error = waiting.result()
    assert isinstance(error, PlatformError)
    assert str(guest.root) in str(error)
    with pytest.raises(PlatformError, match=str(guest.root)):
        await attester.evidence(b"gone", soon())


async def failure_of(attester: TdxAttester) -> BaseException | None:
    try:
        await attester.evidence(b"data", soon())
    except PlatformError as error:
        return error
    return None


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gave, or the errno it failed with; quotes by what they bind."""
    try:
        result = call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return result[568:632] if isinstance(result, bytes) and len(result) > 632 else result


def script(root: str, kernel: KernelCalls) -> list[Any]:
    """Calls of all kinds, right and wrong ones."""
    x, rtmr = f"{root}{REPORTS}/x", f"{root}{MEASUREMENTS}/rtmr3:sha384"
    calls: list[Callable[[], Any]] = [
        lambda: kernel.exists(x),
        lambda: kernel.make_directory(x),
        lambda: kernel.make_directory(x),
        lambda: kernel.exists(x),
        lambda: list(kernel.list_names(f"{root}{REPORTS}")),
        lambda: kernel.read(f"{x}/provider", 99),
        lambda: kernel.read(f"{x}/outblob", 9999),
        lambda: kernel.read(f"{x}/inblob", 99),
        lambda: kernel.read(f"{x}/auxblob", 99),
        lambda: kernel.write(f"{x}/outblob", b"x"),
        lambda: kernel.write(f"{x}/privlevel", b"0"),
        lambda: kernel.write(f"{x}/inblob", bytes(65)),
        lambda: kernel.read(f"{x}/generation", 99),
        lambda: kernel.write(f"{x}/inblob", bytes(63)),
        lambda: kernel.read(f"{x}/outblob", 9999),
        lambda: kernel.write(f"{x}/inblob", b"\7" * 64),
        lambda: kernel.read(f"{x}/generation", 99),
        lambda: kernel.read(f"{x}/outblob", 9999),
        lambda: kernel.remove_directory(x),
        lambda: kernel.remove_directory(x),
        lambda: kernel.read(rtmr, 99),
        lambda: kernel.write(rtmr, bytes(47)),
        lambda: kernel.write(rtmr, bytes(49)),
        lambda: kernel.write(rtmr, bytes(48)),
        lambda: kernel.read(rtmr, 99),
        lambda: kernel.write(f"{root}{MEASUREMENTS}/mrconfigid", bytes(48)),
        lambda: kernel.read(f"{root}{MEASUREMENTS}/mrconfigid", 99),
        lambda: kernel.read(f"{root}{MEASUREMENTS}/nothing", 99),
    ]
    return [outcome(call) for call in calls]


def test_the_mounted_tree_and_the_double_answer_alike(guest: MountedGuest, tmp_path: Path) -> None:
    real = script(str(guest.root), KERNEL)
    double = make_guest(tmp_path)
    assert real == script(str(tmp_path), double)
    assert real[:4] == [False, None, "EEXIST", True]
    assert real[6:12] == ["EINVAL", "EACCES", "ENOENT", "EACCES", "ENOENT", "EFBIG"]
    assert real[14] == "EINVAL"
    assert real[17] == b"\7" * 64


@pytest.mark.parametrize("victim", ["served", "serving"])
def test_no_death_leaves_a_mount_behind(short_tmp: Path, victim: str, repository: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "from guest_simulator.tdx.mounted import mounted\n"
        "with mounted(Path(sys.argv[1])) as guest:\n"
        "    print(guest._process.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(short_tmp)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(repository / "simulator")},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        child = int(process.stdout.readline())
        assert is_mounted(short_tmp / "sys")
        os.kill(process.pid if victim == "served" else child, 9)
        give_up = time.monotonic() + 20
        while is_mounted(short_tmp / "sys"):
            assert time.monotonic() < give_up, "the mount stays"
            time.sleep(0.01)
    finally:
        process.kill()
        process.communicate()
