"""SGX quotes, as far as an attester needs to read them. Sans-I/O.

Nothing here checks a signature: that is the verifier's part. The attester checks that what leaves
is an SGX quote, and binds the report data that it was asked to bind.

Source: docs/spec/attesters.md 11 (Intel SGX DCAP quoting library API, appendix A.4: version 3).
"""

from dataclasses import dataclass
from typing import Final, Self

from guest.errors import DecodeError
from guest.wire import Cursor

REPORT_DATA_BYTES: Final = 64
VERSION: Final = 3
HEADER_BYTES: Final = 48
BODY_BYTES: Final = 384
MAX_QUOTE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxQuote:
    """A quote over an enclave.

    Attributes:
        mrenclave: 32 bytes.
        mrsigner: 32 bytes.
        config_id: CONFIGID, 64 bytes.
        report_data: 64 bytes.
        length: of the quote, without zeros behind it.
    """

    mrenclave: bytes
    mrsigner: bytes
    config_id: bytes
    report_data: bytes
    length: int

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse a quote of version 3, with any number of zero bytes behind it.

        Raises:
            DecodeError: cut short, too long, of another TEE or version, or with other bytes
                behind it.
        """
        if len(data) > MAX_QUOTE_BYTES:
            raise DecodeError(f"SGX quote of {len(data)} bytes, expected at most {MAX_QUOTE_BYTES}")
        cursor = Cursor(data, "SGX quote")
        version = cursor.unsigned(2, little=True)
        if version != VERSION:
            raise DecodeError(f"SGX quote of version {version}, expected {VERSION}")
        cursor.take(HEADER_BYTES - cursor.offset)
        body = cursor.take(BODY_BYTES)
        cursor.take(cursor.unsigned(4, little=True))
        length = cursor.offset
        padding = cursor.rest()
        if padding.strip(b"\0"):
            raise DecodeError(f"SGX quote has {len(padding)} bytes too many, not all zero")
        return cls(
            mrenclave=body[64:96],
            mrsigner=body[128:160],
            config_id=body[192:256],
            report_data=body[320:384],
            length=length,
        )
