"""A device that proves nothing, beside the primary TEE, for development.

Source: docs/spec/attesters.md 9.
"""

from typing import Final

from guest.deadline import Deadline
from guest.tee import Tee
from guest.wire import encode_base64

SVN: Final = "2"


class SampleDeviceAttester:
    """Echoes the report data."""

    tee: Final = Tee.SAMPLE_DEVICE
    registers: Final = None
    init_data: Final = None

    async def evidence(self, report_data: bytes, deadline: Deadline) -> object:
        """`svn` and `report_data`; any length."""
        return {"svn": SVN, "report_data": encode_base64(report_data)}
