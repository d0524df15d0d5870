"""What an attester asks of a GPU library, as one contract. Sans-I/O.

NVIDIA's library keeps it (`hardware.nvml`); so do simulated GPUs.

Source: docs/spec/attesters.md 14.1.
"""

from typing import Protocol

import msgspec


class GpuSurvey(msgspec.Struct, frozen=True, kw_only=True):
    """What GPUs this guest has.

    Attributes:
        is_confidential: confidential computing is on.
        uuids: of all GPUs.
    """

    is_confidential: bool
    uuids: tuple[str, ...]


class GpuAttestation(msgspec.Struct, frozen=True, kw_only=True):
    """What one GPU says of itself.

    Attributes:
        architecture: NVML's number.
        report: the SPDM exchange.
        certificates: PEM text of the chain that the report is signed under.
    """

    architecture: int
    report: bytes
    certificates: bytes


class Progress(Protocol):
    """Where a piece of work is.

    Attributes:
        current: library, GPU and step.
    """

    current: str


class GpuCalls(Protocol):
    """Blocking calls, from any thread."""

    def survey(self, steps: Progress) -> GpuSurvey:
        """Count them; makes no evidence.

        Raises:
            PlatformError: the library is missing or fails; names library, step and errno.
        """
        ...

    def attest(self, uuid: str, nonce: bytes, steps: Progress) -> GpuAttestation:
        """Let one GPU sign its measurements over 32 bytes; takes seconds.

        Raises:
            PlatformError: the GPU is no more, or fails; names library, GPU, step and errno.
        """
        ...
