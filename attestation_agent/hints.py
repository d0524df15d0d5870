"""What the environment and the machine say about TEEs, as detection takes it.

Source: docs/spec/attestation-agent.md 1.5.
"""

import os
from collections.abc import Mapping

from attestation_agent.attesters.base import TeeHints


def read_hints(environment: Mapping[str, str]) -> TeeHints:
    """The environment's variables that detection looks at, and the machine's name."""
    return TeeHints(
        machine=os.uname().machine,
        occlum="OCCLUM" in environment,
        sample_device="ENABLE_SAMPLE_DEVICE" in environment,
        tpm_device=environment.get("AA_TPM_DEVICE"),
        tpm_ak_handle=environment.get("AA_TPM_AK_HANDLE"),
        event_log_path=environment.get("AAEL_PATH"),
    )
