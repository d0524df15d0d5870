"""The door to tpm2-pytss: what an attester asks of a TPM.

Commands are made, and responses read, by the TPM software stack; its bytes go over a line of
ours, so that each command has a deadline, a busy TPM is asked again with patience, and an error
has its errno. All of it blocks and is used by one thread; a session is opened for one piece of
work. Every command is authorised by the empty password.

Source: docs/spec/attesters.md 5.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

# The stack prints every error to standard error by itself; ours say more, and go to the log.
os.putenv("TSS2_LOG", "all+none")

from tpm2_pytss.constants import (  # the library reads the variable when loaded
    ESYS_TR,
    TPM2_ALG,
    TPM2_CAP,
    TPMA_NV,
)
from tpm2_pytss.ESAPI import ESAPI
from tpm2_pytss.TCTI import PyTCTI
from tpm2_pytss.TSS2_Exception import TSS2_Exception
from tpm2_pytss.types import (
    TPM2B_NV_PUBLIC,
    TPML_DIGEST_VALUES,
    TPML_PCR_SELECTION,
    TPMS_NV_PUBLIC,
    TPMT_HA,
    TPMT_SIG_SCHEME,
    TPMU_HA,
)

from attestation_agent.hardware.steps import Steps
from attestation_agent.hardware.tpm import NO_SUCH_HANDLE
from attestation_agent.hardware.tpm_link import (
    FileLine,
    OpenLine,
    TpmLink,
    open_link,
)
from attestation_agent.hardware.tpm_session import Quoted, SigningKey
from attestation_agent.reports.tpm import DIGEST_BYTES, PCRS, TpmQuote
from guest.deadline import Deadline
from guest.errors import DecodeError, PlatformError

log = logging.getLogger(__name__)

LOCALITY: Final = 0x907
"""TPM_RC_LOCALITY: the register is another locality's."""

BUFFER_MAX: Final = 0x12C
"""TPM_PT_NV_BUFFER_MAX: most bytes of one transfer of an NV index."""

DEFAULT_BUFFER: Final = 512
LARGEST_BUFFER: Final = 1024
MAX_INDEX_BYTES: Final = 16 * 1024
MAX_RACES: Final = 5
"""Most times that registers are read anew because they changed meanwhile."""


class _Tcti(PyTCTI):  # type: ignore[misc]  # the library has no types that count here
    """The stack's way out: over our link, whose error is kept for who called the stack."""

    def __init__(self, link: TpmLink) -> None:
        super().__init__()
        self.failure: PlatformError | None = None
        self._link = link
        self._response = b""

    def do_transmit(self, command: bytes) -> None:
        """Send, and wait for the response already: the stack sends one command at a time."""
        try:
            self._response = self._link.exchange(command)
        except PlatformError as error:
            self.failure = error
            raise

    def do_receive(self, timeout: int) -> bytes:
        """The response that is there."""
        return self._response


