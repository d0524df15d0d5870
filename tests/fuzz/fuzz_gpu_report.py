"""GPU reports, their chains and a DPU's certificates are taken or a `DecodeError`."""

from contextlib import suppress

from attestation_agent.reports.nvidia import GpuReport, verify_chain
from attestation_agent.reports.nvidia_dpu import verify_der
from guest.errors import DecodeError

SEEDS = (
    bytes((0x11, 0xE0, 1, 0xFF)) + bytes(33) + bytes((0x11, 0x60, 0, 0)),
    b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
    b"\x30\x82\1\0" + bytes(256),
)


def one_input(data: bytes) -> None:
    """Look at all three."""
    with suppress(DecodeError):
        assert len(GpuReport.decode(data).nonce) == 32
    with suppress(DecodeError):
        verify_chain(data)
    with suppress(DecodeError):
        verify_der(data)
