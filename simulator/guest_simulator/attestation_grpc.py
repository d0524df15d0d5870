"""The attestation service's gRPC form: what a KBS calls, in front of an `AttestationService`.

A request becomes the JSON of the REST form, member by member, and is judged there; every refusal
is status ABORTED with its text.

Source: docs/spec/protos.md 6.
"""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self

import grpc

from guest_simulator.attestation_messages import SERVICE, message_classes
from guest_simulator.attestation_service import AttestationService, RequestError
from guest_simulator.encoding import EncodingError, b64url_decode, parse_object
from guest_simulator.kbs.evidence import EvidenceError

PLAIN_MEMBERS: Final = ("tee", "evidence", "runtime_data_hash_algorithm")


class AttestationGrpc:
    """The server, on loopback, without TLS.

    Attributes:
        service: judges; need not listen itself.
        policies: texts that were set, by id.
        port: where it listens.
    """

    def __init__(self, service: AttestationService, *, port: int = 0) -> None:
        """Make one that does not listen yet.

        Args:
            service: judges.
            port: 0 for any.
        """
        self.service = service
        self.policies: dict[str, str] = {}
        self.port = port
        self._messages = message_classes()
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        server = grpc.aio.server()
        handlers = {
            "AttestationEvaluate": self._handler("AttestationRequest", self._evaluate),
            "SetAttestationPolicy": self._handler("SetPolicyRequest", self._set_policy),
            "GetAttestationChallenge": self._handler("ChallengeRequest", self._challenge),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        await server.start()
        self._server = server
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            await self._server.stop(0)

    def _handler(
        self, request: str, answer: Callable[[Any], Any]
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        async def handle(message: Any, context: Any) -> Any:
            try:
                return answer(message)
            except (EvidenceError, EncodingError, RequestError) as error:
                await _abort(context.abort, str(error))

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=self._messages[request].FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    def _evaluate(self, message: Any) -> Any:
        requests = [_individual(each) for each in message.verification_requests]
        body = {"verification_requests": requests, "policy_ids": list(message.policy_ids)}
        token = self.service.evaluate(body)
        return self._messages["AttestationResponse"](attestation_token=token)

    def _set_policy(self, message: Any) -> Any:
        try:
            text = b64url_decode(message.policy).decode()
        except UnicodeDecodeError as error:
            raise EncodingError("policy is no text") from error
        self.policies[message.policy_id] = text
        self.service.policies.add(message.policy_id)
        return self._messages["SetPolicyResponse"]()

    def _challenge(self, message: Any) -> Any:
        nonce = self.service.challenge(dict(message.inner))
        return self._messages["ChallengeResponse"](attestation_challenge=nonce)


async def _abort(abort: Callable[[grpc.StatusCode, str], Awaitable[None]], text: str) -> None:
    await abort(grpc.StatusCode.ABORTED, text)


def _individual(message: Any) -> dict[str, object]:
    """One request as the REST form has it; an empty text is an absent member."""
    members: dict[str, object] = {
        name: value for name in PLAIN_MEMBERS if (value := getattr(message, name))
    }
    runtime = message.WhichOneof("runtime_data")
    if runtime == "raw_runtime_data":
        members["runtime_data"] = {"raw": message.raw_runtime_data}
    elif runtime is not None:
        members["runtime_data"] = {"structured": parse_object(message.structured_runtime_data)}
    chosen = message.WhichOneof("init_data")
    if chosen is not None:
        members["init_data"] = {chosen: getattr(message, chosen)}
    return members