class StackSession:
    """An open TPM (`TpmSession`); `open_session` makes one."""

    def __init__(self, stack: Any, tcti: _Tcti, steps: Steps) -> None:
        """Wrap what is open."""
        self._stack = stack
        self._tcti = tcti
        self._steps = steps
        self._buffer = 0

    def find_key(self, handle: int) -> SigningKey:
        """The persistent key of a handle.

        Raises:
            PlatformError: there is none, or it is no RSA key.
        """
        with self._call(f"no key at {handle:#x}: it must be provisioned"):
            tr = self._stack.tr_from_tpmpublic(handle)
        with self._call():
            public = self._stack.read_public(tr)[0].publicArea
        if public.type != TPM2_ALG.RSA:
            raise PlatformError("AK is not an RSA key")
        modulus = int.from_bytes(bytes(public.unique.rsa), "big")
        return SigningKey(
            object=tr, modulus=modulus, exponent=int(public.parameters.rsaDetail.exponent)
        )

    def read_pcrs(self, registers: Iterable[int] = range(PCRS)) -> tuple[bytes, ...]:
        """Values of the SHA-256 bank, all of one moment, in ascending order.

        Raises:
            PlatformError: they cannot be read, or change all the time.
        """
        wanted = sorted(registers)
        for _ in range(MAX_RACES):
            values = self._read_once(wanted)
            if values is not None:
                return values
        raise PlatformError(f"{self._steps.current}: EAGAIN (the registers change all the time)")

    def _read_once(self, wanted: list[int]) -> tuple[bytes, ...] | None:
        values: dict[int, bytes] = {}
        first: int | None = None
        while missing := [number for number in wanted if number not in values]:
            with self._call():
                counter, selection, digests = self._stack.pcr_read(_selection(missing))
            if first not in (None, counter):
                return None
            first = counter
            got = [number for part in selection for number in _numbers(part)]
            pairs = list(zip(got, (bytes(digest) for digest in digests), strict=False))
            if not pairs or not set(got) <= set(missing) or len(pairs) != len(got):
                raise PlatformError(f"{self._steps.current}: EBADMSG (not the registers asked for)")
            values.update(pairs)
        if any(len(value) != DIGEST_BYTES for value in values.values()):
            raise PlatformError(f"{self._steps.current}: EBADMSG (no register of the SHA-256 bank)")
        return tuple(values[number] for number in wanted)

    def extend_pcr(self, register: int, digest: bytes) -> None:
        """Extend a register of the SHA-256 bank.

        Raises:
            PlatformError: it cannot be extended; says so where it is another locality's.
        """
        assert len(digest) == DIGEST_BYTES
        value = TPMT_HA(hashAlg=TPM2_ALG.SHA256, digest=TPMU_HA(sha256=digest))
        try:
            with self._call():
                self._stack.pcr_extend(ESYS_TR(register), TPML_DIGEST_VALUES([value]))
        except PlatformError as error:
            cause = error.__cause__
            if isinstance(cause, TSS2_Exception) and cause.rc == LOCALITY:
                raise PlatformError(
                    f"PCR {register} cannot be extended from the locality of an operating system "
                    f"(TPM_RC_LOCALITY {LOCALITY:#x}): PCR 17 to 22 are another's, name one of 9 "
                    "to 16 or 23"
                ) from error
            raise

    def quote(self, key: SigningKey, nonce: bytes, *, own_scheme: bool = False) -> Quoted:
        """A quote over all registers of the SHA-256 bank, and their values at that moment.

        Args:
            key: signs.
            nonce: is bound; the TPM takes 34 to 66 bytes.
            own_scheme: the key says how it signs; else RSASSA with SHA-256.

        Raises:
            PlatformError: the TPM fails, the registers change all the time, or the quote is not
                what was asked for.
        """
        for _ in range(MAX_RACES):
            pcrs = self.read_pcrs()
            with self._call():
                message, signature = self._stack.quote(
                    key.object, _selection(range(PCRS)), nonce, in_scheme=_scheme(own_scheme)
                )
            content = bytes(message)
            try:
                quote = TpmQuote.decode(content)
            except DecodeError as error:
                raise PlatformError(f"{self._steps.current}: EBADMSG ({error})") from error
            if quote.nonce != nonce:
                raise PlatformError(f"{self._steps.current}: EBADMSG (it binds another nonce)")
            if signature.sigAlg != TPM2_ALG.RSASSA:
                raise PlatformError(f"{self._steps.current}: EBADMSG (no RSASSA signature)")
            if quote.covers(pcrs):
                raw = bytes(signature.signature.rsassa.sig)
                return Quoted(
                    message=content, signature=signature.marshal(), raw_signature=raw, pcrs=pcrs
                )
            log.info("a register changed between its reading and the quote: once more")
        raise PlatformError(f"{self._steps.current}: EAGAIN (the registers change all the time)")

    def find_index_size(self, index: int) -> int | None:
        """Bytes of an NV index; None where it is not defined.

        Raises:
            PlatformError: that cannot be told.
        """
        tr = self._find_index(index)
        return None if tr is None else self._index_size(tr)

    def read_index(self, index: int) -> bytes:
        """All of an NV index, by the owner's authorisation.

        Raises:
            PlatformError: it is not defined, too long, or cannot be read.
        """
        tr = self._find_index(index)
        if tr is None:
            raise PlatformError(f"{self._steps.current}: ENOENT (no NV index {index:#x})")
        size = self._index_size(tr)
        if size > MAX_INDEX_BYTES:
            raise PlatformError(f"{self._steps.current}: EFBIG (NV index of {size} bytes)")
        content = b""
        chunk = self._chunk()
        while len(content) < size:
            length = min(chunk, size - len(content))
            with self._call():
                piece = bytes(self._stack.nv_read(tr, length, len(content), ESYS_TR.OWNER))
            if len(piece) != length:
                raise PlatformError(f"{self._steps.current}: EBADMSG (short: {len(piece)} bytes)")
            content += piece
        return content

    def write_index(self, index: int, data: bytes) -> None:
        """Make an NV index hold exactly `data`; one of another size is defined anew.

        Raises:
            PlatformError: the owner may not, or the TPM fails.
        """
        tr = self._find_index(index)
        if tr is not None and self._index_size(tr) != len(data):
            with self._call():
                self._stack.nv_undefine_space(tr)
            tr = None
        if tr is None:
            tr = self._define(index, len(data))
        chunk = self._chunk() if len(data) > DEFAULT_BUFFER else DEFAULT_BUFFER
        for start in range(0, len(data), chunk):
            with self._call():
                self._stack.nv_write(tr, data[start : start + chunk], start, ESYS_TR.OWNER)

    def _define(self, index: int, size: int) -> Any:
        public = TPMS_NV_PUBLIC(
            nvIndex=index,
            nameAlg=TPM2_ALG.SHA256,
            attributes=TPMA_NV.OWNERREAD | TPMA_NV.OWNERWRITE,
            dataSize=size,
        )
        with self._call():
            return self._stack.nv_define_space(b"", TPM2B_NV_PUBLIC(nvPublic=public))

    def _find_index(self, index: int) -> Any | None:
        try:
            with self._call():
                return self._stack.tr_from_tpmpublic(index)
        except PlatformError as error:
            cause = error.__cause__
            if isinstance(cause, TSS2_Exception) and cause.rc == NO_SUCH_HANDLE:
                return None
            raise

    def _index_size(self, tr: Any) -> int:
        with self._call():
            return int(self._stack.nv_read_public(tr)[0].nvPublic.dataSize)

    def _chunk(self) -> int:
        if self._buffer == 0:
            with self._call():
                data = self._stack.get_capability(TPM2_CAP.TPM_PROPERTIES, BUFFER_MAX, 1)[1].data
            found = [item.value for item in data.tpmProperties if item.property == BUFFER_MAX]
            most = int(found[0]) if found and found[0] else DEFAULT_BUFFER
            self._buffer = min(most, LARGEST_BUFFER)
        return self._buffer

    @contextmanager
    def _call(self, if_absent: str | None = None) -> Iterator[None]:
        """Around each call of the stack.

        Raises:
            PlatformError: the link's, or the code that the TPM gave; `if_absent` is the text for
                a handle that names nothing.
        """
        try:
            yield
        except TSS2_Exception as error:
            if self._tcti.failure is not None:
                raise self._tcti.failure from self._tcti.failure.__cause__
            where = self._steps.current
            if if_absent is not None and error.rc == NO_SUCH_HANDLE:
                raise PlatformError(f"{where}: ENOENT ({if_absent})") from error
            raise PlatformError(f"{where}: EIO (the TPM gave {error.rc:#x}: {error})") from error


