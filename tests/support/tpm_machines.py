"""Guests with a TPM for vectors: what was recorded is answered again, byte by byte."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from attestation_agent.attesters.base import TeeHints
from guest.tee import Tee
from guest_simulator.reply import Reply
from guest_simulator.service import HttpService, Incoming
from guest_simulator.tpm.relay import Relay

Vector = dict[str, Any]
Machine = Callable[[Path, Vector], AbstractAsyncContextManager[TeeHints]]


class Replay:
    """Answers each command as it was answered then; the last answer to one stays."""

    def __init__(self, exchanges: list[list[str]]) -> None:
        self._answers: dict[bytes, list[bytes]] = {}
        for command, answer in exchanges:
            self._answers.setdefault(bytes.fromhex(command), []).append(bytes.fromhex(answer))

    def __call__(self, command: bytes) -> bytes | None:
        answers = self._answers.get(command)
        if answers is None:
            return None  # the relay says that there is no such handle
        return answers.pop(0) if len(answers) > 1 else answers[0]


@asynccontextmanager
async def replayed(root: Path, vector: Vector) -> AsyncIterator[TeeHints]:
    """A guest whose TPM and metadata service answer what the vector says."""
    pytest.importorskip("tpm2_pytss", reason="no tpm2-pytss (make system builds it)")

    async def answer(request: Incoming) -> Reply:
        body = vector["metadata"].get(f"{request.method} {request.path}")
        return Reply(status=404) if body is None else Reply(body=body.encode())

    (root / "dev").mkdir(parents=True)
    with Relay(path=root / "dev" / "tpm0", intercept=Replay(vector["exchanges"])):
        async with HttpService(answer) as service:
            yield TeeHints(root=str(root), azure_metadata=service.url)


MACHINES: dict[Tee, Machine] = {
    Tee.TPM: replayed,
    Tee.AZ_TDX_VTPM: replayed,
    Tee.AZ_SNP_VTPM: replayed,
}
"""TEE to the machine of a vector."""
