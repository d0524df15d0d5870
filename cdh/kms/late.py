"""A resource client that is made when it is first used, in a thread, and then kept."""

import asyncio
from collections.abc import Callable

from cdh.kms.base import InitialisationError, ResourceClient
from guest.deadline import Deadline
from guest.errors import GuestError
from guest.resource_uri import ResourceUri
from guest.secret import Secret


class LateClient:
    """A `ResourceClient` around one whose libraries take long to import.

    Args:
        open_client: imports them and makes the client; runs in a thread, so that other calls go
            on meanwhile. After a failure the next use tries again.
    """

    def __init__(self, open_client: Callable[[], ResourceClient]) -> None:
        self._open_client = open_client
        self._opening = asyncio.Lock()
        self._opened = asyncio.Event()
        self._client: ResourceClient | None = None

    async def fetch(self, uri: ResourceUri, deadline: Deadline) -> Secret:
        """The resource's bytes.

        Raises:
            InitialisationError: the client cannot be made, or says so itself.
            GuestError: as the client says.
        """
        client = self._client or await self._get_client(deadline)
        return await client.fetch(uri, deadline)

    async def run(self, stop: asyncio.Event) -> None:
        """Once there is a client, do what it does in the background until `stop`."""
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(self._run_client(stop), name="resource client background")
            await stop.wait()
            if not self._opened.is_set():
                waiting.cancel()

    async def close(self) -> None:
        """Close the client, if there is one."""
        if self._client is not None:
            await self._client.close()

    async def _run_client(self, stop: asyncio.Event) -> None:
        await self._opened.wait()
        assert self._client is not None
        await self._client.run(stop)

    async def _get_client(self, deadline: Deadline) -> ResourceClient:
        if self._client is None:
            async with deadline.limit("the resource client's libraries"), self._opening:
                if self._client is None:
                    self._client = await self._make()
                    self._opened.set()
        return self._client

    async def _make(self) -> ResourceClient:
        try:
            return await asyncio.to_thread(self._open_client)
        except InitialisationError:
            raise
        except GuestError as error:
            raise InitialisationError(f"kbs client creation failed: {error}") from error
