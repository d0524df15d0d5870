"""The system's certificates, read as this is imported: 20 ms, so not on an event loop."""

import ssl
from typing import Final


def system_context() -> ssl.SSLContext:
    """A new context that trusts what the system trusts and speaks HTTP/1.1 (ALPN)."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(("http/1.1",))
    return context


SYSTEM: Final = system_context()
"""Of all clients that trust nobody else; nobody changes it."""
