"""Which requests go through which HTTP proxy. Sans-I/O.

Source: docs/spec/kbs-protocol.md 10.1; the usual meaning of `HTTP_PROXY`, `HTTPS_PROXY`,
`ALL_PROXY` and `NO_PROXY`, in either case.
"""

import ipaddress
from collections.abc import Mapping
from typing import Final
from urllib.parse import SplitResult, urlsplit

import msgspec

from guest.errors import ConfigError

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Proxies(msgspec.Struct, frozen=True, kw_only=True):
    """Proxy URLs; the empty string is none.

    Attributes:
        https: for `https` URLs, reached with CONNECT.
        http: for `http` URLs.
        no_proxy: hosts that are reached directly, separated by commas or spaces: a name (its
            subdomains are meant too, with or without a leading dot), an address, a network in
            CIDR form, each with an optional port, or `*` for all.
    """

    https: str = ""
    http: str = ""
    no_proxy: str = ""

    @classmethod
    def from_variables(cls, variables: Mapping[str, str]) -> "Proxies":
        """Read the usual variables from a mapping that a root gives; lower case goes first.

        Raises:
            ConfigError: a proxy URL is not http or https.
        """

        def find(*names: str) -> str:
            spellings = (spelling for name in names for spelling in (name, name.upper()))
            found = (variables.get(spelling, "") for spelling in spellings)
            return next((value for value in found if value), "")

        proxies = cls(
            https=find("https_proxy", "all_proxy"),
            http=find("http_proxy", "all_proxy"),
            no_proxy=find("no_proxy"),
        )
        proxies.verify()
        return proxies

    def verify(self) -> None:
        """Refuse proxies that could never be used.

        Raises:
            ConfigError: a proxy URL is not http or https.
        """
        for proxy in (self.https, self.http):
            if not proxy:
                continue
            try:
                parts = urlsplit(_with_scheme(proxy))
                usable = parts.scheme in _DEFAULT_PORTS and bool(parts.hostname)
                usable = usable and (parts.port is None or parts.port > 0)
            except ValueError:
                usable = False
            if not usable:
                raise ConfigError("proxy must be an http or https URL with a host")

    def for_url(self, url: str) -> str | None:
        """The proxy for a request, or None to go directly."""
        if not self.https and not self.http:
            return None
        parts = urlsplit(url)
        proxy = self.https if parts.scheme == "https" else self.http
        if not proxy or self._is_excepted(parts):
            return None
        return _with_scheme(proxy)

    def _is_excepted(self, parts: SplitResult) -> bool:
        host = (parts.hostname or "").rstrip(".")
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
        entries = self.no_proxy.replace(",", " ").lower().split()
        return any(_matches(entry, host, port) for entry in entries)


def _with_scheme(proxy: str) -> str:
    return proxy if "://" in proxy else f"http://{proxy}"


def _matches(entry: str, host: str, port: int | None) -> bool:
    if entry == "*":
        return True
    name, entry_port = _split_port(entry)
    if entry_port is not None and entry_port != port:
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = name.removeprefix("*").strip(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))
    try:
        return address in ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False


def _split_port(entry: str) -> tuple[str, int | None]:
    """Split `host:port` and `[address]:port`; a bare IPv6 address has no port."""
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        port_text = rest.removeprefix(":")
    elif entry.count(":") == 1:
        name, _, port_text = entry.partition(":")
    else:
        return entry, None
    return name, int(port_text) if port_text.isascii() and port_text.isdigit() else None
