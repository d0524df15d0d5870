"""What the hub's first requests import, for `guest.warmup`. A test pulls an image and compares."""

from typing import Final

from cdh.config import CdhConfig
from guest.warmup import HTTP

_CIPHERS: Final = (
    "cryptography.hazmat.primitives.ciphers",
    "cryptography.hazmat.primitives.serialization",
)

_KBS: Final = ("guest.kbs.client", "cdh.kms.kbs")

_PULL: Final = (
    "encodings.ascii",
    "image_pull.layers.pipeline",
    "image_pull.registry.client",
    "image_pull.settings",
    "image_pull.component",
    "image_pull.ocicrypt.keywrap.keyprovider",
)


def first_needs(config: CdhConfig) -> tuple[str, ...]:
    """Modules by full name, in the order of import: small ones before those that need them.

    The first pull of an encrypted image needs all; the first resource a part of them.
    """
    kbs = _KBS if config.kbc.name == "cc_kbc" else ()
    return (*_CIPHERS, *HTTP, *kbs, *_PULL)
