"""What the environment and the machine say about TEEs, as detection takes it.

Source: docs/spec/attestation-agent.md 1.5.
"""

import os
from collections.abc import Mapping
from typing import Final

from attestation_agent.attesters.base import TeeHints
from guest.proxies import Proxies

CSV_CERTIFICATES: Final = "CSV_INCLUDE_CERT_CHAIN_IN_ATTESTATION_REPORT"


def read_hints(environment: Mapping[str, str]) -> TeeHints:
    """The environment's variables that attesters look at, and the machine's name.

    Raises:
        ConfigError: a proxy URL is not http or https.
    """
    return TeeHints(
        machine=os.uname().machine,
        occlum="OCCLUM" in environment,
        sample_device="ENABLE_SAMPLE_DEVICE" in environment,
        tpm_device=environment.get("AA_TPM_DEVICE"),
        tpm_ak_handle=environment.get("AA_TPM_AK_HANDLE"),
        event_log_path=environment.get("AAEL_PATH"),
        csv_certificates=environment.get(CSV_CERTIFICATES) == "true",
        proxies=Proxies.from_variables(environment),
    )
