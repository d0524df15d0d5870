"""The proxies that a configuration names, as HTTP clients take them."""

from cdh.config import ProxyConfig
from guest.proxies import Proxies


def make_proxies(config: ProxyConfig | None) -> Proxies:
    """Proxies for what leaves the guest; None is no proxy.

    Raises:
        ConfigError: one of them is no http or https URL.
    """
    if config is None:
        return Proxies()
    proxies = Proxies(
        https=config.https_proxy or "",
        http=config.http_proxy or "",
        no_proxy=config.no_proxy or "",
    )
    proxies.verify()
    return proxies
