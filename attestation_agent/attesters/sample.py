"""The attester of a guest without a TEE: proves nothing, for development.

Source: docs/spec/attesters.md 9.
"""

from typing import Final

from guest.deadline import Deadline
from guest.tee import Tee
from guest.wire import encode_base64

SVN: Final = "1"


class SampleAttester:
    """Echoes the report data; nothing measures, nothing is bound."""

    tee: Final = Tee.SAMPLE
    registers: Final = None
    init_data: Final = None

    async def evidence(self, report_data: bytes, deadline: Deadline) -> object:
        """`svn` and `report_data`; any length, the empty one gives the empty text."""
        return {"svn": SVN, "report_data": encode_base64(report_data)}
