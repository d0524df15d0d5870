"""Imports aiohttp without the system's certificates, which it would read twice for itself.

aiohttp makes two TLS contexts as it is imported, 0.85 MiB and 20 ms CPU each. Here they stay
without roots, so that whoever used them would trust nobody; a client has its context from
`guest.http_roots`.

Source: docs/adr/0003-pull-speed.md.
"""

import ssl
import threading
from typing import Any


def _import_without_roots() -> None:
    """What this thread wants of the system's certificates meanwhile is not read."""
    here = threading.get_ident()
    read = ssl.SSLContext.set_default_verify_paths

    def skip(context: ssl.SSLContext) -> None:
        if threading.get_ident() != here:
            read(context)

    changed: Any = ssl.SSLContext
    changed.set_default_verify_paths = skip
    try:
        import aiohttp  # noqa: F401  # for its effect
    finally:
        del changed.set_default_verify_paths


_import_without_roots()
