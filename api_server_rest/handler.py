"""The interface for containers: a request becomes a call, an outcome an answer.

Source: docs/spec/api-server-rest.md 2 to 5.
"""

import logging
from collections.abc import Mapping
from typing import Final, Protocol

from api_server_rest.access import is_loopback
from api_server_rest.backend import BackendError, Backends
from api_server_rest.config import RestConfig
from api_server_rest.exchange import Answer, BodyError, BodyTooLongError, Request
from api_server_rest.query import (
    MAX_EVENT_LENGTH,
    Event,
    Target,
    decode_runtime_data,
    parse_query,
)
from api_server_rest.routing import Action, Refusal, Route, find_route
from guest.deadline import boot_seconds
from guest.errors import DecodeError

log = logging.getLogger(__name__)

REASON_HEADER: Final = "x-coco-error"
"""Names the cause of a failure in one word; our addition."""

BINARY: Final = "application/octet-stream"
JSON: Final = "application/json"

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

    async def answer(self, request: Request) -> Answer:
        """The answer to one request; never raises but for a bug."""
        started = boot_seconds()
        action = "none"
        path = ""
        if not self._may_ask(request):
            answer = FORBIDDEN
        else:
            try:
                target = Target.parse(request.target)
                path = target.path
                route = find_route(request.method, path, self._config.feature)
            except DecodeError:
                answer = Answer(status=400, close=True)
            else:
                if isinstance(route, Route):
                    action = route.action.value
                answer = await self._answer(request, route, target)
        seconds = boot_seconds() - started
        extra = {"action": action, "path": path[:500], "status": answer.status, "seconds": seconds}
        log.info("request ended", extra=extra)
        if self._observer is not None:
            self._observer.request_ended(action, answer.status, seconds)
        return answer

    def _may_ask(self, request: Request) -> bool:
        if self._config.refuse_origin and request.has_origin:
            return False
        return is_loopback(request.peer)

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
        try:
            body = await request.read_body(MAX_EVENT_LENGTH)
        except BodyTooLongError:
            return TOO_LONG
        except BodyError as error:
            text = f"error reading a body from connection: {error}"
            return Answer(status=500, body=text.encode(), close=True)
        try:
            event = Event.decode(body)
        except DecodeError as error:
            text = f"Illegal AAEL eventry format: {error}"
            return Answer(status=400, body=text.encode("utf-8", "replace"))
        return _success(await self._backends.extend(event), JSON)


def _success(body: bytes, content_type: str) -> Answer:
    return Answer(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})
