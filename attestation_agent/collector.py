"""Collects evidence from the primary attester and from all devices.

Source: docs/spec/attestation-agent.md 4.1 to 4.4.
"""

import asyncio

from attestation_agent import evidence
from attestation_agent.attesters.base import Attester
from guest.deadline import Deadline
from guest.errors import first_failure
from guest.tee import Tee


class EvidenceCollector:
    """The attesters of this guest; also what proves it to a KBS (`EvidenceProvider`)."""

    def __init__(self, primary: Attester, devices: tuple[Attester, ...] = ()) -> None:
        """Keep the attesters that detection found; nothing is detected again."""
        self._primary = primary
        self._devices = devices

    @property
    def primary(self) -> Attester:
        """The primary TEE's."""
        return self._primary

    def devices(self) -> tuple[Tee, ...]:
        """The additional TEEs, in the order of detection."""
        return tuple(device.tee for device in self._devices)

    def tees(self) -> tuple[Tee, ...]:
        """The primary TEE and the additional ones."""
        return (self._primary.tee, *self.devices())

    async def tee(self) -> Tee:
        """The primary TEE; never any I/O."""
        return self._primary.tee

    async def evidence(self, report_data: bytes, deadline: Deadline) -> bytes:
        """Primary evidence that binds `report_data`, as compact JSON text.

        Raises:
            GuestError: what the attester raises.
        """
        return evidence.encode_primary(await self._primary.evidence(report_data, deadline))

    async def additional_evidence(self, report_data: bytes, deadline: Deadline) -> str:
        """Evidence of all devices as one compact JSON text; `""` without devices.

        All or nothing: a verifier could not tell a device that failed from one that is not there.

        Raises:
            GuestError: what the first attester that failed raises.
        """
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {
                    device.tee: group.create_task(
                        device.evidence(report_data, deadline), name=f"evidence of {device.tee}"
                    )
                    for device in self._devices
                }
        except BaseExceptionGroup as failures:
            first = first_failure(failures)
            raise first from first.__cause__
        values = {tee: task.result() for tee, task in tasks.items()}
        return evidence.encode_additional(values).decode("utf-8")
