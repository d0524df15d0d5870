"""The register of a measurement that names none."""

import pytest

from attestation_agent.default_register import choose_register
from guest.errors import ConfigError
from guest.tee import Tee

PCR_TEES = [Tee.TPM, Tee.AZ_TDX_VTPM, Tee.AZ_SNP_VTPM]


@pytest.mark.parametrize("tee", PCR_TEES)
def test_a_tpm_measures_into_16_unless_told_otherwise_and_never_into_8(tee: Tee) -> None:
    assert choose_register(None, tee) == 16
    assert choose_register(17, tee) == 17
    assert choose_register(9, tee) == 9
    assert choose_register(0, tee) == 0
    with pytest.raises(ConfigError, match="init_pcr 8: init data is bound by it"):
        choose_register(8, tee)
    for number in (24, 264, 1 << 63):
        with pytest.raises(ConfigError, match=f"init_pcr {number}: a TPM has PCR 0 to 23"):
            choose_register(number, tee)


def test_other_tees_measure_into_17_or_whatever_they_are_told() -> None:
    assert choose_register(None, Tee.TDX) == 17
    assert choose_register(8, Tee.TDX) == 8
    assert choose_register(264, Tee.CSV) == 264
