"""Alibaba Cloud on loopback: `async with AliyunCloud() as cloud`.

Clients use the real host names: `proxy` leads them all here, and `ca` vouches for them.
"""

import re
from typing import Final, Self

from guest_simulator.faults import Faults
from guest_simulator.kms.aliyun import trustee
from guest_simulator.kms.aliyun.instance import Instance
from guest_simulator.kms.aliyun.metadata import Metadata
from guest_simulator.kms.aliyun.openapi import SharedGateways
from guest_simulator.kms.aliyun.store import AliyunStore
from guest_simulator.kms.aliyun.trustee import TrusteeInstance
from guest_simulator.kms.cloud import Cloud
from guest_simulator.reply import Reply
from guest_simulator.request_log import RequestLog
from guest_simulator.service import HttpService, Incoming

NAMES: Final = (
    "*.cryptoservice.kms.aliyuncs.com",
    "kms.cn-beijing.aliyuncs.com",
    "sts.cn-beijing.aliyuncs.com",
    "kms.cn-hangzhou-finance.aliyuncs.com",
    "sts.aliyuncs.com",
)
"""What the certificate stands for."""

INSTANCE: Final = re.compile(r"[a-z0-9-]+\.cryptoservice\.kms\.aliyuncs\.com\Z")
SHARED: Final = re.compile(r"(?P<service>kms|sts)(?:\.(?P<region>[a-z0-9-]+))?\.aliyuncs\.com\Z")


class AliyunCloud(Cloud):
    """A KMS instance, the shared gateways, the metadata server.

    Attributes:
        store: what they know.
        metadata: the metadata server's rules.
        trustee: what an instance does that verifies evidence.
    """

    def __init__(self) -> None:
        super().__init__("aliyun simulator CA", NAMES, self._handle)
        self.store = AliyunStore()
        self.metadata = Metadata(self.store)
        self.trustee = TrusteeInstance(self.store)
        self._instance = Instance(self.store)
        self._shared = SharedGateways(self.store)
        self._metadata_service = HttpService(self.metadata.answer)

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._metadata_service)
        return await super().__aenter__()

    @property
    def metadata_url(self) -> str:
        """Stands for `http://100.100.100.200`."""
        return self._metadata_service.url

    @property
    def metadata_faults(self) -> Faults:
        """What goes wrong at the metadata server."""
        return self._metadata_service.faults

    @property
    def metadata_requests(self) -> RequestLog:
        """What the metadata server was asked."""
        return self._metadata_service.requests

    async def _handle(self, request: Incoming) -> Reply:
        host = request.host.partition(":")[0]
        if INSTANCE.match(host) and request.header("content-type") == trustee.MEDIA_TYPE:
            return await self.trustee.answer(request)
        if INSTANCE.match(host):
            return await self._instance.answer(request)
        match = SHARED.match(host)
        if match is None:
            return Reply(status=421)
        return await self._shared.answer(request, match["service"], match["region"] or "")
