"""What the KBS says when it says no.

Source: docs/spec/kbs-protocol.md §8.
"""

from enum import StrEnum
from typing import Final

from guest_simulator.encoding import compact_json
from guest_simulator.faults import KBS_ERROR_URI
from guest_simulator.reply import Reply

NOT_FOUND: Final = 404
UNAUTHORIZED: Final = 401


class Kind(StrEnum):
    """The last part of the `type` URI."""

    ATTESTATION_ERROR = "AttestationError"
    TOKEN_NOT_FOUND = "TokenNotFound"
    TOKEN_VERIFIER_ERROR = "TokenVerifierError"
    POLICY_DENY = "PolicyDeny"
    PLUGIN_INTERNAL_ERROR = "PluginInternalError"
    PLUGIN_NOT_FOUND = "PluginNotFound"
    INVALID_REQUEST_PATH = "InvalidRequestPath"
    JWE_ERROR = "JweError"
    ADMIN_AUTH_ACCESS = "AdminAuthAccess"
    ADMIN_AUTH_INITIALIZATION = "AdminAuthInitialization"
    PARSE_POLICY_ERROR = "ParsePolicyError"
    POLICY_ENGINE_ERROR = "PolicyEngineError"
    RVPS_ERROR = "RvpsError"


class KbsFailure(Exception):  # noqa: N818  # it is an answer, not a defect
    """An error answer.

    Attributes:
        kind: goes into `type`.
        detail: goes into `detail`.
    """

    def __init__(self, kind: Kind, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail

    @property
    def status(self) -> int:
        """404 for what is not there, 401 for everything else."""
        missing = self.kind in (Kind.PLUGIN_NOT_FOUND, Kind.INVALID_REQUEST_PATH)
        return NOT_FOUND if missing else UNAUTHORIZED

    def reply(self) -> Reply:
        """The answer: ErrorInformation without a `Content-Type`."""
        body = compact_json({"type": KBS_ERROR_URI + self.kind, "detail": self.detail})
        return Reply(status=self.status, body=body)


def auth_failed(reason: str) -> KbsFailure:
    """The handshake failed at `auth`."""
    detail = f"Attestation error: RCAR handshake Auth failed: {reason}"
    return KbsFailure(Kind.ATTESTATION_ERROR, detail)


def attest_failed() -> KbsFailure:
    """The handshake failed at `attest`; the reason stays in the server's log."""
    return KbsFailure(Kind.ATTESTATION_ERROR, "Attestation error: RCAR handshake Attest failed")


def plugin_failed() -> KbsFailure:
    """A plugin could not answer: no such resource, bad name, wrong method."""
    return KbsFailure(Kind.PLUGIN_INTERNAL_ERROR, "Plugin internal error")
