"""The attestation agent's configuration: keys, coercions, and what rules without a file."""

import json
import logging
from pathlib import Path

import pytest

from attestation_agent.config import AaConfig, ChosenTee, CocoAsConfig, KbsConfig, without_file
from guest.cmdline import CommandLine
from guest.config import decode_config, read_config
from guest.crypto import kmac
from guest.crypto.key_algorithm import TeeKeyAlgorithm
from guest.errors import ConfigError, UnsupportedError
from guest.log import LogFormat

SPEC_TOML = '''
[token_configs.coco_as]
url = "http://127.0.0.1:8000"            # base; AA appends /attestation

[token_configs.kbs]
url = "https://127.0.0.1:8080"           # base; AA appends /kbs/v0/...
cert = """-----BEGIN CERTIFICATE-----..."""   # optional, PEM text (not a path)
tee_key_algorithm = "ECDH-ES+A256KW-P256"     # optional

[eventlog_config]
init_pcr = 17
enable_eventlog = false

[log]
level = "info"
'''

SPEC_TREE = {
    "token_configs": {
        "coco_as": {"url": "http://127.0.0.1:8000"},
        "kbs": {
            "url": "https://127.0.0.1:8080",
            "cert": "-----BEGIN CERTIFICATE-----...",
            "tee_key_algorithm": "ECDH-ES+A256KW-P256",
        },
    },
    "eventlog_config": {"init_pcr": 17, "enable_eventlog": False},
    "log": {"level": "info"},
}


def decode(text: str, name: str = "aa.toml") -> AaConfig:
    return decode_config(text.encode(), name, AaConfig)


@pytest.mark.spec("attestation-agent", 5)
def test_the_specified_file_is_the_same_in_toml_and_json_and_an_empty_one_is_all_defaults() -> None:
    config = decode(SPEC_TOML)
    assert config == decode(json.dumps(SPEC_TREE), "aa.json")
    assert config.token_configs.kbs == KbsConfig(
        url="https://127.0.0.1:8080", cert="-----BEGIN CERTIFICATE-----..."
    )
    empty = decode("")
    assert empty == AaConfig() == decode("{}", "aa.json")
    assert (empty.token_configs.kbs, empty.token_configs.coco_as) == (None, None)
    assert (empty.eventlog_config.init_pcr, empty.eventlog_config.enable_eventlog) == (None, False)
    assert (empty.log.level, empty.log.format) == ("info", LogFormat.TEXT)


@pytest.mark.spec("attestation-agent", 6)
def test_an_unknown_key_algorithm_is_refused_and_unknown_keys_are_not() -> None:
    with pytest.raises(ConfigError, match=r"aa.toml: token_configs.kbs.tee_key_algorithm: .*'x'"):
        decode('[token_configs.kbs]\nurl = "http://a"\ntee_key_algorithm = "x"')
    fork = '[eventlog_config]\neventlog_algorithm = "sha384"\n[of_a_fork]\nkey = "x"'
    assert decode(fork) == AaConfig()


@pytest.mark.parametrize("name", list(TeeKeyAlgorithm))
def test_the_key_algorithms_are_taken_by_name(name: TeeKeyAlgorithm) -> None:
    text = f'[token_configs.kbs]\nurl = "http://a"\ntee_key_algorithm = "{name}"'
    config = decode(text).token_configs.kbs
    assert config is not None
    assert config.tee_key_algorithm is name


def test_ml_kem_without_its_libraries_is_a_load_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise UnsupportedError("KMAC256 is not installed")

    monkeypatch.setattr(kmac, "verify_available", missing)
    with pytest.raises(ConfigError, match=r"token_configs.kbs: .*KMAC256 is not installed"):
        decode('[token_configs.kbs]\nurl="http://a"\ntee_key_algorithm="ML-KEM-768+A192KW"')


