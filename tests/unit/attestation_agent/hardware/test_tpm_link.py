"""Commands over a line that fails in every way a device can."""

import errno
import struct
from collections.abc import Callable

import pytest

from attestation_agent.hardware import tpm_link
from attestation_agent.hardware.steps import Steps
from attestation_agent.hardware.tpm_link import FileLine, code_of, open_link
from guest.deadline import Deadline
from guest.errors import PlatformError

PATH = "/dev/tpmrm0"
COMMAND = struct.pack(">HIII", 0x8001, 14, 0x173, 0x81010002)
ANSWER = struct.pack(">HII", 0x8001, 12, 0) + b"ok"


class Device:
    """A character device: a response in one read."""

    is_stream = False

    def __init__(self, *answers: bytes | OSError, taken: int | None = None) -> None:
        self.answers = list(answers)
        self.taken = taken
        self.is_closed = False
        self.written: list[bytes] = []
        self.write_error: OSError | None = None

    def write(self, data: bytes) -> int:
        if self.write_error is not None:
            raise self.write_error
        self.written.append(data)
        return len(data) if self.taken is None else self.taken

    def wait(self, seconds: float) -> bool:
        return bool(self.answers)

    def read(self, limit: int) -> bytes:
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer[:limit]

    def close(self) -> None:
        self.is_closed = True


def ask(device: Device, *, opening: Callable[[str], Device] | None = None) -> bytes:
    with open_link(PATH, Steps(), Deadline.after(5), opening or (lambda _: device)) as link:
        return link.exchange(COMMAND)


def test_a_command_gets_its_response_and_the_line_is_closed() -> None:
    device = Device(ANSWER)
    assert ask(device) == ANSWER
    assert (device.written, device.is_closed) == ([COMMAND], True)
    assert code_of(ANSWER) == 0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (OSError(errno.EIO, "x"), "EIO"),
        (OSError(errno.EPERM, "x"), "EPERM"),
        (b"", "EBADMSG .response of 0 bytes"),
        (ANSWER[:9], "EBADMSG .response of 9 bytes"),
        (ANSWER[:11], "EBADMSG .a response that is none"),
        (ANSWER + b"x", "EBADMSG .a response that is none"),
        (struct.pack(">HII", 0x8001, 5000, 0) + bytes(4990), "EBADMSG .a response that is none"),
        (b"\x12\x34" + ANSWER[2:], "EBADMSG .a response that is none"),
        (b"\xff" * 4096, "EBADMSG .a response that is none"),
    ],
)
def test_a_read_that_fails_or_gives_no_response_names_path_command_and_errno(
    answer: bytes | OSError, words: str
) -> None:
    device = Device(answer)
    with pytest.raises(PlatformError, match=f"^{PATH}: TPM2_ReadPublic: {words}"):
        ask(device)
    assert device.is_closed


def test_a_write_that_fails_or_is_cut_is_an_error() -> None:
    device = Device(ANSWER)
    device.write_error = OSError(errno.EBUSY, "x")
    with pytest.raises(PlatformError, match=f"^{PATH}: TPM2_ReadPublic: EBUSY"):
        ask(device)
    with pytest.raises(PlatformError, match=f"^{PATH}: TPM2_ReadPublic: EIO"):
        ask(Device(ANSWER, taken=3))


def test_silence_is_an_error() -> None:
    with pytest.raises(PlatformError, match=f"^{PATH}: TPM2_ReadPublic: ETIMEDOUT"):
        ask(Device())


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EIO, errno.ENODEV])
def test_a_device_that_cannot_be_opened_names_path_and_errno(number: int) -> None:
    def refuse(path: str) -> Device:
        raise OSError(number, "x")

    with pytest.raises(PlatformError, match=f"^{PATH}: open: {errno.errorcode[number]}"):
        ask(Device(), opening=refuse)


def test_a_device_that_somebody_has_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = [OSError(errno.EBUSY, "x")] * 3

    def refuse(path: str) -> Device:
        if taken:
            raise taken.pop()
        return Device(ANSWER)

    assert ask(Device(), opening=refuse) == ANSWER
    taken.extend([OSError(errno.EBUSY, "x")] * 1000)
    monkeypatch.setattr(tpm_link, "RETRY_SECONDS", 0.1)
    with pytest.raises(PlatformError, match=f"^{PATH}: open: EBUSY"):
        ask(Device(), opening=refuse)


def test_a_stream_may_give_a_response_in_pieces() -> None:
    device = Device(ANSWER[:3], ANSWER[3:10], ANSWER[10:])
    device.is_stream = True
    assert ask(device) == ANSWER
    device = Device(b"\xff" * 10, ANSWER)
    device.is_stream = True
    with pytest.raises(PlatformError, match="EBADMSG"):
        ask(device)


def test_no_descriptor_is_made_of_what_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        FileLine("/nonexistent/tpm0")
