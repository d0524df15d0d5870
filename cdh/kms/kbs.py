"""Resources from the key broker service, with a token from the attestation agent: `cc_kbc`.

Source: docs/spec/confidential-data-hub.md 6.2, docs/spec/kbs-protocol.md 10.3.
"""

import asyncio
from typing import Self

from cdh.agent import AgentClient, AgentUnreachableError
from cdh.config import CdhConfig
from cdh.kms.base import InitialisationError
from cdh.kms.proxies import make_proxies
from guest.deadline import Deadline
from guest.errors import ConfigError, DecodeError, PeerError
from guest.http import HttpClient
from guest.kbs.client import TokenClient, TokenPair
from guest.kbs.endpoints import USER_AGENT
from guest.resource_uri import ResourceUri
from guest.secret import Secret


class AgentTokens:
    """A `TokenProvider`: each token is one attestation of the agent."""

    def __init__(self, agent: AgentClient) -> None:
        self._agent = agent

    async def fetch_token(self, deadline: Deadline) -> TokenPair:
        """A new token with its key.

        Raises:
            AgentUnreachableError: no connection to the agent.
            PeerError: the agent's answer is not a token with its key.
            GuestError: it attested in vain, or not in time.
        """
        answer = await self._agent.get_token(deadline)
        try:
            with answer:
                return TokenPair.decode(answer.reveal())
        except DecodeError as error:
            raise PeerError(f"the attestation agent's token is unusable: {error}") from error


class KbsResources:
    """A `ResourceClient` over one `TokenClient` and one pool of connections."""

    def __init__(self, client: TokenClient, http: HttpClient) -> None:
        self._client = client
        self._http = http

    @classmethod
    def open(cls, config: CdhConfig, agent: AgentClient) -> Self:
        """Make the client; nothing is sent yet.

        Raises:
            ConfigError: an address, a certificate or a proxy can never work.
        """
        roots = () if config.kbc.kbs_cert is None else (config.kbc.kbs_cert,)
        proxies = make_proxies(config.proxy)
        http = HttpClient(user_agent=USER_AGENT, extra_roots=roots, proxies=proxies)
        tokens = AgentTokens(agent)
        client = TokenClient(config.kbc.endpoints(), http, tokens, api_key=config.kbc.api_key)
        return cls(client, http)

    async def fetch(self, uri: ResourceUri, deadline: Deadline) -> Secret:
        """The resource, decrypted.

        Raises:
            InitialisationError: the agent cannot be reached, or no request can ever be made.
            GuestError: as `TokenClient.fetch_resource`.
        """
        try:
            return await self._client.fetch_resource(uri, deadline)
        except (AgentUnreachableError, ConfigError) as error:
            raise InitialisationError(str(error)) from error

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the token fresh until `stop`."""
        await self._client.run(stop)

    async def close(self) -> None:
        """Forget the token, close the connections."""
        await self._client.close()
        await self._http.close()
