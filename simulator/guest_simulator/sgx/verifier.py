"""What a KBS makes of SGX evidence. Sans-I/O.

Signatures down to a root that it was given, report data and CONFIGID; no TCB levels.

Source: docs/spec/attesters.md 11 (Intel SGX DCAP quoting library API, appendix A.4).
"""

import struct
from dataclasses import dataclass
from typing import Any, Final

from guest_simulator.encoding import b64_decode
from guest_simulator.kbs.evidence import (
    UNREADABLE,
    EvidenceError,
    InitData,
    Verified,
    verify_bound,
)
from guest_simulator.tdx.verifier import section_behind, verify_section

BODY_END: Final = 432


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxVerifier:
    """A verifier for `Behaviour.verifiers["sgx"]`.

    Attributes:
        root: PEM of the only root certificate that is trusted.
    """

    root: bytes

    def __call__(self, evidence: Any, expected: bytes, init_data: InitData | None) -> Verified:
        """Judge evidence; see `guest_simulator.kbs.evidence.Verifier`."""
        try:
            quote = b64_decode(evidence["quote"])
            if struct.unpack_from("<HHI", quote) != (3, 2, 0):
                raise EvidenceError("not a version 3 quote of an enclave")
            section = section_behind(quote, BODY_END)
            verify_section(quote[:BODY_END], section[:128], section[128:], self.root)
        except UNREADABLE as error:
            raise EvidenceError(f"SGX evidence: {error!r}") from error
        body = quote[48:BODY_END]
        verify_bound(body[320:384], expected, "REPORT_DATA is different from that in SGX Quote")
        if init_data is not None:
            verify_bound(
                body[192:256], init_data.digest, "CONFIGID is different from that in SGX Quote"
            )
        return Verified(
            claims={"mr_enclave": body[64:96].hex(), "mr_signer": body[128:160].hex()},
            report_data=body[320:384].hex(),
            init_data=body[192:256].hex(),
        )
