"""The key provider's work done inside `guest image encrypt`, with the key provider's own code."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cdh.keyprovider.owner import OwnerSettings, key_provider
from cdh.keyprovider.registration import AdminClaims
from image_pull.ocicrypt.wrapping import KeyProvider
from image_pull.tools import LocalSettings


@asynccontextmanager
async def open_local(settings: LocalSettings) -> AsyncIterator[KeyProvider]:
    """The provider, until the end of the block.

    Raises:
        ConfigError: the KBS's URL is none, or a file cannot be read.
    """
    owner = OwnerSettings(
        kbs=settings.kbs,
        auth_private_key=settings.auth_private_key,
        kbs_cert=settings.kbs_cert,
        claims=AdminClaims(role=settings.role, issuer=settings.issuer, audience=settings.audience),
        proxies=settings.proxies,
    )
    async with key_provider(owner) as service:
        yield service
