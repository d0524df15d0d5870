"""Composite evidence: what attesters give, as the JSON text that is sent. Sans-I/O.

Source: docs/spec/attestation-agent.md 4.3 and 4.4.
"""

from collections.abc import Mapping

import msgspec

from guest.tee import Tee


def encode_primary(evidence: object) -> bytes:
    """Compact JSON text of one attester's evidence; members keep their order."""
    return msgspec.json.encode(evidence)


def encode_additional(evidence: Mapping[Tee, object]) -> bytes:
    """Compact JSON object, device to its evidence; without devices no bytes at all, not `{}`."""
    if not evidence:
        return b""
    return msgspec.json.encode({tee.value: value for tee, value in evidence.items()})
