"""Which register of a TD stands for a PCR, and what reaches it."""

import errno
from pathlib import Path

import pytest

from attestation_agent.attesters.tdx_registers import TdxRegisters, ccmr_of
from guest.deadline import Deadline
from guest.errors import InvalidInputError, PlatformError
from guest_simulator.tdx.guest import Fault, TdxGuest
from support.tdx_world import attester_of, make_guest


def soon() -> Deadline:
    return Deadline.after(30)


def registers_of(guest: TdxGuest) -> TdxRegisters:
    registers = attester_of(guest).registers
    assert registers is not None
    return registers


@pytest.mark.spec("attesters", 17)
def test_a_pcr_has_its_measurement_register() -> None:
    expected = [4, 1, 2, 2, 2, 2, 2, 1, *[3] * 8, *[4] * 9]
    assert [ccmr_of(pcr) for pcr in range(25)] == expected
    assert ccmr_of((1 << 64) - 1) == 4
    with pytest.raises(InvalidInputError):
        ccmr_of(-1)


@pytest.mark.spec("attesters", 16)
@pytest.mark.parametrize("length", [32, 48, 64])
async def test_exactly_48_bytes_are_written_padded_or_cut(short_tmp: Path, length: int) -> None:
    guest = make_guest(short_tmp)
    digest = bytes(range(1, length + 1))
    await registers_of(guest).extend(17, digest, soon())
    writes = [call for call in guest.calls if call.call == "write"]
    assert [call.data for call in writes] == [digest[:48].ljust(48, b"\0")]
    assert writes[0].path.endswith("/measurements/rtmr3:sha384")


async def test_a_register_is_read_where_it_was_extended(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    registers = registers_of(guest)
    for pcr, number in ((1, 0), (2, 1), (8, 2), (0, 3)):
        before = guest.domain.registers.all()
        await registers.extend(pcr, bytes((pcr,)) * 48, soon())
        after = guest.domain.registers.all()
        assert [i for i in range(4) if before[i] != after[i]] == [number]
        assert await registers.read(pcr, soon()) == after[number]
        assert registers.log_index(pcr) == number + 1


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EBUSY, errno.ENOENT])
async def test_a_register_that_fails_is_named(short_tmp: Path, number: int) -> None:
    guest = make_guest(short_tmp)
    registers = registers_of(guest)
    name = errno.errorcode[number]
    guest.faults.append(Fault(path="rtmr3:sha384", call="read", error=number))
    with pytest.raises(PlatformError, match=f"rtmr3:sha384: read: {name}"):
        await registers.read(17, soon())
    guest.faults.append(Fault(path="rtmr3:sha384", call="write", error=number))
    with pytest.raises(PlatformError, match=f"rtmr3:sha384: write: {name}"):
        await registers.extend(17, bytes(48), soon())


@pytest.mark.parametrize("content", [b"", bytes(47), bytes(49)])
async def test_a_register_of_another_length_is_an_error(short_tmp: Path, content: bytes) -> None:
    guest = make_guest(short_tmp)
    guest.faults.append(Fault(path="rtmr3:sha384", call="read", content=content))
    with pytest.raises(PlatformError, match=r"rtmr3:sha384: read: .* bytes, expected 48"):
        await registers_of(guest).read(17, soon())
