"""The attester of a guest that has a TPM and no TEE.

Source: docs/spec/attesters.md 6; docs/spec/attestation-agent.md 6.3 and 7.4.
"""

import logging
from typing import Final

from attestation_agent.attesters.base import TeeHints
from attestation_agent.attesters.tpm_log import PcrLog, log_member
from attestation_agent.attesters.tpm_registers import TPM_TEXTS, PcrInitData, PcrRegisters
from attestation_agent.eventlog.files import DIRECTORY, LOG_NAME
from attestation_agent.hardware.tpm import has_key, resource_manager
from attestation_agent.hardware.tpm_session import Quoted, TpmSession
from attestation_agent.hardware.tpm_thread import Tpm
from attestation_agent.reports.tpm import DIGEST_BYTES, encode_public_key
from attestation_agent.turn import FairTurns
from guest.deadline import Deadline
from guest.errors import DecodeError, GuestError, PlatformError
from guest.initdata import fit
from guest.tee import Tee
from guest.wire import encode_base64

log = logging.getLogger(__name__)

DEFAULT_HANDLE: Final = "81010002"

CERTIFICATE_INDEX: Final = 0x01C0_0002
"""NV index where manufacturers put the certificate of the RSA endorsement key.

Source: TCG EK Credential Profile, 2.2.1.4."""


class TpmAttester:
    """Quotes of a TPM, whose attestation key was provisioned before."""

    tee: Final = Tee.TPM

    def __init__(self, tpm: Tpm, handle: int, event_log: PcrLog) -> None:
        """Keep the parts; nothing is opened.

        Args:
            tpm: quotes.
            handle: of the attestation key.
            event_log: the agent's.
        """
        self._tpm = tpm
        self._handle = handle
        self._log = event_log
        self._certificate: bytes | None = None
        self._quoting = FairTurns("the TPM")
        self.registers: Final = PcrRegisters(tpm, TPM_TEXTS)
        self.init_data: Final = PcrInitData(tpm, TPM_TEXTS)

    async def evidence(self, report_data: bytes, deadline: Deadline) -> object:
        """`tpm_quote` and `ak_public`; `cc_eventlog` too where a log explains the registers.

        `ek_cert`, which verifiers pass over, is what the manufacturer put into the TPM. Report
        data is cut, or padded with zeros, to 32 bytes.

        Raises:
            PlatformError: the TPM failed, or has no such key.
            DeadlineError: it takes longer than there is time.
            LimitError: too many calls of this connection wait already.
        """
        nonce = fit(report_data, DIGEST_BYTES)

        def quote(session: TpmSession) -> tuple[Quoted, bytes]:
            key = session.find_key(self._handle)
            quoted = session.quote(key, nonce), self._encode_key(key.modulus, key.exponent)
            if self._certificate is None:
                self._certificate = _find_certificate(session)
            return quoted

        # Callers wait for the TPM first, so that a measurement waits for one quote at most.
        async with self._quoting.held(deadline), self.registers.turns.held(deadline):
            quoted, public_key = await self._tpm.run(quote, deadline)
            own = await self._log.read(deadline)
        return {
            "tpm_quote": {
                "signature": encode_base64(quoted.signature),
                "message": encode_base64(quoted.message),
                "pcrs": [value.hex() for value in quoted.pcrs],
            },
            "ak_public": encode_base64(public_key),
            **({"ek_cert": encode_base64(self._certificate)} if self._certificate else {}),
            **log_member(own, quoted.pcrs),
        }

    def _encode_key(self, modulus: int, exponent: int) -> bytes:
        try:
            return encode_public_key(modulus, exponent)
        except DecodeError as error:
            raise PlatformError(f"{self._tpm.path}: TPM2_ReadPublic: EBADMSG ({error})") from error


def _find_certificate(session: TpmSession) -> bytes:
    """The endorsement key's certificate, DER; nothing where the TPM has none that may be read."""
    if session.find_index_size(CERTIFICATE_INDEX) is None:
        return b""
    try:
        return session.read_index(CERTIFICATE_INDEX)
    except PlatformError as error:
        # Verifiers do not look at it, so it must not cost anybody the evidence.
        log.warning("the TPM's certificate is left out", extra={"error": str(error)})
        return b""


def open_tpm(hints: TeeHints, path: str) -> TpmAttester:
    """The attester of the TPM at `path`; says at once where it lacks the attestation key."""
    handle = int(hints.tpm_ak_handle or DEFAULT_HANDLE, 16)
    managed = resource_manager(path)
    log.warning("a TPM is attested: nothing binds it to a TEE", extra={"path": managed})
    try:
        if not has_key(managed, handle):
            extra = {"path": managed, "handle": f"{handle:#x}"}
            log.warning("the TPM has no attestation key: evidence will fail", extra=extra)
    except GuestError as error:
        extra = {"path": managed, "error": str(error)}
        log.warning("the TPM does not answer now: evidence may fail", extra=extra)
    own_path = hints.event_log_path or hints.at(f"{DIRECTORY}/{LOG_NAME}")
    return TpmAttester(Tpm(managed), handle, PcrLog(own_path))
