"""Registers of a CSV guest: which one a PCR is, how it is started, read and extended."""

import errno
from pathlib import Path

import pytest

from attestation_agent.attesters.csv_registers import CsvRegisters, rtmr_of
from guest.deadline import Deadline
from guest.errors import GuestError, InvalidInputError, PlatformError, UnsupportedError
from guest_simulator.hygon.csv import PATH, CsvGuest, sm3
from guest_simulator.tdx.guest import Fault
from support.hygon_world import CsvWorld


def soon() -> Deadline:
    return Deadline.after(30)


def registers_of(world: CsvWorld) -> CsvRegisters:
    return world.attester().registers


@pytest.mark.spec("attesters", 17)
def test_a_pcr_is_the_register_of_the_table() -> None:
    # The TDX half of the check is in test_tdx_registers.
    table = {0: 0, 1: 1, 7: 1, **dict.fromkeys(range(2, 7), 2), **dict.fromkeys(range(8, 16), 3)}
    for register in range(25):
        assert rtmr_of(register) == table.get(register, 4)
    assert rtmr_of(2**64 - 1) == 4
    with pytest.raises(InvalidInputError):
        rtmr_of(-1)


async def test_each_register_is_read_and_extended_under_its_own_number(short_tmp: Path) -> None:
    world = CsvWorld(root=short_tmp)
    registers = registers_of(world)
    for pcr, number in ((0, 0), (1, 1), (2, 2), (8, 3), (17, 4)):
        assert registers.log_index(pcr) == number
        digest = bytes((pcr + 1,)) * 32
        await registers.extend(pcr, digest, soon())
        expected = sm3(bytes(32) + digest)
        assert await registers.read(pcr, soon()) == expected == world.device.registers[number]
    assert len(set(world.device.registers)) == 5


async def test_registers_are_started_once_and_not_when_somebody_did(short_tmp: Path) -> None:
    world = CsvWorld(root=short_tmp)
    registers = registers_of(world)
    await registers.read(1, soon())
    await registers.extend(1, bytes(32), soon())
    assert world.device.commands == [1, 2, 3, 1, 4]
    started = CsvWorld(root=short_tmp, device=CsvGuest(state=2))
    await registers_of(started).extend(1, bytes(32), soon())
    assert started.device.commands == [1, 4]


async def test_a_digest_of_another_length_is_cut_or_padded(short_tmp: Path) -> None:
    world = CsvWorld(root=short_tmp)
    registers = registers_of(world)
    await registers.extend(17, b"\1" * 48, soon())
    assert world.device.registers[4] == sm3(bytes(32) + b"\1" * 32)


async def test_a_guest_without_registers_says_so(short_tmp: Path) -> None:
    registers = registers_of(CsvWorld(root=short_tmp, device=CsvGuest(has_registers=False)))
    for call in (registers.read(1, soon()), registers.extend(1, bytes(32), soon())):
        with pytest.raises(UnsupportedError, match=r"no registers: .*csv-guest: RTMR_STATUS: ENO"):
            await call


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EBUSY, errno.ENOENT])
async def test_every_failure_is_named(short_tmp: Path, number: int) -> None:
    world = CsvWorld(root=short_tmp)
    world.machine.faults.append(Fault(path=PATH, call="ioctl", error=number))
    with pytest.raises(GuestError, match=f"RTMR_STATUS: {errno.errorcode[number]}"):
        await registers_of(world).read(1, soon())
    broken = CsvWorld(root=short_tmp, device=CsvGuest(firmware_error=0x11))
    with pytest.raises(PlatformError, match=r"RTMR_STATUS: EIO .firmware error 0x11"):
        await registers_of(broken).extend(1, bytes(32), soon())


async def test_an_answer_with_other_registers_is_refused(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = CsvWorld(root=short_tmp, device=CsvGuest(state=2))
    read = world.device.answer_to

    def answer(command: int, request: bytes) -> bytes:
        found = read(command, request)
        return b"\1\0\0\0" + found[4:] if command == 3 else found

    monkeypatch.setattr(world.device, "answer_to", answer)
    with pytest.raises(PlatformError, match=r"RTMR_READ4: EBADMSG .the answer has other regis"):
        await registers_of(world).read(17, soon())
