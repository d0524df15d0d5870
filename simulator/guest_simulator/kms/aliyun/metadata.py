"""The metadata server of a machine, with its token mode.

Source: docs/spec/confidential-data-hub.md 8.4.
"""

import secrets
from enum import StrEnum
from typing import Final

from guest_simulator.encoding import compact_json
from guest_simulator.kms.aliyun.openapi import credentials, format_time
from guest_simulator.kms.aliyun.store import AliyunStore
from guest_simulator.reply import Reply
from guest_simulator.service import Incoming

ROLES: Final = "/latest/meta-data/ram/security-credentials/"
TTL: Final = "X-aliyun-ecs-metadata-token-ttl-seconds"


class TokenMode(StrEnum):
    """Whether requests carry a token."""

    REQUIRED = "required"
    UNKNOWN = "unknown"
    """An old server: it has no tokens and answers without."""


class Metadata:
    """Answers what a machine asks.

    Attributes:
        mode: change it at any time.
    """

    def __init__(self, store: AliyunStore) -> None:
        self.mode = TokenMode.REQUIRED
        self._store = store
        self._tokens: set[str] = set()

    async def answer(self, request: Incoming) -> Reply:
        """The answer to one request."""
        if request.method == "PUT" and request.path == "/latest/api/token":
            return self._token(request)
        if request.method != "GET" or not request.path.startswith(ROLES):
            return Reply(status=404)
        token = request.header("X-aliyun-ecs-metadata-token")
        if self.mode is TokenMode.REQUIRED and token not in self._tokens:
            return Reply(status=403)
        if request.path.removeprefix(ROLES) not in self._store.roles:
            return Reply(status=404)
        now = format_time(self._store.clock.now())
        document = credentials(self._store.issue()) | {"LastUpdated": now, "Code": "Success"}
        return Reply(headers={"Content-Type": "text/plain"}, body=compact_json(document))

    def _token(self, request: Incoming) -> Reply:
        if self.mode is TokenMode.UNKNOWN:
            return Reply(status=404)
        if not request.header(TTL).isdigit():
            return Reply(status=400)
        token = secrets.token_urlsafe(32)
        self._tokens.add(token)
        return Reply(headers={"Content-Type": "text/plain"}, body=f"{token}\n".encode())
