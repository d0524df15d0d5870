"""Builds the wrapping side from what an owner configures: a KBS, a key, or neither."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cdh.keyprovider.registration import AdminClaims, KekRegistrar, base_url
from cdh.keyprovider.rpc import KeyProviderService
from cdh.keyprovider.wrap import LayerKeyWrapper
from guest.errors import ConfigError, DecodeError
from guest.proxies import Proxies
from guest.secret import Secret

log = logging.getLogger(__name__)

USER_AGENT: Final = "coco-guest"
MAX_FILE: Final = 1024 * 1024
"""Most bytes of a key or certificate file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerSettings:
    """Where KEKs are registered, if anywhere.

    Attributes:
        kbs: base URL of the KBS, or None.
        auth_private_key: Ed25519 private key, PKCS#8 PEM.
        kbs_cert: PEM file of authorities to trust besides the system's.
        claims: what the admin token says besides its times.
        proxies: of the environment.
    """

    kbs: str | None = None
    auth_private_key: Path | None = None
    kbs_cert: Path | None = None
    claims: AdminClaims = field(default_factory=AdminClaims)
    proxies: Proxies = field(default_factory=Proxies)


@asynccontextmanager
async def key_provider(settings: OwnerSettings) -> AsyncIterator[KeyProviderService]:
    """The service, with a registrar if both KBS and key are given; closed after the block.

    Raises:
        ConfigError: the URL is none, a file cannot be read or holds something else.
    """
    if settings.kbs is not None:
        base_url(settings.kbs)
    if settings.kbs is None or settings.auth_private_key is None:
        if settings.kbs is not None or settings.auth_private_key is not None:
            log.warning("no registration: it needs both --kbs and --auth-private-key")
        yield KeyProviderService(LayerKeyWrapper(None))
        return
    async with open_registrar(settings.kbs, settings.auth_private_key, settings) as registrar:
        yield KeyProviderService(LayerKeyWrapper(registrar))


@asynccontextmanager
async def open_registrar(
    kbs: str, private_key: Path, settings: OwnerSettings
) -> AsyncIterator[KekRegistrar]:
    """Who uploads resources to a KBS as an administrator; closed after the block.

    Args:
        kbs: base URL of the KBS.
        private_key: Ed25519 private key, PKCS#8 PEM.
        settings: certificate, claims and proxies.

    Raises:
        ConfigError: the URL is none, a file cannot be read or holds something else.
    """
    from guest.crypto.jose import SigningKey
    from guest.http import HttpClient

    with _read(private_key) as pem:
        try:
            key = SigningKey.from_pem(pem)
        except DecodeError as error:
            raise ConfigError(f"{private_key} is no Ed25519 key in PEM") from error
    roots: tuple[str, ...] = ()
    if settings.kbs_cert is not None:
        roots = (_read(settings.kbs_cert).reveal().decode("utf-8", "replace"),)
    http = HttpClient(user_agent=USER_AGENT, extra_roots=roots, proxies=settings.proxies)
    try:
        yield KekRegistrar(kbs, http, key, settings.claims, time.time)
    finally:
        await http.close()


def _read(path: Path) -> Secret:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read") from error
    if len(content) > MAX_FILE:
        raise ConfigError(f"{path} has more than {MAX_FILE} bytes")
    return Secret(content)
