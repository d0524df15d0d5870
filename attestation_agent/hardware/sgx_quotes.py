"""SGX quotes as the library operating systems give them: Gramine's files, Occlum's device.

Source: docs/spec/attesters.md 11 (Gramine, "Attestation and Secret Provisioning"; Occlum, its
DCAP demo).
"""

import struct
from typing import Final, Protocol

from attestation_agent.hardware.calls import KernelCalls
from attestation_agent.hardware.memory import Pages
from attestation_agent.hardware.steps import Steps
from attestation_agent.reports.sgx import MAX_QUOTE_BYTES, REPORT_DATA_BYTES
from guest.errors import PlatformError

USER_REPORT_DATA: Final = "/dev/attestation/user_report_data"
QUOTE: Final = "/dev/attestation/quote"
OCCLUM_DEVICE: Final = "/dev/sgx"

GET_QUOTE_SIZE: Final = 0x80047307
"""`_IOR('s', 7, 4)`."""

GENERATE_QUOTE: Final = 0xC0187308
"""`_IOWR('s', 8, 24)`."""

QUOTE_ARGUMENT: Final = struct.Struct("<QQQ")
"""Addresses of the report data, of the quote's length (u32), of the quote."""


class SgxQuotes(Protocol):
    """One library operating system; blocks, and is used by one thread at a time."""

    def quote(self, report_data: bytes, steps: Steps) -> tuple[str, bytes]:
        """Where a quote over 64 bytes comes from, and the quote.

        Raises:
            PlatformError: the system fails.
        """
        ...


class GramineQuotes:
    """Two files that all of the process shares: written, then read."""

    def __init__(self, report_data_file: str, quote_file: str, kernel: KernelCalls) -> None:
        """Touch neither."""
        self._report_data_file = report_data_file
        self._quote_file = quote_file
        self._kernel = kernel

    def quote(self, report_data: bytes, steps: Steps) -> tuple[str, bytes]:
        """See `SgxQuotes`."""
        assert len(report_data) == REPORT_DATA_BYTES
        path = self._report_data_file
        with steps.at(path, "write"):
            taken = self._kernel.write(path, report_data)
        if taken != REPORT_DATA_BYTES:
            raise PlatformError(f"{path}: write: took {taken} bytes, expected {REPORT_DATA_BYTES}")
        path = self._quote_file
        with steps.at(path, "read"):
            return f"{path}: read", self._kernel.read(path, MAX_QUOTE_BYTES + 1)


class OcclumQuotes:
    """The device that Occlum shows in the enclave."""

    def __init__(self, path: str, kernel: KernelCalls) -> None:
        """Open nothing."""
        self._path = path
        self._kernel = kernel

    def quote(self, report_data: bytes, steps: Steps) -> tuple[str, bytes]:
        """See `SgxQuotes`."""
        size = bytearray(4)
        with steps.at(self._path, "GET_DCAP_QUOTE_SIZE"):
            self._kernel.control(self._path, GET_QUOTE_SIZE, size)
        (room,) = struct.unpack("<I", size)
        step = "GEN_DCAP_QUOTE"
        if not 0 < room <= MAX_QUOTE_BYTES:
            raise PlatformError(f"{self._path}: GET_DCAP_QUOTE_SIZE: EMSGSIZE ({room} bytes)")
        data, length, quote = Pages(REPORT_DATA_BYTES), Pages(4), Pages(room)
        data.write(report_data)
        length.write(struct.pack("<I", room))
        argument = bytearray(QUOTE_ARGUMENT.pack(data.address, length.address, quote.address))
        with steps.at(self._path, step):
            self._kernel.control(self._path, GENERATE_QUOTE, argument)
        (taken,) = struct.unpack("<I", length.read(4))
        if not 0 < taken <= room:
            raise PlatformError(f"{self._path}: {step}: EMSGSIZE ({taken} bytes of {room})")
        return f"{self._path}: {step}", quote.read(taken)
