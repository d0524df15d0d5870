"""Which register a runtime measurement extends that names none. Sans-I/O.

Source: docs/spec/attestation-agent.md 2.2 and 7.4.
"""

from typing import Final

from guest.errors import ConfigError
from guest.tee import Tee

PCR_TEES: Final = frozenset((Tee.TPM, Tee.AZ_TDX_VTPM, Tee.AZ_SNP_VTPM))
"""Whose registers are a TPM's."""

DEFAULT_REGISTER: Final = 17
DEFAULT_PCR: Final = 16
"""An operating system cannot extend PCR 17 to 22 of a TPM."""

INIT_DATA_PCR: Final = 8
LAST_PCR: Final = 23


def choose_register(configured: int | None, tee: Tee) -> int:
    """The register for a TEE.

    Args:
        configured: `init_pcr`; None where the configuration does not say.
        tee: the primary one.

    Raises:
        ConfigError: the TPM has no such register, or init data is bound by it.
    """
    if tee not in PCR_TEES:
        return DEFAULT_REGISTER if configured is None else configured
    if configured is None:
        return DEFAULT_PCR
    if configured == INIT_DATA_PCR:
        raise ConfigError(f"eventlog_config.init_pcr {configured}: init data is bound by it")
    if configured > LAST_PCR:
        raise ConfigError(f"eventlog_config.init_pcr {configured}: a TPM has PCR 0 to {LAST_PCR}")
    return configured
