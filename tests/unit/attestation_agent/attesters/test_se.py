"""Measurements by the ultravisor: the verifier's request in, its answer out."""

import base64
import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from attestation_agent.attesters import detect
from attestation_agent.attesters.base import TeeHints
from attestation_agent.attesters.se import open_se
from attestation_agent.hardware.uv import ATTEST
from guest.deadline import Deadline
from guest.errors import InvalidInputError, PlatformError
from guest.tee import Tee
from guest_simulator.devices.ultravisor import DEVICE, Ultravisor
from guest_simulator.machine import Machine
from guest_simulator.tdx.guest import Fault

DIGEST = hashlib.sha384(b"runtime data").digest()


def soon() -> Deadline:
    return Deadline.after(30)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def request(**changes: Any) -> bytes:
    members: dict[str, Any] = {
        "request_blob": b64(b"\xa1" * 300),
        "measurement_size": 64,
        "additional_size": 96,
        "encr_measurement_key": b64(b"\xc1" * 80),
        "encr_request_nonce": b64(b"\xc2" * 32),
        "image_hdr_tags": b64(bytes(range(208))),
        "runtime_data_digest": b64(DIGEST),
    }
    members.update(changes)
    return json.dumps({name: value for name, value in members.items() if value != ""}).encode()


def machine(root: Path, device: Ultravisor) -> tuple[Machine, TeeHints]:
    kernel = Machine(root=str(root), devices={DEVICE: device})
    return kernel, TeeHints(root=str(root), kernel=kernel, machine="s390x")


@pytest.mark.spec("attesters", 44)
async def test_user_data_is_padded_to_64_and_a_missing_digest_is_an_error(short_tmp: Path) -> None:
    device = Ultravisor()
    _, hints = machine(short_tmp, device)
    attester = open_se(hints)
    evidence = msgspec.convert(await attester.evidence(request(), soon()), dict[str, str])
    padded = DIGEST + bytes(16)
    assert device.requests == [(b"\xa1" * 300, padded)]
    assert evidence == {
        "measurement": b64(device.measurement(b"\xa1" * 300, padded, 64)),
        "additional_data": b64(device.additional),
        "user_data": b64(padded),
        "cuid": b64(device.uid),
        "encr_measurement_key": b64(b"\xc1" * 80),
        "encr_request_nonce": b64(b"\xc2" * 32),
        "image_hdr_tags": b64(bytes(range(208))),
    }
    with pytest.raises(InvalidInputError) as caught:
        await attester.evidence(request(runtime_data_digest=""), soon())
    assert str(caught.value) == "runtime_data_digest not provided"
    with pytest.raises(InvalidInputError) as caught:
        await attester.evidence(request(runtime_data_digest=b64(bytes(65))), soon())
    assert str(caught.value) == "Invalid data length: expected 64 bytes, got 65 (too large)"
    assert len(device.requests) == 1


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", bytes(48), b'{"a":1}'])
async def test_report_data_that_is_no_request_never_reaches_the_device(
    short_tmp: Path, data: bytes
) -> None:
    kernel, hints = machine(short_tmp, Ultravisor())
    with pytest.raises(InvalidInputError):
        await open_se(hints).evidence(data, soon())
    assert kernel.calls == []


async def test_what_the_ultravisor_refuses_is_no_evidence(short_tmp: Path) -> None:
    _, hints = machine(short_tmp, Ultravisor(code=0x105, reason=7))
    with pytest.raises(PlatformError, match=r"/dev/uv: ATTEST: EIO .*0x0105, reason 0x0007"):
        await open_se(hints).evidence(request(), soon())


@pytest.mark.parametrize("length", [0, 97])
async def test_additional_data_is_there_and_not_longer_than_its_place(
    short_tmp: Path, length: int
) -> None:
    _, hints = machine(short_tmp, Ultravisor(additional=bytes(length)))
    with pytest.raises(PlatformError, match=rf"EBADMSG .{length} bytes of additional data"):
        await open_se(hints).evidence(request(), soon())


async def test_a_device_that_hangs_is_named(short_tmp: Path) -> None:
    kernel, hints = machine(short_tmp, Ultravisor())
    attester = open_se(hints)
    release = threading.Event()
    kernel.faults.append(Fault(path=DEVICE, call="ioctl", block=release, times=1))
    with pytest.raises(PlatformError, match=r"/dev/uv: ATTEST: ETIMEDOUT"):
        await attester.evidence(request(), Deadline.after(0.3))
    release.set()
    assert await attester.evidence(request(), soon())


def test_the_code_is_the_published_one_and_detection_opens_no_device(short_tmp: Path) -> None:
    assert ATTEST == 0xC0407501 == 3 << 30 | 64 << 16 | ord("u") << 8 | 1
    kernel, hints = machine(short_tmp, Ultravisor())
    mark = short_tmp / "sys/firmware/uv/prot_virt_guest"
    mark.parent.mkdir(parents=True)
    mark.write_bytes(b"1\n")
    attester = detect(hints)
    assert attester.tee is Tee.SE
    assert (attester.registers, attester.init_data) == (None, None)
    assert "ioctl" not in {call.call for call in kernel.calls}
