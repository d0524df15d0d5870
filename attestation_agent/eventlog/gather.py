"""The event log as evidence carries it: only one that explains the quoted registers leaves.

Source: docs/spec/attesters.md 1.5.
"""

import logging
from collections.abc import Sequence
from typing import Final

from attestation_agent.eventlog.files import find_file
from attestation_agent.eventlog.replay import assemble, find_mismatch
from attestation_agent.eventlog.tcg2 import MAX_LOG_BYTES, parse_log
from attestation_agent.hardware.calls import KernelCalls
from attestation_agent.hardware.steps import Steps, platform_error
from guest.crypto.digest import HashAlgorithm
from guest.errors import DecodeError, LimitError

log = logging.getLogger(__name__)

MAX_OWN_BYTES: Final = 1024 * 1024
"""Longest log of the agent's own that evidence carries; ttRPC and the KBS take no longer one."""

MAX_SENT_BYTES: Final = MAX_OWN_BYTES + 384 * 1024
"""Longest log that evidence carries, firmware's and the agent's own: in base64 it still fits into
what a KBS takes (2 MiB by default), quote and all, and so into a ttRPC message."""

FIRMWARE_LOG: Final = "/sys/firmware/acpi/tables/data/CCEL"


class LogGatherer:
    """Reads firmware's log and the agent's own; used by one thread at a time."""

    def __init__(self, firmware_path: str, own_path: str, kernel: KernelCalls) -> None:
        """Read nothing yet.

        Args:
            firmware_path: `FIRMWARE_LOG` or the same in another tree; may be absent.
            own_path: of the agent's log; may be absent.
            kernel: reads firmware's.
        """
        self._firmware_path = firmware_path
        self._own_path = own_path
        self._kernel = kernel
        self._firmware: bytes | None = None
        self._is_read = False

    def read_own(self, steps: Steps) -> bytes | None:
        """The agent's log as it is now; None where there is none, or more than can be sent.

        Raises:
            PlatformError: it is there and cannot be read.
        """
        try:
            return find_file(self._own_path, MAX_OWN_BYTES, steps)
        except LimitError as error:
            log.warning("event log is left out", extra={"reason": str(error)})
            return None

    def gather(
        self, own: bytes | None, registers: Sequence[bytes], algorithm: HashAlgorithm, steps: Steps
    ) -> bytes | None:
        """The log that replays to `registers` and can be sent; None where there is no such log.

        Args:
            own: what `read_own` gave while the registers were held.
            registers: quoted values of register 1, 2, ... as the log counts them.
            algorithm: of the registers.
            steps: for errors.

        Raises:
            PlatformError: firmware's log is there and cannot be read.
        """
        firmware = self._find_firmware(steps)
        candidate = assemble(firmware, own)
        if candidate is None:
            return None
        mismatch = _explain(candidate, registers, algorithm)
        if mismatch is None:
            return candidate
        # A vendor kernel may have gone on writing firmware's log, own events included.
        self._is_read = False
        grown = self._find_firmware(steps)
        if grown is not None:
            for other in (assemble(grown, own), assemble(grown, None)):
                if other is not None and _explain(other, registers, algorithm) is None:
                    return other
        log.warning("evidence goes without event log", extra={"reason": mismatch})
        return None

    def _find_firmware(self, steps: Steps) -> bytes | None:
        """Firmware's log up to its end; read once, because it does not change."""
        if not self._is_read:
            content = self._read_firmware(steps)
            self._firmware = None if content is None else self._trim(content)
            self._is_read = True
        return self._firmware

    def _read_firmware(self, steps: Steps) -> bytes | None:
        path = self._firmware_path
        steps.current = f"{path}: read"
        try:
            return self._kernel.read(path, MAX_LOG_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise platform_error(path, "read", error) from error

    def _trim(self, content: bytes) -> bytes | None:
        try:
            return content[: parse_log(content).length]
        except DecodeError as error:
            extra = {"path": self._firmware_path, "reason": str(error)}
            log.warning("firmware event log is left out", extra=extra)
            return None


def _explain(candidate: bytes, registers: Sequence[bytes], algorithm: HashAlgorithm) -> str | None:
    """Why the log does not explain the registers, or cannot be sent; None when it can."""
    if len(candidate) > MAX_SENT_BYTES:
        return f"{len(candidate)} bytes, expected at most {MAX_SENT_BYTES}"
    try:
        register = find_mismatch(candidate, registers, algorithm)
    except (DecodeError, LimitError) as error:
        return str(error)
    return None if register is None else f"register {register} does not replay"
