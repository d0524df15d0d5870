"""The interface for containers: a request becomes a call, an outcome an answer.

Source: docs/spec/api-server-rest.md 2 to 5; docs/spec/confidential-data-hub.md 12.5.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Final, Protocol

from api_server_rest.access import is_loopback
from api_server_rest.backend import BACKEND_SECONDS, REQUEST_FAILED, BackendError, Backends
from api_server_rest.config import Injection, RestConfig
from api_server_rest.exchange import Answer, BodyError, BodyTooLongError, Request
from api_server_rest.injection import (
    MAX_NONCE_DOCUMENT,
    MAX_RESOURCE_DOCUMENT,
    NonceDocument,
    ResourceDocument,
)
from api_server_rest.query import (
    MAX_EVENT_LENGTH,
    Event,
    Target,
    decode_runtime_data,
    parse_query,
)
from api_server_rest.routing import Action, Refusal, Route, find_route
from guest.deadline import Deadline, boot_seconds
from guest.errors import DeadlineError, DecodeError

log = logging.getLogger(__name__)

REASON_HEADER: Final = "x-coco-error"
"""Names the cause of a failure in one word; our addition."""

BINARY: Final = "application/octet-stream"
JSON: Final = "application/json"

MAX_INJECTIONS: Final = 4
"""Requests under way at a time that push a resource; each holds its body in memory."""

BAD_REQUEST: Final = Answer(status=400, body=b"BAD REQUEST")
FORBIDDEN: Final = Answer(status=403, body=b"Forbidden")
TOO_LONG: Final = Answer(status=413, body=b"Payload Too Large", close=True)


class Observer(Protocol):
    """Who counts requests."""

    def request_ended(self, action: str, status: int, seconds: float) -> None:
        """A request was answered; `action` is one of a few words."""
        ...


class RestHandler:
    """Answers requests; knows no HTTP library.

    Args:
        config: what is served.
        backends: AA and CDH.
        observer: counts, or None.
    """

    def __init__(
        self, config: RestConfig, backends: Backends, observer: Observer | None = None
    ) -> None:
        self._config = config
        self._backends = backends
        self._observer = observer
        self._injections = asyncio.Semaphore(MAX_INJECTIONS)

    async def answer(self, request: Request) -> Answer:
        """The answer to one request; never raises but for a bug."""
        started = boot_seconds()
        action = "none"
        path = ""
        try:
            target = Target.parse(request.target)
            route = self._find_route(request.method, target.path)
        except DecodeError:
            allowed = self._may_ask(request, None)
            answer = Answer(status=400, close=True) if allowed else FORBIDDEN
        else:
            if not self._may_ask(request, route):
                answer = FORBIDDEN
            else:
                path = target.path
                if isinstance(route, Route):
                    action = route.action.value
                answer = await self._answer(request, route, target)
        seconds = boot_seconds() - started
        extra = {"action": action, "path": path[:500], "status": answer.status, "seconds": seconds}
        log.info("request ended", extra=extra)
        if self._observer is not None:
            self._observer.request_ended(action, answer.status, seconds)
        return answer

    def _find_route(self, method: str, path: str) -> Route | Refusal:
        has_injection = self._config.injection is not Injection.OFF
        return find_route(method, path, self._config.feature, has_injection=has_injection)

    def _may_ask(self, request: Request, route: Route | Refusal | None) -> bool:
        """Peers of this pod may; others may push resources where that is configured."""
        if self._config.refuse_origin and request.has_origin:
            return False
        if is_loopback(request.peer):
            return True
        is_injection = isinstance(route, Route) and route.action.is_injection
        return is_injection and self._config.injection is Injection.REMOTE

    async def _answer(self, request: Request, route: Route | Refusal, target: Target) -> Answer:
        if isinstance(route, Refusal):
            headers = {"Allow": route.allow} if route.allow else {}
            return Answer(status=route.status, body=route.text.encode(), headers=headers)
        try:
            return await self._serve(request, route, parse_query(target.query))
        except BackendError as error:
            log.error(
                "backend failed",
                extra={"action": route.action.value, "causes": ": ".join(error.causes())},
            )
            headers = {REASON_HEADER: error.reason}
            return Answer(status=500, body=str(error).encode(), headers=headers)

    async def _serve(self, request: Request, route: Route, query: Mapping[str, str]) -> Answer:
        match route.action:
            case Action.INFO:
                return _success(await self._backends.info(), JSON)
            case Action.TOKEN:
                token_type = query.get("token_type")
                if token_type is None:
                    return BAD_REQUEST
                return _success(await self._backends.token(token_type), BINARY)
            case Action.EVIDENCE | Action.ADDITIONAL_EVIDENCE:
                return await self._evidence(route.action, query)
            case Action.AAEL:
                return await self._aael(request)
            case Action.RESOURCE:
                return _success(await self._backends.resource(route.resource), BINARY)
            case Action.PREPARE | Action.COMMIT:
                return await self._inject(request, route)

    async def _evidence(self, action: Action, query: Mapping[str, str]) -> Answer:
        value = query.get("runtime_data")
        if value is None:
            return BAD_REQUEST
        try:
            runtime_data = decode_runtime_data(value, query.get("encoding"))
        except DecodeError:
            return BAD_REQUEST
        if action is Action.EVIDENCE:
            return _success(await self._backends.evidence(runtime_data), BINARY)
        return _success(await self._backends.additional_evidence(runtime_data), BINARY)

    async def _aael(self, request: Request) -> Answer:
        body = await _read_body(request, MAX_EVENT_LENGTH)
        if isinstance(body, Answer):
            return body
        try:
            event = Event.decode(body)
        except DecodeError as error:
            text = f"Illegal AAEL eventry format: {error}"
            return Answer(status=400, body=text.encode("utf-8", "replace"))
        return _success(await self._backends.extend(event), JSON)

    async def _inject(self, request: Request, route: Route) -> Answer:
        """Push a resource, in turn: a body is read once few others are in memory."""
        try:
            async with Deadline.after(BACKEND_SECONDS).limit("earlier injections"):
                await self._injections.acquire()
        except DeadlineError as error:
            raise BackendError(REQUEST_FAILED, error.code) from error
        try:
            if route.action is Action.PREPARE:
                return await self._prepare(request, route.resource)
            return await self._commit(request, route.resource)
        except DecodeError as error:
            headers = {REASON_HEADER: error.code}
            return Answer(status=400, body=BAD_REQUEST.body, headers=headers)
        finally:
            self._injections.release()

    async def _prepare(self, request: Request, path: str) -> Answer:
        body = await _read_body(request, MAX_NONCE_DOCUMENT)
        if isinstance(body, Answer):
            return body
        document = NonceDocument.decode(body)
        return _success(await self._backends.prepare(path, document.nonce), JSON)

    async def _commit(self, request: Request, path: str) -> Answer:
        body = await _read_body(request, MAX_RESOURCE_DOCUMENT)
        if isinstance(body, Answer):
            return body
        # A hostile document of this length takes over a second.
        document = await asyncio.to_thread(ResourceDocument.decode, body)
        await self._backends.commit(path, document)
        return Answer(headers={"Cache-Control": "no-store"})


async def _read_body(request: Request, limit: int) -> bytes | Answer:
    """A body of at most `limit` bytes, or the answer to one that is longer or broken."""
    try:
        return await request.read_body(limit)
    except BodyTooLongError:
        return TOO_LONG
    except BodyError as error:
        text = f"error reading a body from connection: {error}"
        return Answer(status=500, body=text.encode(), close=True)


def _success(body: bytes, content_type: str) -> Answer:
    return Answer(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})
