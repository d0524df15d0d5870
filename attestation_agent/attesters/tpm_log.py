"""The event log beside a quote of a TPM: only one that explains the quoted registers leaves.

Source: docs/spec/attesters.md 1.5 and 6.4.
"""

import logging
from collections.abc import Sequence

from attestation_agent.eventlog.files import find_file
from attestation_agent.eventlog.gather import MAX_OWN_BYTES
from attestation_agent.eventlog.pcr_log import assemble_pcr_log, find_pcr_mismatch
from attestation_agent.hardware.device_thread import DeviceThread
from attestation_agent.hardware.steps import Steps
from guest.deadline import Deadline
from guest.errors import DecodeError, LimitError
from guest.wire import encode_base64

log = logging.getLogger(__name__)


class PcrLog:
    """Reads the agent's log."""

    def __init__(self, path: str) -> None:
        """Read nothing yet; there may be no file."""
        self._path = path
        self._thread = DeviceThread("event log reader")

    async def read(self, deadline: Deadline) -> bytes | None:
        """The entries as they are now; None where there is no log, or more than can be sent.

        Raises:
            PlatformError: it is there and cannot be read.
        """
        return await self._thread.run(self._read, deadline)

    def _read(self, steps: Steps) -> bytes | None:
        try:
            return find_file(self._path, MAX_OWN_BYTES, steps)
        except LimitError as error:
            log.warning("event log is left out", extra={"reason": str(error)})
            return None


def log_member(own: bytes | None, pcrs: Sequence[bytes]) -> dict[str, str]:
    """The member of evidence that carries the log; none where no log explains the registers."""
    if own is None:
        return {}
    try:
        register = find_pcr_mismatch(own, pcrs)
        reason = None if register is None else f"register {register} does not replay"
    except DecodeError as error:
        reason = str(error)
    if reason is not None:
        log.warning("evidence goes without event log", extra={"reason": reason})
        return {}
    return {"cc_eventlog": encode_base64(assemble_pcr_log(own))}
