"""Which modules the agent imports while it is idle."""

import pytest

from attestation_agent.config import KbsConfig, TokenConfigs
from attestation_agent.first_needs import first_needs
from guest.tee import Tee

TPM = "attestation_agent.hardware.tpm2"


@pytest.mark.parametrize("tee", [Tee.TPM, Tee.AZ_TDX_VTPM, Tee.AZ_SNP_VTPM])
def test_a_guest_whose_evidence_needs_a_tpm_loads_its_library(tee: Tee) -> None:
    assert first_needs(TokenConfigs(), (tee,)) == (TPM,)
    assert first_needs(TokenConfigs(), (Tee.SNP, tee)) == (TPM,)


def test_a_guest_without_tpm_and_tokens_imports_nothing() -> None:
    assert first_needs(TokenConfigs(), (Tee.TDX, Tee.NVIDIA)) == ()


def test_what_a_token_needs_comes_before_the_tpm() -> None:
    tokens = TokenConfigs(kbs=KbsConfig(url="http://127.0.0.1"))
    needs = first_needs(tokens, (Tee.TPM,))
    assert needs[:-1] == first_needs(tokens)
    assert needs[-1] == TPM
