"""Which source a TD quote comes from, and why not from another."""

import errno
import logging
import struct
import threading
from pathlib import Path
from typing import Any

import pytest

from attestation_agent.attesters.base import QuoteChoice
from attestation_agent.hardware import tdx_device
from attestation_agent.hardware.steps import Steps
from attestation_agent.hardware.tdx_device import TdxDevice
from guest.deadline import Deadline
from guest.errors import PlatformError, UnsupportedError
from guest.wire import decode_base64
from guest_simulator.tdx import qgs
from guest_simulator.tdx.guest import GET_QUOTE, Fault, TdxGuest
from support.tdx_world import attester_of, make_guest, parse_quote

DATA = b"\5" * 64


async def quote_of(guest: TdxGuest, **options: Any) -> bytes:
    evidence = await attester_of(guest, **options).evidence(DATA, Deadline.after(30))
    assert isinstance(evidence, dict)
    quote = decode_base64(evidence["quote"])
    assert parse_quote(quote, guest.platform.root).report_data == DATA
    return quote


def messages(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [
        (vars(record)["source"], vars(record)["not_used"])
        for record in caplog.records
        if record.message == "TD quote source"
    ]


async def test_configfs_is_the_first_and_is_told_once(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guest = make_guest(short_tmp, is_vendor_kernel=True)
    with caplog.at_level(logging.INFO):
        attester = attester_of(guest)
        for _ in range(3):
            await attester.evidence(DATA, Deadline.after(30))
    assert messages(caplog) == [("configfs", "")]
    assert not any(call.call == "ioctl" for call in guest.calls)


async def test_without_configfs_the_quoting_service_is_asked(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guest = make_guest(short_tmp, has_configfs=False)
    socket = short_tmp / "qgs"

    def answer(report: bytes) -> bytes:
        return qgs.frame(qgs.response(guest.platform.quote(report)))

    with qgs.serving(socket, answer) as asked:
        with caplog.at_level(logging.INFO):
            await quote_of(guest, quoting_service=f"unix://{socket}")
        assert [report[128:192] for report in asked] == [DATA]
        guest.has_configfs = True
        await quote_of(guest, quoting_service=f"unix://{socket}", quote=QuoteChoice.VSOCK)
        assert len(asked) == 2
    [(source, reason)] = messages(caplog)
    assert source == "vsock"
    assert reason.startswith("configfs: Failed to access TSM Report path")


async def test_without_both_the_kernels_own_call_is_used(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guest = make_guest(short_tmp, is_vendor_kernel=True)
    guest.reports.provider = None
    await quote_of(guest)
    [(source, reason)] = messages(caplog)
    assert source == "ioctl"
    assert "ENXIO" in reason
    assert "vsock: no service is configured: no " in reason
    guest.reports.provider = "tdx_guest"
    await quote_of(guest, quote=QuoteChoice.IOCTL)


async def test_without_any_the_error_says_why_for_each(short_tmp: Path) -> None:
    guest = make_guest(short_tmp, has_configfs=False)
    with pytest.raises(PlatformError) as caught:
        await quote_of(guest)
    text = str(caught.value)
    for part in ("no source of TD quotes", "configfs: ", "vsock: ", "ioctl: ", "ENOTTY"):
        assert part in text
    for choice in (QuoteChoice.CONFIGFS, QuoteChoice.VSOCK, QuoteChoice.IOCTL):
        with pytest.raises(PlatformError, match=f"no source of TD quotes: {choice}: "):
            await quote_of(guest, quote=choice)
    guest = make_guest(short_tmp, has_configfs=False, device=None)
    with pytest.raises(PlatformError, match="tdx_guest does not exist"):
        await quote_of(guest)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ETIMEDOUT])
async def test_a_source_that_is_there_and_fails_is_never_replaced(
    short_tmp: Path, number: int
) -> None:
    guest = make_guest(short_tmp, is_vendor_kernel=True)
    guest.faults.append(Fault(path="/outblob", call="read", error=number))
    with pytest.raises(PlatformError, match=f"outblob: read: {errno.errorcode[number]}"):
        await quote_of(guest)
    assert not any(call.call == "ioctl" for call in guest.calls)


async def test_a_failure_after_a_fallback_says_why_it_came_to_that(short_tmp: Path) -> None:
    guest = make_guest(short_tmp, has_configfs=False)
    address = f"unix://{short_tmp}/nobody"
    with pytest.raises(PlatformError) as caught:
        await quote_of(guest, quoting_service=address)
    assert f"{address}: connect: ENOENT" in str(caught.value)
    assert "because of configfs: Failed to access TSM Report path" in str(caught.value)


async def test_the_service_is_configured_by_its_file(short_tmp: Path) -> None:
    guest = make_guest(short_tmp, has_configfs=False)
    (short_tmp / "etc").mkdir()
    config = short_tmp / "etc" / "tdx-attest.conf"
    config.write_text("# port = 1\n")
    with pytest.raises(PlatformError, match=r"no port in .*/etc/tdx-attest\.conf"):
        await quote_of(guest, quote=QuoteChoice.VSOCK)
    guest.faults.append(Fault(path="/tdx-attest.conf", call="read", error=errno.EIO))
    with pytest.raises(PlatformError, match=r"tdx-attest\.conf: read: EIO"):
        await quote_of(guest)


BAD_ANSWERS: dict[str, Any] = {
    "none": (None, "EPIPE"),
    "short": (b"\0\0", "EPIPE"),
    "oversized": (b"\xff\xff\xff\xff", "EBADMSG .*expected 24 to"),
    "refused": (qgs.frame(qgs.response(b"", error=0x12001)), "EBADMSG .*unexpected error"),
    "cut": (qgs.frame(qgs.response(bytes(100)))[:-1], r"EPIPE \(closed after 123 of 124"),
    "garbage": (qgs.frame(bytes(40)), "EBADMSG"),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
async def test_a_service_that_does_not_answer_well_is_an_error(short_tmp: Path, name: str) -> None:
    content, text = BAD_ANSWERS[name]
    guest = make_guest(short_tmp)
    socket = short_tmp / "qgs"
    with qgs.serving(socket, lambda _: content):
        with pytest.raises(PlatformError, match=f"unix://{socket}: receive: {text}"):
            await quote_of(guest, quoting_service=f"unix://{socket}", quote=QuoteChoice.VSOCK)


async def test_a_service_that_hangs_is_named_when_time_runs_out(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    release = threading.Event()
    socket = short_tmp / "qgs"

    def hang(_: bytes) -> None:
        release.wait(30)

    with qgs.serving(socket, hang):
        attester = attester_of(guest, quoting_service=f"unix://{socket}", quote=QuoteChoice.VSOCK)
        with pytest.raises(PlatformError, match=r"receive: ETIMEDOUT"):
            await attester.evidence(DATA, Deadline.after(0.3))
        release.set()


async def test_a_vsock_that_nobody_listens_on_is_named(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    address = "vsock://1:4050"
    with pytest.raises(PlatformError, match=rf"{address}: (socket|connect): E[A-Z]+ "):
        await quote_of(guest, quoting_service=address, quote=QuoteChoice.VSOCK)


async def test_an_abstract_socket_that_nobody_listens_on_is_named(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    address = f"unix://@{short_tmp}"
    with pytest.raises(PlatformError, match=f"{address}: connect: ECONNREFUSED"):
        await quote_of(guest, quoting_service=address, quote=QuoteChoice.VSOCK)


async def test_the_port_in_the_file_is_on_the_host(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    fault = Fault(path="/tdx-attest.conf", call="read", content=b"port = 4050\n")
    guest.faults.append(fault)
    guest.device = None
    with pytest.raises(PlatformError, match=r"vsock: .*tdx_guest does not exist"):
        await quote_of(guest, quote=QuoteChoice.VSOCK)
    assert fault.times == -2


def device_of(guest: TdxGuest) -> TdxDevice:
    return TdxDevice(f"{guest.root}/dev/tdx_guest", guest)


def test_ioctl_numbers_are_those_of_the_kernels() -> None:
    def number(direction: int, command: int, size: int) -> int:
        return direction << 30 | size << 16 | ord("T") << 8 | command

    assert tdx_device.GET_REPORT == number(3, 1, 1088) == 0xC4405401
    assert (number(2, 4, 16), number(3, 4, 16), number(1, 4, 16)) == tdx_device.GET_QUOTE
    assert (number(2, 3, 49), number(1, 3, 49)) == tdx_device.EXTEND


@pytest.mark.parametrize(
    "change",
    [lambda r: r[:900], lambda r: r + b"x", lambda r: bytes(1024), lambda r: r[:600] + b"x" * 424],
)
def test_a_report_that_is_none_is_an_error(short_tmp: Path, change: Any) -> None:
    guest = make_guest(short_tmp)
    guest.faults.append(Fault(path="/dev/tdx_guest", call="ioctl", change=change))
    with pytest.raises(PlatformError, match="GET_REPORT: EBADMSG"):
        device_of(guest).report(DATA, Steps())


def test_a_report_over_other_data_is_an_error(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    other = guest.domain.report(bytes(64))
    guest.faults.append(Fault(path="/dev/tdx_guest", call="ioctl", change=lambda _: other))
    with pytest.raises(PlatformError, match="not the report asked for"):
        device_of(guest).raw_report(DATA, Steps())


class StatusGuest(TdxGuest):
    """A kernel whose quotes end with a status."""

    statuses: list[tuple[int, int]]

    def control_buffer(self, path: str, code: int, buffer: bytearray) -> None:
        if code == GET_QUOTE:
            raise OSError(errno.ENOTTY, "no")
        status, length = self.statuses.pop(0)
        struct.pack_into("<QQII", buffer, 0, 1, status, 1052, length)


@pytest.mark.parametrize(
    ("status", "length", "text"),
    [
        (0x8000000000000000, 0, r"EIO \(error\)"),
        (0x8000000000000001, 0, r"EIO \(service unavailable"),
        (5, 0, r"EIO \(status 0x5"),
        (0, 0, "EBADMSG .0 bytes of output"),
        (0, 16384, "EBADMSG .16384 bytes of output"),
        (0, 100, "EBADMSG"),
    ],
)
def test_the_status_of_a_kernels_quote_is_judged(
    short_tmp: Path, status: int, length: int, text: str
) -> None:
    guest = StatusGuest(root=str(short_tmp), platform=make_guest(short_tmp).platform)
    guest.statuses = [(status, length)]
    with pytest.raises(PlatformError, match=f"GET_QUOTE: {text}"):
        device_of(guest).quote(DATA, Steps(), Deadline.after(30))


def test_a_quote_in_flight_is_asked_for_again(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tdx_device, "RETRY_PAUSE", 0.001)
    guest = StatusGuest(root=str(short_tmp), platform=make_guest(short_tmp).platform)
    guest.statuses = [(0xFFFFFFFFFFFFFFFF, 0)] * 4
    with pytest.raises(PlatformError, match=r"GET_QUOTE: EBUSY \(in flight\)"):
        device_of(guest).quote(DATA, Steps(), Deadline.after(30))
    assert guest.statuses == []


def test_a_kernel_that_cannot_extend_says_so_and_one_that_fails_too(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    with pytest.raises(UnsupportedError, match=r"EXTEND_RTMR3: ENOTTY"):
        device_of(guest).extend(3, bytes(48), Steps())
    guest.is_vendor_kernel = True
    with pytest.raises(PlatformError, match=r"EXTEND_RTMR1: EPERM"):
        device_of(guest).extend(1, bytes(48), Steps())