@contextmanager
def open_session(
    path: str, steps: Steps, deadline: Deadline, open_line: OpenLine = FileLine
) -> Iterator[StackSession]:
    """A session for the block.

    Args:
        path: of the device or socket.
        steps: where the work is.
        deadline: when all of it must be done.
        open_line: opens the path.

    Raises:
        PlatformError: the device cannot be opened.
    """
    with open_link(path, steps, deadline, open_line) as link:
        tcti = _Tcti(link)
        with ESAPI(tcti) as stack:
            yield StackSession(stack, tcti, steps)


def _scheme(own: bool) -> Any:
    if own:
        return TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)
    scheme = TPMT_SIG_SCHEME(scheme=TPM2_ALG.RSASSA)
    scheme.details.rsassa.hashAlg = TPM2_ALG.SHA256
    return scheme


def _selection(registers: Iterable[int]) -> Any:
    return TPML_PCR_SELECTION.parse(f"sha256:{','.join(map(str, registers))}")


def _numbers(selection: Any) -> list[int]:
    bits = int.from_bytes(bytes(selection.pcrSelect)[: selection.sizeofSelect], "little")
    is_sha256 = selection.hash == TPM2_ALG.SHA256
    return [number for number in range(PCRS) if is_sha256 and bits >> number & 1]
