"""One TPM, and the thread that waits for it.

The TPM software stack is loaded there, with the first work: a guest that has a TPM listens before
it is, and one whose TPM is never asked does without.

Source: docs/spec/attesters.md 5.1; CONTRIBUTING.md 8 (a daemon thread of its own per device).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, TypeVar

from attestation_agent.hardware.device_thread import DeviceThread
from attestation_agent.hardware.steps import Steps
from attestation_agent.hardware.tpm_link import FileLine, OpenLine
from attestation_agent.hardware.tpm_session import TpmSession
from guest.deadline import Deadline
from guest.errors import UnsupportedError

T = TypeVar("T")

OpenSession = Callable[[str, Steps, Deadline, OpenLine], AbstractContextManager[TpmSession]]
"""Opens a TPM for a block."""


class Tpm:
    """A TPM that is opened for each piece of work and never kept.

    Attributes:
        path: of its device.
    """

    def __init__(self, path: str, open_line: OpenLine = FileLine) -> None:
        """Open nothing."""
        self.path: Final = path
        self._open_line = open_line
        self._thread = DeviceThread("TPM")

    async def run(self, work: Callable[[TpmSession], T], deadline: Deadline) -> T:
        """Do `work`, which blocks, with the TPM open.

        Raises:
            DeadlineError: its turn did not come in time; nothing was done.
            PlatformError: the TPM failed, or did not answer in time.
            LimitError: too much waits already.
            UnsupportedError: the TPM software stack cannot be loaded.
            GuestError: what `work` raises.
        """

        def within(steps: Steps) -> T:
            with steps.at(self.path, "tpm2-pytss is loaded"):
                open_session = _load()
            with open_session(self.path, steps, deadline, self._open_line) as session:
                return work(session)

        return await self._thread.run(within, deadline)


def _load() -> OpenSession:
    try:
        from attestation_agent.hardware.tpm2 import open_session
    except ImportError as error:
        raise UnsupportedError("the library tpm2-pytss is there, and cannot be loaded") from error
    return open_session
