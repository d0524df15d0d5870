"""What the agent's first token imports, for `guest.warmup`. A test asks for one and compares."""

from typing import Final

from attestation_agent.config import TokenConfigs
from guest.warmup import HTTP

_KBS: Final = (
    "cryptography.hazmat.primitives.serialization",
    "rfc8785",
    "encodings.utf_16_be",
    "guest.kbs.client",
    "attestation_agent.tokens.kbs",
)

_COCO_AS: Final = ("attestation_agent.tokens.coco_as",)


def first_needs(tokens: TokenConfigs) -> tuple[str, ...]:
    """Modules by full name, in the order of import; none where no token is configured."""
    kbs = _KBS if tokens.kbs is not None else ()
    coco_as = _COCO_AS if tokens.coco_as is not None else ()
    return (*HTTP, *kbs, *coco_as) if kbs or coco_as else ()
