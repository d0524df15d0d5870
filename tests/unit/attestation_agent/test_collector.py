"""Evidence of a guest and its devices, all or nothing."""

import asyncio
import json

import pytest

from attestation_agent.attesters.base import InitDataBinder, MeasurementRegisters
from attestation_agent.attesters.sample import SampleAttester
from attestation_agent.attesters.sample_device import SampleDeviceAttester
from attestation_agent.collector import EvidenceCollector
from guest.deadline import Deadline
from guest.errors import PlatformError
from guest.tee import Tee


def soon() -> Deadline:
    return Deadline.after(30)


class Device:
    """A device that waits for others, or fails."""

    registers: MeasurementRegisters | None = None
    init_data: InitDataBinder | None = None

    def __init__(self, tee: Tee, barrier: asyncio.Barrier | None = None) -> None:
        self.tee = tee
        self._barrier = barrier

    async def evidence(self, report_data: bytes, deadline: Deadline) -> object:
        if self._barrier is None:
            raise PlatformError(f"{self.tee} is broken")
        await self._barrier.wait()
        return report_data.hex()


async def test_the_primary_gives_one_text() -> None:
    collector = EvidenceCollector(SampleAttester())
    assert await collector.evidence(b"\0\1\2", soon()) == b'{"svn":"1","report_data":"AAEC"}'
    assert await collector.tee() is Tee.SAMPLE


async def test_without_devices_there_is_no_text() -> None:
    collector = EvidenceCollector(SampleAttester())
    assert await collector.additional_evidence(b"x", soon()) == ""
    assert collector.devices() == ()


async def test_devices_are_asked_at_the_same_time_and_named_in_order() -> None:
    barrier = asyncio.Barrier(2)
    devices = (Device(Tee.NVIDIA, barrier), Device(Tee.HYGON_DCU, barrier))
    collector = EvidenceCollector(SampleAttester(), devices)
    text = await collector.additional_evidence(b"\1", soon())
    assert text == '{"nvidia":"01","hygondcu":"01"}'
    assert collector.devices() == (Tee.NVIDIA, Tee.HYGON_DCU)


async def test_one_device_that_fails_fails_all() -> None:
    devices = (SampleDeviceAttester(), Device(Tee.NVIDIA))
    collector = EvidenceCollector(SampleAttester(), devices)
    with pytest.raises(PlatformError, match="nvidia is broken"):
        await collector.additional_evidence(b"", soon())
    assert json.loads(await collector.evidence(b"", soon()))
