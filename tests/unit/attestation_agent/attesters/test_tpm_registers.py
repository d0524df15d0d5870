"""The registers of a TPM: measurement, and the one of init data."""

import hashlib
from pathlib import Path

import pytest

from attestation_agent.attesters import detect
from attestation_agent.attesters.base import InitDataBinder, MeasurementRegisters
from guest.crypto.digest import HashAlgorithm
from guest.deadline import Deadline
from guest.errors import IntegrityError, InvalidInputError, PlatformError
from guest_simulator.tpm import wire
from guest_simulator.tpm.paravisor import SNP, TDX
from guest_simulator.tpm.relay import TpmFault
from support.tpm_world import TpmGuest, azure_guest, tpm_guest

pytestmark = [pytest.mark.swtpm]

DIGEST = bytes.fromhex("d15bce9ef7f6be26af365c5a0d4f025ee555b64d7b874c930b97aa0ddd82d2ae")
PCR_8 = "d5958e1a5c45ca630e823e9a5e42eb447b211fdaf65682bd239994d087714dce"


def soon() -> Deadline:
    return Deadline.after(10)


def parts_of(guest: TpmGuest) -> tuple[MeasurementRegisters, InitDataBinder]:
    attester = detect(guest.hints())
    assert attester.registers is not None
    assert attester.init_data is not None
    return attester.registers, attester.init_data


async def verify_binding(guest: TpmGuest, text: str) -> None:
    """A digest of 48 bytes fails, one of 32 is bound once, a second start changes nothing."""
    registers, init_data = parts_of(guest)
    with pytest.raises(InvalidInputError, match=f"^{text}$"):
        await init_data.bind(bytes(48), soon())
    assert await registers.read(8, soon()) == bytes(32)
    await init_data.bind(DIGEST, soon())
    assert (await registers.read(8, soon())).hex() == PCR_8
    registers, init_data = parts_of(guest)
    await init_data.bind(DIGEST, soon())
    assert (await registers.read(8, soon())).hex() == PCR_8
    assert guest.relay.codes().count(wire.PCR_EXTEND) == 1


@pytest.mark.spec("attesters", 39)
@pytest.mark.spec("attestation-agent", 41, 42)
async def test_init_data_of_48_bytes_fails_and_of_32_is_bound_exactly_once(
    short_tmp: Path,
) -> None:
    for name in ("tpm", "tdx", "snp"):
        (short_tmp / name).mkdir()
    with tpm_guest(short_tmp / "tpm") as guest:
        await verify_binding(guest, "Event digest length is not 32 bytes")
    for name, kind in (("tdx", TDX), ("snp", SNP)):
        with azure_guest(short_tmp / name, kind) as (guest, _):
            await verify_binding(guest, "expected sha256 digest")


async def test_a_register_that_holds_something_else_is_left_and_both_values_are_shown(
    short_tmp: Path,
) -> None:
    with tpm_guest(short_tmp) as guest:
        _, init_data = parts_of(guest)
        guest.extend(8, bytes(32))
        before = hashlib.sha256(bytes(64)).hexdigest()
        with pytest.raises(IntegrityError, match=f"PCR 8 is {before}.*expected {PCR_8}"):
            await init_data.bind(DIGEST, soon())
        assert wire.PCR_EXTEND not in guest.relay.codes()


async def test_the_register_of_init_data_is_looked_at_after_it_was_extended(
    short_tmp: Path,
) -> None:
    with tpm_guest(short_tmp) as guest:
        _, init_data = parts_of(guest)
        guest.relay.faults.append(
            TpmFault(code=wire.PCR_EXTEND, answer=wire.response(sessions=True), times=1)
        )
        with pytest.raises(IntegrityError, match="PCR 8 is 0000"):
            await init_data.bind(DIGEST, soon())


async def test_registers_are_named_by_their_number_and_hold_sha256(short_tmp: Path) -> None:
    with tpm_guest(short_tmp) as guest:
        registers, _ = parts_of(guest)
        assert registers.algorithm is HashAlgorithm.SHA256
        assert [registers.log_index(number) for number in range(24)] == list(range(24))
        for number in (-1, 24, 264, 1 << 63):
            with pytest.raises(InvalidInputError, match=r"^PCR index out of bounds$"):
                registers.log_index(number)
            with pytest.raises(InvalidInputError, match=r"^PCR index out of bounds$"):
                await registers.read(number, soon())
        with pytest.raises(InvalidInputError, match=r"^Event digest length is not 32 bytes$"):
            await registers.extend(16, bytes(48), soon())
        await registers.extend(16, DIGEST, soon())
        expected = hashlib.sha256(bytes(32) + DIGEST).digest()
        assert await registers.read(16, soon()) == expected
        assert await registers.read(17, soon()) == b"\xff" * 32
        with pytest.raises(PlatformError, match=r"^PCR 17 cannot be extended"):
            await registers.extend(17, DIGEST, soon())
