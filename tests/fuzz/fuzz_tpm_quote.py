"""TPM quotes, and event logs of PCRs, give their fields or a `DecodeError`."""

import struct
from contextlib import suppress

from attestation_agent.eventlog.entry import Entry
from attestation_agent.eventlog.pcr_log import find_pcr_mismatch
from attestation_agent.reports.tpm import TpmQuote, start_value
from guest.crypto.digest import HashAlgorithm
from guest.errors import DecodeError

_HEAD = b"\xffTCG\x80\x18\0\2ss\0\3abc" + bytes(25)
_ENTRY = Entry(register=16, algorithm=HashAlgorithm.SHA256, text=b"a b c").encode()
SEEDS = (
    _HEAD + struct.pack(">IHB3sH", 1, 11, 3, b"\xff" * 3, 32) + bytes(32),
    _HEAD + struct.pack(">IH", 0, 0),
    _ENTRY,
    _ENTRY * 2,
)
_PCRS = tuple(start_value(number) for number in range(24))


def one_input(data: bytes) -> None:
    """Decode both."""
    with suppress(DecodeError):
        quote = TpmQuote.decode(data)
        assert len(quote.nonce) + len(quote.digest) < len(data)
        quote.covers(_PCRS)
    with suppress(DecodeError):
        register = find_pcr_mismatch(data, _PCRS)
        assert register is None or 0 <= register < 24
