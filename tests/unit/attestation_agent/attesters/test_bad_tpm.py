"""What a TPM may do wrong below its attesters: an error that names it, never evidence.

The rows of `test_bad_input` for the attesters that speak to a TPM: absent, EIO, EACCES, EBUSY,
short, too long, garbage, nothing at all, and slower than the deadline; at every command.
"""

import asyncio
import errno
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from attestation_agent.attesters.base import Attester
from attestation_agent.hardware import tpm_link
from attestation_agent.hardware.tpm_link import FileLine
from guest.deadline import Deadline
from guest.errors import PlatformError
from guest_simulator.tpm import paravisor, wire
from guest_simulator.tpm.azure_metadata import AzureMetadata
from support.tdx_world import platform
from support.tpm_world import AK_HANDLE, TpmGuest, azure_guest, chip, tpm_guest

az_vtpm = pytest.importorskip("attestation_agent.attesters.az_vtpm", exc_type=ImportError)

from attestation_agent.attesters import az_snp_vtpm, az_tdx_vtpm, tpm  # noqa: E402  # need it too
from attestation_agent.attesters.tpm_log import PcrLog  # noqa: E402
from attestation_agent.hardware.tpm_thread import Tpm  # noqa: E402

pytestmark = [pytest.mark.swtpm, pytest.mark.timeout(120)]

DATA = bytes(range(48))
QUOTING = (wire.READ_PUBLIC, wire.PCR_READ, wire.QUOTE)
AZURE = (wire.NV_READ_PUBLIC, wire.NV_WRITE, wire.NV_READ, *QUOTING)  # defined once, at first
COMMANDS = {"tpm": QUOTING, "az-tdx-vtpm": AZURE, "az-snp-vtpm": AZURE}

Change = Callable[[bytes], bytes]

CONTENTS: dict[str, Change] = {
    "nothing": lambda answer: b"",
    "short": lambda answer: answer[:9],
    "cut": lambda answer: answer[:-1],
    "too long": lambda answer: answer + bytes(8192),
    "garbage": lambda answer: b"\xa5" * len(answer),
    "a head and garbage": lambda answer: answer[:10] + b"\xa5" * (len(answer) - 10),
}


@dataclass(kw_only=True)
class Fault:
    """What one line does wrong, once the command has come.

    Attributes:
        code: of the command; None is the opening.
        step: `open`, `write` or `read`.
        error: errno, where it fails.
        change: what becomes of the response.
        block: what reading waits for.
    """

    code: int | None
    step: str
    error: int | None = None
    change: Change | None = None
    block: threading.Event | None = None
    begun: threading.Event = field(default_factory=threading.Event)


class FaultyDevice:
    """Opens lines to the TPM that go wrong as told."""

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self.open_lines = 0

    def __call__(self, path: str) -> "FaultyLine":
        fault = self.fault
        if fault is not None and fault.step == "open" and fault.error is not None:
            raise OSError(fault.error, "x")
        return FaultyLine(self, FileLine(path))


class FaultyLine:
    """A device: a response in one read."""

    is_stream = False

    def __init__(self, device: FaultyDevice, line: FileLine) -> None:
        self._device = device
        self._line = line
        self._fault: Fault | None = None
        device.open_lines += 1

    def write(self, data: bytes) -> int:
        fault = self._device.fault
        self._fault = fault if fault is not None and fault.code == wire.code_of(data) else None
        if self._fault is not None and self._fault.step == "write":
            if self._fault.error is None:
                return len(data) - 1
            raise OSError(self._fault.error, "x")
        return self._line.write(data)

    def wait(self, seconds: float) -> bool:
        return self._line.wait(seconds)

    def read(self, limit: int) -> bytes:
        fault = self._fault
        answer = self._line.read(limit)
        while 6 <= len(answer) < int.from_bytes(answer[2:6], "big") and self._line.wait(1):
            answer += self._line.read(limit)
        if fault is None or fault.step != "read":
            return answer
        if fault.block is not None:
            fault.begun.set()
            fault.block.wait(60)
        if fault.error is not None:
            raise OSError(fault.error, "x")
        return answer if fault.change is None else fault.change(answer)

    def close(self) -> None:
        self._device.open_lines -= 1
        self._line.close()


