"""The registers of a TPM: runtime measurement, and the one that init data is bound by.

Source: docs/spec/attestation-agent.md 6.3, 6.5, 7.3 and 7.4; docs/spec/attesters.md 6.3 and 7.3.
"""

import logging
from typing import Final

import msgspec

from attestation_agent.hardware.tpm_session import TpmSession
from attestation_agent.hardware.tpm_thread import Tpm
from attestation_agent.reports.tpm import DIGEST_BYTES, INIT_DATA_PCR, PCRS, bound_value
from attestation_agent.turn import Turns
from guest.crypto.digest import HashAlgorithm
from guest.deadline import Deadline
from guest.errors import IntegrityError, InvalidInputError

log = logging.getLogger(__name__)


class Texts(msgspec.Struct, frozen=True, kw_only=True):
    """What callers of the original know these errors by.

    Attributes:
        bad_index: for a register that there is not; `{}` is its number.
        bad_digest: for a digest of another length.
    """

    bad_index: str
    bad_digest: str


TPM_TEXTS: Final = Texts(
    bad_index="PCR index out of bounds", bad_digest="Event digest length is not 32 bytes"
)
AZURE_TEXTS: Final = Texts(bad_index="Invalid PCR index: {}", bad_digest="expected sha256 digest")


class PcrRegisters:
    """`MeasurementRegisters` of a TPM: PCR 0 to 23 of its SHA-256 bank."""

    algorithm: Final = HashAlgorithm.SHA256

    def __init__(self, tpm: Tpm, texts: Texts) -> None:
        """Touch nothing."""
        self._tpm = tpm
        self._texts = texts
        self.turns: Final = Turns("the event log")

    def log_index(self, register: int) -> int:
        """The number itself.

        Raises:
            InvalidInputError: there is no such register.
        """
        if not 0 <= register < PCRS:
            raise InvalidInputError(self._texts.bad_index.format(register))
        return register

    async def read(self, register: int, deadline: Deadline) -> bytes:
        """The 32 bytes of a register.

        Raises:
            InvalidInputError: there is no such register.
            PlatformError: it cannot be read.
        """
        number = self.log_index(register)
        return (await self._tpm.run(lambda session: session.read_pcrs((number,)), deadline))[0]

    async def extend(self, register: int, digest: bytes, deadline: Deadline) -> None:
        """Extend it.

        Raises:
            InvalidInputError: there is no such register, or the digest has not 32 bytes.
            PlatformError: it cannot be extended.
        """
        number = self.log_index(register)
        if len(digest) != DIGEST_BYTES:
            raise InvalidInputError(self._texts.bad_digest)
        await self._tpm.run(lambda session: session.extend_pcr(number, digest), deadline)


class PcrInitData:
    """Init data is what a register of its own was extended with, once.

    Whoever booted this guest may have extended it already; extending it twice would make it
    fail verification for good.
    """

    def __init__(self, tpm: Tpm, texts: Texts) -> None:
        """Touch nothing."""
        self._tpm = tpm
        self._texts = texts

    async def bind(self, digest: bytes, deadline: Deadline) -> None:
        """Extend the register, unless it holds this digest already.

        Raises:
            InvalidInputError: the digest has not 32 bytes.
            IntegrityError: the register holds something else.
            PlatformError: it cannot be read or extended.
        """
        if len(digest) != DIGEST_BYTES:
            raise InvalidInputError(self._texts.bad_digest)
        await self._tpm.run(lambda session: _bind(session, digest), deadline)


def _bind(session: TpmSession, digest: bytes) -> None:
    expected = bound_value(digest)
    found = session.read_pcrs((INIT_DATA_PCR,))[0]
    if found == bytes(DIGEST_BYTES):
        session.extend_pcr(INIT_DATA_PCR, digest)
        found = session.read_pcrs((INIT_DATA_PCR,))[0]
    elif found == expected:
        log.info("init data was bound before: its register is left as it is")
    if found != expected:
        raise IntegrityError(
            f"PCR {INIT_DATA_PCR} is {found.hex()}, which is not this init data's: "
            f"expected {expected.hex()}"
        )
