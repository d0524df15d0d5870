"""The numbers of all ioctls, computed as the kernel's headers compute them."""

import pytest

from attestation_agent.hardware import csv_guest, mkfd, sev_guest, sgx_quotes, tdx_device, uv

READ, WRITE = 2, 1


def code(direction: int, kind: str, number: int, size: int) -> int:
    """`_IOC` of most architectures."""
    return direction << 30 | size << 16 | ord(kind) << 8 | number


@pytest.mark.spec("attesters", 13)
def test_every_number_is_that_of_its_definition() -> None:
    both = READ | WRITE
    assert tdx_device.GET_REPORT == code(both, "T", 1, 1088) == 0xC4405401
    assert sev_guest.GET_REPORT == code(both, "S", 0, 32) == 0xC0205300
    assert sev_guest.GET_EXT_REPORT == code(both, "S", 2, 32) == 0xC0205302
    assert csv_guest.GET_REPORT == code(both, "D", 1, 16) == 0xC0104401
    assert csv_guest.RTMR == code(both, "D", 2, 24) == 0xC0184402
    assert mkfd.ATTEST == code(both, "M", 0x17, 56) == 0xC0384D17
    assert uv.ATTEST == code(both, "u", 1, 64) == 0xC0407501
    assert sgx_quotes.GET_QUOTE_SIZE == code(READ, "s", 7, 4) == 0x80047307
    assert sgx_quotes.GENERATE_QUOTE == code(both, "s", 8, 24) == 0xC0187308


def test_every_argument_has_the_size_that_its_number_says() -> None:
    assert sev_guest.ARGUMENT.size == 32
    assert (csv_guest.REPORT_ARGUMENT.size, csv_guest.RTMR_ARGUMENT.size) == (16, 24)
    assert (mkfd.ARGUMENT.size, sgx_quotes.QUOTE_ARGUMENT.size) == (56, 24)
