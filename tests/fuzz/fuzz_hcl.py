"""Reports of Azure's paravisor give their fields or a `DecodeError`."""

import struct
from contextlib import suppress

from attestation_agent.reports.hcl import HclReport
from guest.errors import DecodeError

_DOCUMENT = b'{"keys":[{"kid":"HCLAkPub","e":"AQAB","n":"AQ"}],"user-data":"AB"}'


def _report(kind: int) -> bytes:
    size = len(_DOCUMENT)
    tail = struct.pack("<IIIII", 20 + size, 1, kind, 1, size) + _DOCUMENT
    return b"HCLA".ljust(1216, b"\0") + tail


SEEDS = (_report(2), _report(4), _report(4) + bytes(8))


def one_input(data: bytes) -> None:
    """Decode it."""
    with suppress(DecodeError):
        report = HclReport.decode(data)
        assert len(report.report_data) == 64
        assert len(report.user_data) <= 64
        assert report.document in data
        assert report.answers(report.user_data) == report.binds_document
