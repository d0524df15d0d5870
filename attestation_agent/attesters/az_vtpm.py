"""What the attesters of Azure's confidential machines share: a paravisor's virtual TPM.

The guest writes what it wants bound into an index of the TPM; the paravisor renews its report;
the TPM quotes; Azure's metadata service knows what makes the hardware report verifiable.

Source: docs/spec/attesters.md 7 and 8; docs/spec/attestation-agent.md 6.3 and 7.4.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from attestation_agent.attesters.base import TeeHints
from attestation_agent.attesters.tpm_log import PcrLog, log_member
from attestation_agent.attesters.tpm_registers import AZURE_TEXTS, PcrInitData, PcrRegisters
from attestation_agent.eventlog.files import DIRECTORY, LOG_NAME
from attestation_agent.hardware.lock_file import LockFile
from attestation_agent.hardware.tpm import PARAVISOR_INDEX, resource_manager
from attestation_agent.hardware.tpm_session import Quoted
from attestation_agent.hardware.tpm_thread import Tpm
from attestation_agent.reports.hcl import USER_DATA_BYTES, HclReport, ReportType
from attestation_agent.turn import FairTurns
from guest.deadline import Deadline
from guest.errors import DeadlineError, DecodeError, InvalidInputError, PlatformError
from guest.tee import Tee
from guest.wire import encode_base64url

REQUEST_INDEX: Final = 0x0140_0002
"""NV index that the guest writes what is to be bound into."""

KEY_HANDLE: Final = 0x8100_0003
"""The TPM's attestation key, which the paravisor's report names."""

POLL_SECONDS: Final = 0.25
RENEWAL_SECONDS: Final = 10.0
"""Seconds in which the paravisor must have renewed its report."""

LOCK_FILE: Final = f"{DIRECTORY}/vtpm.lock"


class AzureKind(msgspec.Struct, frozen=True, kw_only=True):
    """Which of the two machines it is.

    Attributes:
        tee: what it speaks for.
        type: of the paravisor's report.
        member: of evidence, for what the metadata service gives.
        fetch: gets that; it must go with the report.
    """

    tee: Tee
    type: ReportType
    member: str
    fetch: Callable[[HclReport, Deadline], Awaitable[bytes]]


class AzureAttester:
    """Evidence of an Azure confidential machine."""

    def __init__(self, kind: AzureKind, tpm: Tpm, event_log: PcrLog, lock: LockFile) -> None:
        """Keep the parts; nothing is opened.

        Args:
            kind: of machine.
            tpm: the paravisor's.
            event_log: the agent's.
            lock: what processes take turns by.
        """
        self._kind = kind
        self._tpm = tpm
        self._log = event_log
        self._lock = lock
        self._quoting = FairTurns("the virtual TPM")
        self.tee: Final = kind.tee
        self.registers: Final = PcrRegisters(tpm, AZURE_TEXTS)
        self.init_data: Final = PcrInitData(tpm, AZURE_TEXTS)

    async def evidence(self, report_data: bytes, deadline: Deadline) -> object:
        """Version 2: `tpm_quote`, `hcl_report`, and `td_quote` or `vcek`.

        Raises:
            InvalidInputError: no report data, or more than 64 bytes.
            PlatformError: the TPM or the paravisor failed.
            PeerError: the metadata service failed; `UnavailableError` where it was not there.
            DeadlineError: it takes longer than there is time.
            LimitError: too many calls of this connection wait already.
        """
        if not 0 < len(report_data) <= USER_DATA_BYTES:
            raise InvalidInputError(
                f"report data of {len(report_data)} bytes, expected 1 to {USER_DATA_BYTES}"
            )
        async with self._quoting.held(deadline), self._lock.held(deadline):
            content, report = await self._renew(report_data, deadline)
            async with self.registers.turns.held(deadline):
                quoted = await self._quote(report_data, deadline)
                own = await self._log.read(deadline)
        # The report is what it is; the next caller may have the TPM meanwhile.
        proof = await self._kind.fetch(report, deadline)
        return {
            "version": 2,
            "tpm_quote": {
                "signature": quoted.raw_signature.hex(),
                "message": quoted.message.hex(),
                "pcrs": [value.hex() for value in quoted.pcrs],
            },
            "hcl_report": _encode_padded(content),
            self._kind.member: _encode_padded(proof),
            **log_member(own, quoted.pcrs),
        }

    async def _renew(self, report_data: bytes, deadline: Deadline) -> tuple[bytes, HclReport]:
        """Ask the paravisor to bind report data, and wait until it has."""
        renewal = deadline.within(RENEWAL_SECONDS)
        await self._tpm.run(
            lambda session: session.write_index(REQUEST_INDEX, report_data), deadline
        )
        reason = "it binds something else"
        while True:
            content = await self._tpm.run(
                lambda session: session.read_index(PARAVISOR_INDEX), deadline
            )
            try:
                report = HclReport.decode(content)
                if report.type is self._kind.type and report.answers(report_data):
                    return content, report
            except DecodeError as error:  # it may be in the middle of being renewed
                reason = str(error)
            if renewal.remaining() <= POLL_SECONDS:
                cause = DeadlineError(reason)
                raise PlatformError(
                    f"{self._tpm.path}: TPM2_NV_Read: ETIMEDOUT (the paravisor did not renew its "
                    "report)"
                ) from cause
            await asyncio.sleep(POLL_SECONDS)

    async def _quote(self, nonce: bytes, deadline: Deadline) -> Quoted:
        return await self._tpm.run(
            lambda session: session.quote(session.find_key(KEY_HANDLE), nonce, own_scheme=True),
            deadline,
        )


def _encode_padded(data: bytes) -> str:
    """Base64 of the URL alphabet, with padding."""
    text = encode_base64url(data)
    return text + "=" * (-len(text) % 4)


def open_azure(hints: TeeHints, path: str, kind: AzureKind) -> AzureAttester:
    """The attester of a kind of machine, on the TPM at `path`; opens nothing."""
    own_path = hints.event_log_path or hints.at(f"{DIRECTORY}/{LOG_NAME}")
    return AzureAttester(
        kind, Tpm(resource_manager(path)), PcrLog(own_path), LockFile(hints.at(LOCK_FILE))
    )
