"""The door to the TPM software stack: its commands byte by byte, against swtpm."""

import hashlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from attestation_agent.attesters import detect
from attestation_agent.hardware import tpm_link
from attestation_agent.hardware.steps import Steps
from guest.deadline import Deadline
from guest.errors import PlatformError
from guest_simulator.tpm import wire
from guest_simulator.tpm.relay import TpmFault
from support.tpm_world import AK_HANDLE, TpmGuest, tpm_guest

tpm2 = pytest.importorskip("attestation_agent.hardware.tpm2", exc_type=ImportError)

pytestmark = [pytest.mark.swtpm]

NONCE = bytes(range(32))
X = hashlib.sha256(b"x").digest()
INDEX = 0x0140_0002
DATA = bytes(range(48))
PASSWORD = "00000009 40000009 0000 00 0000"

VECTORS = {
    wire.PCR_READ: "8001 00000014 0000017e 00000001 000b 03 ffffff",
    wire.PCR_EXTEND: f"8002 00000041 00000182 00000008 {PASSWORD} 00000001 000b {X.hex()}",
    wire.READ_PUBLIC: "8001 0000000e 00000173 81010002",
    wire.QUOTE: f"8002 0000004b 00000158 81010002 {PASSWORD} 0020 {NONCE.hex()} 0014 000b "
    "00000001 000b 03 ffffff",
    wire.NV_READ_PUBLIC: "8001 0000000e 00000169 01400002",
    wire.DEFINE_SPACE: f"8002 0000002d 0000012a 40000001 {PASSWORD} 0000 000e 01400002 000b "
    "00020002 0000 0030",
    wire.NV_WRITE: f"8002 00000053 00000137 40000001 01400002 {PASSWORD} 0030 {DATA.hex()} 0000",
    wire.NV_READ: f"8002 00000023 0000014e 40000001 01400002 {PASSWORD} 0030 0000",
    wire.UNDEFINE_SPACE: f"8002 0000001f 00000122 40000001 01400002 {PASSWORD}",
}
NULL_SCHEME = (
    f"8002 00000049 00000158 81010002 {PASSWORD} 0020 {NONCE.hex()} 0010 00000001 000b 03 ffffff"
)


@contextmanager
def session_of(guest: TpmGuest, seconds: float = 20.0) -> Iterator[Any]:
    """A session with the guest's TPM."""
    with tpm2.open_session(guest.path, Steps(), Deadline.after(seconds)) as session:
        yield session


def first_of(guest: TpmGuest, code: int) -> str:
    """The first command of a code that came to the TPM."""
    return next(c for c in guest.relay.commands if wire.code_of(c) == code).hex()


@pytest.mark.spec("attesters", 27)
def test_all_command_vectors_are_what_the_stack_sends(short_tmp: Path) -> None:
    with tpm_guest(short_tmp) as guest, session_of(guest) as session:
        session.read_pcrs()
        session.extend_pcr(8, X)
        key = session.find_key(AK_HANDLE)
        session.quote(key, NONCE)
        session.write_index(INDEX, DATA)
        assert session.read_index(INDEX) == DATA
        session.write_index(INDEX, bytes(64))
        for code, text in VECTORS.items():
            assert first_of(guest, code) == text.replace(" ", ""), hex(code)
        guest.relay.commands.clear()
        session.quote(key, NONCE, own_scheme=True)
        assert first_of(guest, wire.QUOTE) == NULL_SCHEME.replace(" ", "")
        assert session.read_pcrs((8,)) == (hashlib.sha256(bytes(32) + X).digest(),)
        assert session.read_pcrs((8,))[0].hex() == (
            "7f85193790de75e46b70bfec3614098f47332a6993dabac6e38ad35f47df5da4"
        )


@pytest.mark.spec("attesters", 28)
def test_24_registers_come_by_eights_and_a_change_between_starts_again(short_tmp: Path) -> None:
    with tpm_guest(short_tmp) as guest, session_of(guest) as session:
        values = session.read_pcrs()
        assert guest.relay.codes() == [wire.PCR_READ] * 3
        assert [value[0] for value in values] == [0] * 17 + [255] * 6 + [0]
        guest.relay.commands.clear()
        guest.relay.faults.append(
            TpmFault(code=wire.PCR_READ, skip=2, times=1, before=lambda ask: ask(wire.extend(0, X)))
        )
        values = session.read_pcrs()
        assert values[0] == hashlib.sha256(bytes(32) + X).digest()
        assert guest.relay.codes() == [wire.PCR_READ] * 6


@pytest.mark.spec("attesters", 29)
def test_a_busy_tpm_is_asked_again_and_another_locality_is_named(short_tmp: Path) -> None:
    with tpm_guest(short_tmp) as guest, session_of(guest) as session:
        for code in (0x922, 0x908, 0x90A, 0x920):
            busy = TpmFault(code=wire.PCR_READ, times=3, answer=wire.response(code=code))
            guest.relay.faults.append(busy)
            assert len(session.read_pcrs()) == 24
            assert busy.hits == 3
        for register in range(17, 23):
            with pytest.raises(PlatformError, match=f"^PCR {register} cannot be .*LOCALITY 0x907"):
                session.extend_pcr(register, X)
        for register in (8, 16, 23):
            session.extend_pcr(register, X)


def test_a_tpm_that_stays_busy_is_an_error(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tpm_link, "RETRY_SECONDS", 0.3)
    with tpm_guest(short_tmp) as guest, session_of(guest) as session:
        guest.relay.faults.append(TpmFault(code=wire.PCR_READ, answer=wire.response(code=0x922)))
        with pytest.raises(PlatformError, match=r"TPM2_PCR_Read: EBUSY .*0x922 again and again"):
            session.read_pcrs()


def test_a_long_index_goes_in_pieces_that_the_tpm_takes(short_tmp: Path) -> None:
    content = bytes(range(256)) * 8
    with tpm_guest(short_tmp, handle=None) as guest, session_of(guest) as session:
        session.write_index(INDEX, content)
        assert session.read_index(INDEX) == content
        assert guest.relay.codes().count(wire.NV_READ) == 2
        assert session.find_index_size(INDEX) == 2048
        assert session.find_index_size(INDEX + 1) is None
        with pytest.raises(PlatformError, match=r"ENOENT .no NV index 0x1400003"):
            session.read_index(INDEX + 1)


def test_registers_of_another_bank_or_fewer_are_an_error(short_tmp: Path) -> None:
    def swap(answer: bytes) -> bytes:
        return answer[:18] + struct.pack(">H", 4) + answer[20:]

    with tpm_guest(short_tmp, handle=None) as guest, session_of(guest) as session:
        guest.relay.faults.append(TpmFault(code=wire.PCR_READ, change=swap))
        with pytest.raises(PlatformError, match="TPM2_PCR_Read: EBADMSG"):
            session.read_pcrs()


def test_a_session_leaves_no_connection_behind(short_tmp: Path) -> None:
    with tpm_guest(short_tmp) as guest:
        detect(guest.hints())
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            with session_of(guest) as session:
                session.read_pcrs()
        # The relay's ends close in threads of their own, at most one behind.
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2
