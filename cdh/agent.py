"""The attestation agent as CDH uses it: tokens for the KBS, measurement of pulls.

Source: docs/spec/confidential-data-hub.md 6.2 and 11.2, docs/spec/kbs-protocol.md 10.3.
"""

import errno
import logging
import os
from typing import Final

from guest import correlation
from guest.deadline import Deadline
from guest.errors import GuestError, PeerError, UnreachableError
from guest.protos import aa_pb2
from guest.protos.methods import EXTEND_RUNTIME_MEASUREMENT, GET_EVIDENCE, GET_TOKEN
from guest.rpc.method import Channel
from guest.rpc.patience import PatientChannel
from guest.secret import Secret

log = logging.getLogger(__name__)

TOKEN_SECONDS: Final = 50.0
"""Most seconds for one token: the agent attests for each."""

DOMAIN: Final = "github.com/confidential-containers"
OPERATION: Final = "PullImage"

NO_EVENT_LOG: Final = "eventlog not enabled"
"""What older agents answer, as an error, when their event log is off."""

_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR)


class AgentUnreachableError(UnreachableError):
    """Nobody listens at the attestation agent's address."""


class AgentClient:
    """Calls the attestation agent, and waits for its restart.

    Args:
        agent: leads to it.
        required_by_pulls: a pull without an agent is an error.
    """

    def __init__(self, agent: Channel, *, required_by_pulls: bool = False) -> None:
        self._agent = PatientChannel(agent)
        self._required_by_pulls = required_by_pulls

    async def get_token(self, deadline: Deadline) -> Secret:
        """One new token with its key, as the agent's JSON.

        Raises:
            AgentUnreachableError: no connection to the agent.
            GuestError: it attested in vain, or did not answer in time.
        """
        request = aa_pb2.GetTokenRequest(TokenType="kbs")
        try:
            response = await self._agent.call(
                GET_TOKEN,
                request,
                deadline=deadline.within(TOKEN_SECONDS),
                metadata=correlation.metadata(),
            )
        except UnreachableError as error:
            text = f"create AA token provider failed: {self._agent.address}"
            raise AgentUnreachableError(text) from error
        return Secret(response.Token)

    async def get_evidence(self, report_data: bytes, deadline: Deadline) -> bytes:
        """Primary evidence that binds `report_data`, compact JSON text.

        Raises:
            GuestError: no agent, or it has none.
        """
        request = aa_pb2.GetEvidenceRequest(RuntimeData=report_data)
        response = await self._agent.call(
            GET_EVIDENCE,
            request,
            deadline=deadline.within(TOKEN_SECONDS),
            metadata=correlation.metadata(),
        )
        return response.Evidence

    async def measure_pull(self, image: str, digest: str, deadline: Deadline) -> None:
        """Record a pull in the event log; a guest without one records none.

        Without an agent nothing is recorded either, unless pulls require it.

        Args:
            image: the reference as the caller gave it; holds no quote, backslash or control.
            digest: of the manifest that runs.
            deadline: when the agent must have answered.

        Raises:
            GuestError: the agent failed; the texts are those that peers see.
        """
        if not self._required_by_pulls and self._is_absent():
            log.warning("pull is not measured: no agent", extra={"image": image})
            return
        content = f'{{"image":"{image}", "digest":"{digest}"}}'
        request = aa_pb2.ExtendRuntimeMeasurementRequest(
            Domain=DOMAIN, Operation=OPERATION, Content=content
        )
        try:
            response = await self._agent.call(
                EXTEND_RUNTIME_MEASUREMENT,
                request,
                deadline=deadline,
                metadata=correlation.metadata(),
            )
        except UnreachableError as error:
            raise UnreachableError(f"failed to connect to attestation agent: {error}") from error
        except GuestError as error:
            if NO_EVENT_LOG in str(error):
                log.warning("pull is not measured: no event log", extra={"image": image})
                return
            raise type(error)(f"failed to extend runtime measurement: {error}") from error
        self._judge(response.Result, image)

    def _judge(self, result: int, image: str) -> None:
        if result == aa_pb2.OK:
            return
        if result not in (aa_pb2.NOT_SUPPORTED, aa_pb2.NOT_ENABLED):
            raise PeerError(f"failed to get runtime measurement result: unknown value {result}")
        why = "not supported" if result == aa_pb2.NOT_SUPPORTED else "not enabled"
        log.warning("pull is not measured", extra={"image": image, "cause": why})

    def _is_absent(self) -> bool:
        """Whether the agent's socket has no file; asked anew for every pull."""
        scheme, _, path = self._agent.address.partition("://")
        if scheme != "unix" or path.startswith("@"):
            return False
        try:
            os.stat(path)
        except OSError as error:
            return error.errno in _ABSENT
        return False
