"""The sample device echoes, and can do nothing else."""

from attestation_agent.attesters.sample_device import SampleDeviceAttester
from guest.deadline import Deadline


async def test_device_evidence_is_as_published() -> None:
    device = SampleDeviceAttester()
    evidence = await device.evidence(b"\0\1\2", Deadline.after(10))
    assert evidence == {"svn": "2", "report_data": "AAEC"}
    assert (device.registers, device.init_data) == (None, None)
