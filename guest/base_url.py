"""Base URLs of services, as configurations name them. Sans-I/O.

Source: docs/spec/kbs-protocol.md 9.2; docs/spec/confidential-data-hub.md 2.3.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

from guest.errors import ConfigError


def base_url(url: str, what: str = "KBS URL") -> str:
    """A URL that paths can be put after: its trailing slashes are off.

    Args:
        url: as it was configured.
        what: names it in the error.

    Raises:
        ConfigError: not a plain http or https URL.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    is_plain = url.isascii() and url.isprintable() and not {" ", "?", "#", "\\"} & set(url)
    if not usable or not is_plain:
        raise ConfigError(f"{what} {url[:200]!r} is not an http or https URL")
    return url.rstrip("/")


def verify_base_urls(urls: Mapping[str, str]) -> None:
    """Refuse what no request could ever be sent to, at start; empty ones are what is not set.

    Args:
        urls: by the keys of the configuration.

    Raises:
        ConfigError: one of them is not a plain http or https URL; names its key.
    """
    for key, url in urls.items():
        if url:
            base_url(url, key)
