"""`guest image ...`: the image commands, with the key provider that this process can be itself."""

import argparse
from contextlib import AbstractAsyncContextManager

from cdh.keyprovider.owner import OwnerSettings, key_provider
from cdh.keyprovider.registration import AdminClaims
from image_pull import tools
from image_pull.ocicrypt.wrapping import KeyProvider


def run(options: argparse.Namespace, environment: dict[str, str]) -> int:
    """Do what was parsed; exit status 0, 1 or 2."""
    return tools.run(options, environment, open_local=_open_local)


def _open_local(settings: tools.LocalSettings) -> AbstractAsyncContextManager[KeyProvider]:
    claims = AdminClaims(role=settings.role, issuer=settings.issuer, audience=settings.audience)
    return key_provider(
        OwnerSettings(
            kbs=settings.kbs,
            auth_private_key=settings.auth_private_key,
            kbs_cert=settings.kbs_cert,
            claims=claims,
            proxies=settings.proxies,
        )
    )