def log_of(guest: TpmGuest) -> PcrLog:
    return PcrLog(str(guest.root / "none"))


@asynccontextmanager
async def world(name: str, root: Path) -> AsyncIterator[tuple[Attester, FaultyDevice]]:
    """An attester whose every line may go wrong; everything else works."""
    device = FaultyDevice()
    if name == "tpm":
        with tpm_guest(root) as guest:
            yield tpm.TpmAttester(Tpm(guest.path, device), AK_HANDLE, log_of(guest)), device
        return
    is_tdx = name == "az-tdx-vtpm"
    kind = paravisor.TDX if is_tdx else paravisor.SNP
    service = AzureMetadata(quote=platform().quote, certificate=chip().pem)
    with azure_guest(root, kind) as (guest, _):
        async with service:
            hints = guest.hints(azure_metadata=service.url)
            opened = (az_tdx_vtpm.open_az_tdx if is_tdx else az_snp_vtpm.open_az_snp)(
                hints, guest.path
            )
            opened._tpm = Tpm(guest.path, device)
            yield opened, device


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again for seconds is tried again for less."""
    monkeypatch.setattr(tpm_link, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(az_vtpm, "RENEWAL_SECONDS", 1.0)
    monkeypatch.setattr(az_vtpm, "POLL_SECONDS", 0.05)


async def failure(attester: Attester, deadline: Deadline) -> str:
    """What evidence comes to, in words."""
    with pytest.raises(PlatformError) as caught:
        await attester.evidence(DATA, deadline)
    return "; ".join(caught.value.causes())


every_attester = pytest.mark.parametrize("name", COMMANDS)


@every_attester
async def test_an_error_of_the_device_is_named_with_path_command_and_errno(
    name: str, short_tmp: Path
) -> None:
    async with world(name, short_tmp) as (attester, device):
        for number in (errno.ENOENT, errno.EIO, errno.EACCES, errno.EBUSY):
            device.fault = Fault(code=None, step="open", error=number)
            text = await failure(attester, Deadline.after(30))
            assert f"/dev/tpm0: open: {errno.errorcode[number]}" in text
        for code in COMMANDS[name]:
            for step in ("write", "read"):
                for number in (errno.EIO, errno.EBUSY):
                    device.fault = Fault(code=code, step=step, error=number)
                    text = await failure(attester, Deadline.after(30))
                    assert f"/dev/tpm0: {tpm_link.NAMES[code]}: {errno.errorcode[number]}" in text
            device.fault = Fault(code=code, step="write")
            assert "EIO" in await failure(attester, Deadline.after(30))
        assert device.open_lines == 0
        device.fault = None
        assert await attester.evidence(DATA, Deadline.after(30))


@every_attester
@pytest.mark.parametrize("change", CONTENTS.values(), ids=CONTENTS)
async def test_a_response_that_is_not_as_it_must_be_is_an_error(
    name: str, change: Change, short_tmp: Path
) -> None:
    async with world(name, short_tmp) as (attester, device):
        for code in COMMANDS[name]:
            device.fault = Fault(code=code, step="read", change=change)
            assert "/dev/tpm0" in await failure(attester, Deadline.after(30))
        assert device.open_lines == 0
        device.fault = None
        assert await attester.evidence(DATA, Deadline.after(30))


@every_attester
async def test_a_tpm_slower_than_the_deadline_is_named_and_blocks_nobody(
    name: str, short_tmp: Path
) -> None:
    async with world(name, short_tmp) as (attester, device):
        for code in (wire.PCR_READ, wire.QUOTE):
            release = threading.Event()
            fault = Fault(code=code, step="read", block=release)
            device.fault = fault
            async with asyncio.TaskGroup() as group:
                task = group.create_task(failure(attester, Deadline.after(5.0)))
                # The loop runs while the TPM blocks: else this would never come.
                assert await asyncio.to_thread(fault.begun.wait, 30)
            assert "/dev/tpm0" in task.result()
            assert "ETIMEDOUT" in task.result()
            device.fault = None
            release.set()
        assert await attester.evidence(DATA, Deadline.after(30))
        assert device.open_lines == 0
