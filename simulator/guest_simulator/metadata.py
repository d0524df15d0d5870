"""The metadata services of four clouds, each on loopback, with programmable faults.

Source: docs/spec/podvm-image.md 5.2 and 11; the clouds' own documentation of their services.
"""

import base64
import secrets
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from guest_simulator.reply import Reply
from guest_simulator.service import HttpService, Incoming

TOKEN_LIFE: Final = range(1, 21_601)
"""Seconds that a session token may be asked to live."""


class Cloud(StrEnum):
    """Whose service it is."""

    AZURE = "azure"
    AWS = "aws"
    GCP = "gcp"
    ALIBABA = "alibaba"


class Tokens(StrEnum):
    """What a service with session tokens does about them."""

    REQUIRED = "required"
    """Without a token the answer is 401 (AWS) or 403 (Alibaba Cloud)."""
    OPTIONAL = "optional"
    ABSENT = "absent"
    """The token call is 404, as where the service is older than tokens."""


_WORDS: Final = {
    Cloud.AWS: ("x-aws-ec2-metadata-token", 401),
    Cloud.ALIBABA: ("x-aliyun-ecs-metadata-token", 403),
}
"""Header of a session token, and the status of an answer without it."""


class Metadata(HttpService):
    """The service of one cloud, for one instance.

    Attributes:
        user_data: the document as its owner wrote it; None for an instance without.
        tokens: see `Tokens`; of AWS and Alibaba Cloud only.
        lives: lives of the tokens that were given out, in seconds.
    """

    def __init__(
        self,
        cloud: Cloud,
        user_data: bytes | None,
        *,
        tokens: Tokens = Tokens.OPTIONAL,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        handlers: dict[Cloud, Callable[[Incoming], Reply]] = {
            Cloud.AZURE: self._azure,
            Cloud.AWS: self._with_tokens,
            Cloud.GCP: self._gcp,
            Cloud.ALIBABA: self._with_tokens,
        }
        self.cloud: Final = cloud
        self.user_data = user_data
        self.tokens = tokens
        self.lives: list[int] = []
        self._issued: set[str] = set()
        self._handle = handlers[cloud]
        super().__init__(self._handle_request, host=host, port=port)

    async def _handle_request(self, request: Incoming) -> Reply:
        return self._handle(request)

    def _azure(self, request: Incoming) -> Reply:
        if request.header("Metadata").lower() != "true" or request.header("X-Forwarded-For"):
            return Reply(status=400)
        if request.path != "/metadata/instance/compute/userData":
            return Reply(status=404)
        if request.query != "api-version=2021-01-01&format=text":
            return Reply(status=400)
        return _text(base64.b64encode(self.user_data or b""))

    def _gcp(self, request: Incoming) -> Reply:
        flavor = {"Metadata-Flavor": "Google", "Server": "Metadata Server for VM"}
        if request.header("Metadata-Flavor") != "Google":
            return Reply(status=403, headers=flavor)
        if request.path == "/computeMetadata/v1/instance":
            return Reply(status=301, headers=flavor | {"Location": f"{request.path}/"})
        if request.path == "/computeMetadata/v1/instance/":
            return _text(b"attributes/\nid\n", flavor)
        if request.path != "/computeMetadata/v1/instance/attributes/user-data":
            return Reply(status=404, headers=flavor)
        if self.user_data is None:
            return Reply(status=404, headers=flavor)
        return _text(base64.b64encode(self.user_data), flavor)

    def _with_tokens(self, request: Incoming) -> Reply:
        header, refused = _WORDS[self.cloud]
        if (request.method, request.path) == ("PUT", "/latest/api/token"):
            return self._issue(request.header(f"{header}-ttl-seconds"))
        token = request.header(header)
        if (token or self.tokens is Tokens.REQUIRED) and token not in self._issued:
            return Reply(status=refused)
        if request.path != "/latest/user-data" or self.user_data is None:
            return Reply(status=404)
        return _text(self.user_data)

    def _issue(self, life: str) -> Reply:
        if self.tokens is Tokens.ABSENT:
            return Reply(status=404)
        if not life.isdecimal() or int(life) not in TOKEN_LIFE:
            return Reply(status=400)
        self.lives.append(int(life))
        token = base64.b64encode(secrets.token_bytes(40)).decode()
        self._issued.add(token)
        return _text(token.encode())


def _text(body: bytes, headers: dict[str, str] | None = None) -> Reply:
    return Reply(headers={"Content-Type": "text/plain", **(headers or {})}, body=body)
