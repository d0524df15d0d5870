"""The administrators' endpoints besides resources: policies and reference values.

Source: docs/spec/kbs-protocol.md §2, §8, §13.5-13.7.
"""

from typing import Final

from guest_simulator.encoding import (
    EncodingError,
    b64_decode,
    b64url_decode,
    compact_json,
    parse_object,
    text_member,
)
from guest_simulator.kbs.admin import AdminDenied
from guest_simulator.kbs.behaviour import Behaviour
from guest_simulator.kbs.failures import KbsFailure, Kind
from guest_simulator.kbs.rego import compile_policy
from guest_simulator.kbs.rego_syntax import RegoError
from guest_simulator.reply import Reply
from guest_simulator.service import Incoming

JSON: Final = "application/json"
ENDPOINTS: Final = frozenset(
    {
        ("POST", "attestation-policy"),
        ("GET", "reference-value"),
        ("POST", "reference-value"),
        ("GET", "resource-policy"),
        ("POST", "resource-policy"),
    }
)


class Administration:
    """Policies and reference values.

    Attributes:
        attestation_policies: texts by id; stored, never evaluated.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self.attestation_policies: dict[str, str] = {}
        self._behaviour = behaviour

    async def answer(self, request: Incoming, endpoint: str, path: tuple[str, ...]) -> Reply:
        """Answer one request of `ENDPOINTS`.

        Raises:
            KbsFailure: not an administrator, or a body that is not good.
        """
        uri = request.path + (f"?{request.query}" if request.query else "")
        try:
            now = self._behaviour.clock.now()
            self._behaviour.admin.check(request.header("Authorization"), uri, now)
        except AdminDenied as denied:
            detail = f"admin access denied for endpoint {endpoint}: {denied}"
            raise KbsFailure(Kind.ADMIN_AUTH_ACCESS, detail) from denied
        body = await request.read(self._behaviour.payload_limit)
        match request.method, endpoint:
            case "POST", "resource-policy":
                self._set_resource_policy(body)
                return Reply()
            case "GET", "resource-policy":
                return Reply(headers={"Content-Type": JSON}, body=b'["resource-policy"]')
            case "POST", "attestation-policy":
                self._set_attestation_policy(body)
                return Reply()
            case "POST", _:
                self._add_references(body)
                return Reply(headers={"Content-Type": JSON})
            case _:
                value = self._behaviour.references.get("/".join(path))
                return Reply(headers={"Content-Type": JSON}, body=compact_json(value))

    def _set_resource_policy(self, body: bytes) -> None:
        try:
            message = parse_object(body)
        except EncodingError as error:
            raise _parse_failure("Illegal SetPolicy Request Json") from error
        encoded = message.get("policy")
        if not isinstance(encoded, str):
            raise _parse_failure("No `policy` field inside SetPolicy Request Json")
        try:
            text = b64url_decode(encoded).decode()
        except (EncodingError, UnicodeDecodeError) as error:
            raise _parse_failure(f"Failed to decode policy: {error}") from error
        try:
            self._behaviour.policy = compile_policy(text)
        except RegoError as error:
            detail = f"Policy engine error: {error}"
            raise KbsFailure(Kind.POLICY_ENGINE_ERROR, detail) from error

    def _set_attestation_policy(self, body: bytes) -> None:
        try:
            message = parse_object(body)
            text = b64url_decode(text_member(message, "policy")).decode()
            self.attestation_policies[text_member(message, "policy_id")] = text
        except (EncodingError, UnicodeDecodeError) as error:
            detail = "Attestation error: Set Attestation Policy failed"
            raise KbsFailure(Kind.ATTESTATION_ERROR, detail) from error

    def _add_references(self, body: bytes) -> None:
        try:
            message = parse_object(body)
            if text_member(message, "type") != "sample":
                raise EncodingError("only messages of type sample are understood")
            payload = b64_decode(text_member(message, "payload")).decode()
            self._behaviour.references |= parse_object(payload)
        except (EncodingError, ValueError) as error:
            detail = f"RVPS configuration failed: {error}"
            raise KbsFailure(Kind.RVPS_ERROR, detail) from error


def _parse_failure(reason: str) -> KbsFailure:
    return KbsFailure(Kind.PARSE_POLICY_ERROR, f"Failed to parse policy: {reason}")
