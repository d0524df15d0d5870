"""Tokens of a KBS: one attestation, one key pair and one token for each request.

Nothing is shared between calls: a caller may be a container, and must not get another's key.

Source: docs/spec/attestation-agent.md 5.1, 5.2 and 5.4; docs/ARCHITECTURE.md, decision 3.
"""

from collections.abc import Callable

from attestation_agent.collector import EvidenceCollector
from attestation_agent.config import KbsConfig
from guest.deadline import Deadline
from guest.http import HttpClient
from guest.kbs.client import RcarClient
from guest.kbs.endpoints import USER_AGENT
from guest.proxies import Proxies
from guest.secret import Secret


class KbsTokens:
    """Attests to one Trustee over one pool of connections."""

    def __init__(
        self,
        config: KbsConfig,
        evidence: EvidenceCollector,
        *,
        init_data: str | None,
        proxies: Proxies,
        headers: Callable[[], tuple[tuple[str, str], ...]] = tuple,
    ) -> None:
        """Check the parts; nothing is sent yet.

        Raises:
            ConfigError: a URL, certificate or proxy is not usable.
        """
        roots = () if config.cert is None else (config.cert,)
        self._http = HttpClient(user_agent=USER_AGENT, extra_roots=roots, proxies=proxies)
        self._client = RcarClient(
            (config.url, *config.fallback_urls),
            self._http,
            evidence,
            key_algorithm=config.tee_key_algorithm,
            init_data=init_data,
            api_key=config.api_key,
            attest_headers=headers,
        )

    async def fetch(self, deadline: Deadline, additional_data: str | None = None) -> Secret:
        """`{"token":"<JWT>","tee_keypair":"<PEM>"}`, both new.

        Raises:
            GuestError: see `RcarClient.attest`.
        """
        del additional_data  # the protocol has no place for it
        pair = await self._client.attest(deadline)
        return pair.encode()

    async def close(self) -> None:
        """Close the pool."""
        await self._http.close()
