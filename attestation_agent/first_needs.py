"""What the agent's first answers import, for `guest.warmup`. A test asks for one and compares."""

from collections.abc import Collection
from typing import Final

from attestation_agent.config import TokenConfigs
from attestation_agent.default_register import PCR_TEES
from guest.tee import Tee
from guest.warmup import HTTP

_KBS: Final = (
    "cryptography.hazmat.primitives.serialization",
    "rfc8785",
    "encodings.utf_16_be",
    "guest.kbs.client",
    "attestation_agent.tokens.kbs",
)

_COCO_AS: Final = ("attestation_agent.tokens.coco_as",)


_TPM: Final = ("attestation_agent.hardware.tpm2",)


def first_needs(tokens: TokenConfigs, tees: Collection[Tee] = ()) -> tuple[str, ...]:
    """Modules by full name, in the order of import.

    Args:
        tokens: those that are configured.
        tees: that have an attester in this guest.
    """
    kbs = _KBS if tokens.kbs is not None else ()
    coco_as = _COCO_AS if tokens.coco_as is not None else ()
    http = HTTP if kbs or coco_as else ()
    tpm = () if PCR_TEES.isdisjoint(tees) else _TPM
    return (*http, *kbs, *coco_as, *tpm)
