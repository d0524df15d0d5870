"""What the environment says to attesters."""

import pytest

from attestation_agent.hints import CSV_CERTIFICATES, read_hints
from guest.errors import ConfigError
from guest.proxies import Proxies


def test_csv_evidence_has_the_chain_when_the_variable_is_true_and_only_then() -> None:
    assert CSV_CERTIFICATES == "CSV_INCLUDE_CERT_CHAIN_IN_ATTESTATION_REPORT"
    assert read_hints({CSV_CERTIFICATES: "true"}).csv_certificates
    for other in ("", "1", "TRUE", "false"):
        assert not read_hints({CSV_CERTIFICATES: other}).csv_certificates
    assert not read_hints({}).csv_certificates


def test_attesters_fetch_through_the_proxies_of_the_environment() -> None:
    assert read_hints({"HTTPS_PROXY": "http://p:1"}).proxies == Proxies(https="http://p:1")
    with pytest.raises(ConfigError):
        read_hints({"HTTPS_PROXY": "socks5://p:1"})


def test_other_variables_are_taken_as_they_are() -> None:
    variables = {"AA_TPM_DEVICE": "/dev/tpm1", "AA_TPM_AK_HANDLE": "zz", "AAEL_PATH": "/x"}
    hints = read_hints({**variables, "OCCLUM": "", "ENABLE_SAMPLE_DEVICE": ""})
    assert (hints.tpm_device, hints.tpm_ak_handle) == ("/dev/tpm1", "zz")
    assert (hints.event_log_path, hints.occlum, hints.sample_device) == ("/x", True, True)
