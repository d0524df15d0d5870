"""An eHSM-KMS on loopback: `async with EhsmServer() as server`.

It checks each signature over the members as they arrived, in ASCII order.

Source: docs/spec/confidential-data-hub.md 8.7.
"""

import re
import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from guest_simulator.cert import CertificateAuthority
from guest_simulator.clock import Clock
from guest_simulator.encoding import (
    EncodingError,
    b64_decode,
    b64_encode,
    compact_json,
    parse_object,
    text_member,
)
from guest_simulator.faults import Faults
from guest_simulator.reply import Reply
from guest_simulator.request_log import RequestLog
from guest_simulator.service import HttpService, Incoming

WINDOW_MILLISECONDS: Final = 30 * 60 * 1000
BODY_LIMIT: Final = 128 * 1024
NONCE_LENGTH: Final = 12
MEMBERS: Final = ["appid", "nonce", "payload", "sign", "timestamp"]
DATA: Final = {"Encrypt": "plaintext", "Decrypt": "ciphertext"}
"""Member of the payload by action, besides `keyid`."""


class EhsmError(Exception):
    """A refusal: code, text."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def flatten(members: Mapping[str, object]) -> str:
    """What is signed of an object."""
    pairs = ((k, flatten(v) if isinstance(v, dict) else v) for k, v in sorted(members.items()))
    return "&".join(f"{name}={value}" for name, value in pairs if value not in ("", None))


class EhsmServer:
    """The service; `127.0.0.1` and `localhost` are its names.

    Attributes:
        clock: dates requests.
        apps: API keys by application.
        keys: AES keys of 32 bytes by id.
        ca: PEM of the authority of its certificate.
        nonces: so that none comes twice.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.apps: dict[str, str] = {}
        self.keys: dict[str, bytes] = {}
        self.nonces: set[str] = set()
        authority = CertificateAuthority.create("ehsm simulator CA")
        self.ca = authority.pem
        tls = authority.issue("localhost", "127.0.0.1").context()
        self._service = HttpService(self._handle, tls=tls)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._service)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    @property
    def endpoint(self) -> str:
        """`https://127.0.0.1:<port>`."""
        return self._service.url

    @property
    def faults(self) -> Faults:
        """What goes wrong."""
        return self._service.faults

    @property
    def requests(self) -> RequestLog:
        """What was asked."""
        return self._service.requests

    async def _handle(self, request: Incoming) -> Reply:
        headers = {"Content-Type": "application/json; charset=utf-8"}
        answer: dict[str, object]
        try:
            answer = {"code": 200, "message": "success!", "result": await self._answer(request)}
        except EhsmError as error:
            answer = {"code": error.code, "message": error.message, "result": {}}
        return Reply(headers=headers, body=compact_json(answer))

    async def _answer(self, request: Incoming) -> dict[str, str]:
        action = request.query.removeprefix("Action=")
        if (request.method, request.path) != ("POST", "/ehsm") or action not in DATA:
            raise EhsmError(404, "API not found")
        if request.header("content-type").partition(";")[0] != "application/json":
            raise EhsmError(400, "Content-Type")
        try:
            members = parse_object(await request.read(BODY_LIMIT))
            payload = members.get("payload")
            if sorted(members) != MEMBERS or not isinstance(payload, dict):
                raise EhsmError(400, "Missing required parameters")
            self._verify(members)
            if sorted(payload) != sorted(("keyid", DATA[action])):
                raise EhsmError(400, "payload")
            return self._run(action, payload)
        except EncodingError as error:
            raise EhsmError(400, str(error)) from error

    def _verify(self, members: Mapping[str, object]) -> None:
        names = ("appid", "nonce", "timestamp", "sign")
        app_id, nonce, timestamp, sign = (text_member(members, name) for name in names)
        if app_id not in self.apps:
            raise EhsmError(401, "Appid not found")
        if not re.fullmatch(r"[0-9]{13}", timestamp):
            raise EhsmError(400, "timestamp is no 13 digits")
        if abs(int(timestamp) - self.clock.now() * 1000) > WINDOW_MILLISECONDS:
            raise EhsmError(401, "timestamp expired")
        mac = hmac.HMAC(self.apps[app_id].encode(), hashes.SHA256())
        mac.update(flatten({k: v for k, v in members.items() if k != "sign"}).encode())
        try:
            mac.verify(b64_decode(sign))
        except InvalidSignature as error:
            raise EhsmError(401, "sign error") from error
        if not 0 < len(nonce) <= 64 or nonce in self.nonces:
            raise EhsmError(401, "nonce was used")
        self.nonces.add(nonce)

    def _run(self, action: str, payload: Mapping[str, object]) -> dict[str, str]:
        key_id, data = (text_member(payload, name) for name in ("keyid", DATA[action]))
        if key_id not in self.keys:
            raise EhsmError(400, "keyid not found")
        key = AESGCM(self.keys[key_id])
        content = b64_decode(data)
        if action == "Encrypt":
            nonce = secrets.token_bytes(NONCE_LENGTH)
            return {"ciphertext": b64_encode(nonce + key.encrypt(nonce, content, None))}
        try:
            plain = key.decrypt(content[:NONCE_LENGTH], content[NONCE_LENGTH:], None)
        except (InvalidTag, ValueError) as error:
            raise EhsmError(500, "decrypt failed") from error
        return {"plaintext": b64_encode(plain)}