@pytest.mark.spec("attestation-agent", 7)
def test_a_string_enables_the_event_log() -> None:
    assert decode('[eventlog_config]\nenable_eventlog = "true"').eventlog_config.enable_eventlog
    assert decode('[eventlog_config]\ninit_pcr = "16"').eventlog_config.init_pcr == 16


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[token_configs.kbs]\n", 'missing configuration field "token_configs.kbs.url"'),
        ("[eventlog_config]\ninit_pcr = -1", "eventlog_config: init_pcr -1"),
        (
            '[token_configs.coco_as]\nurl = "http://a"\ntimeout = 0',
            "token_configs.coco_as: timeout",
        ),
        ('[token_configs.coco_as]\nurl = "http://a"\ntimeout = inf', "token_configs.coco_as"),
        ("[token_configs.coco_as]\n", 'missing configuration field "token_configs.coco_as.url"'),
        ('[attester]\ntee = "tdx"', "attester.tee: Invalid enum value 'tdx'"),
        ('[log]\nformat = "xml"', "log.format"),
    ],
)
def test_a_wrong_value_names_its_key(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"aa.toml: {words}"):
        decode(text)


def test_the_keys_of_an_attestation_service_default_to_the_original_s_exchange() -> None:
    plain = decode('[token_configs.coco_as]\nurl = "http://a"').token_configs.coco_as
    assert plain == CocoAsConfig(
        url="http://a", cert=None, timeout=None, policy_ids=(), bind_nonce=False
    )
    text = '[token_configs.coco_as]\nurl = "http://a"\ncert = "PEM"\ntimeout = "2.5"\n'
    config = decode(f'{text}policy_ids = ["b", "c"]\nbind_nonce = "on"').token_configs.coco_as
    assert config == CocoAsConfig(
        url="http://a", cert="PEM", timeout=2.5, policy_ids=("b", "c"), bind_nonce=True
    )


def test_our_own_keys_are_read() -> None:
    text = '[attester]\ntee = "sample"\n[rpc]\nexact_status = "yes"\n[metrics]\ndirectory = ""\n'
    text += '[token_configs.kbs]\nurl = "http://a"\nfallback_urls = ["http://b"]'
    config = decode(text)
    assert config.attester.tee is ChosenTee.SAMPLE
    assert config.rpc.exact_status
    assert config.metrics.directory == ""
    assert config.token_configs.kbs is not None
    assert config.token_configs.kbs.fallback_urls == ("http://b",)


@pytest.mark.spec("attestation-agent", 46)
def test_a_conf_file_with_toml_loads(short_tmp: Path) -> None:
    (short_tmp / "attestation-agent.conf").write_text(SPEC_TOML)
    assert read_config(short_tmp / "attestation-agent.conf", AaConfig) == decode(SPEC_TOML)


@pytest.mark.spec("attestation-agent", 47)
@pytest.mark.parametrize("url", ["http://10.0.0.1:8080", "http://[::1]:8080"])
def test_the_command_line_names_the_kbs_ipv6_literals_too(url: str) -> None:
    line = CommandLine.parse(f"quiet agent.aa_kbc_params=cc_kbc::{url} ro")
    assert without_file(None, line).token_configs.kbs == KbsConfig(url=url)


@pytest.mark.parametrize("text", ["offline_fs_kbc::null", "cc_kbc", "", "eaa_kbc::http://a"])
def test_everything_else_leaves_the_kbs_unset(text: str, caplog: pytest.LogCaptureFixture) -> None:
    line = CommandLine.parse("agent.aa_kbc_params=cc_kbc::http://a")
    with caplog.at_level(logging.WARNING):
        assert without_file(text, line) == AaConfig()
    assert bool(caplog.records) is ("::" not in text)
    assert without_file(None, CommandLine.parse("")) == AaConfig()


def test_gpus_are_attested_unless_the_file_says_no_and_a_dpu_only_if_it_says_so() -> None:
    assert (AaConfig().attester.nvidia, AaConfig().attester.nvidia_dpu) == (True, False)
    attester = decode("[attester]\nnvidia = false\nnvidia_dpu = true").attester
    assert (attester.nvidia, attester.nvidia_dpu) == (False, True)
