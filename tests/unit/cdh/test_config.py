"""File, environment and kernel command line become one configuration."""

from pathlib import Path

import pytest

from cdh.config import (
    DEFAULT_AA_SOCKET,
    CdhConfig,
    Credential,
    KbcConfig,
    KmsServiceConfig,
    effective,
)
from guest.cmdline import CommandLine
from guest.config import decode_config
from guest.errors import ConfigError

TOML = """
socket = "unix:///run/x/cdh.sock"
skip_sealed_secret_verification = "yes"
future = 1
[aa]
aa_socket = "unix:///run/x/aa.sock"
[kbc]
name = "cc_kbc"
url = "https://kbs.example:8080/prefix/"
kbs_cert = "PEM"
fallback_urls = ["https://kbs2.example"]
[[credentials]]
resource_uri = "kbs:///default/aliyun/ecs_ram_role"
path = "/run/confidential-containers/cdh/kbs/x.json"
[image]
image_security_policy_uri = "kbs:///default/security-policy/test"
max_concurrent_layer_downloads_per_image = "5"
[log]
level = "debug"
[rpc]
exact_status = true
"""

JSON = """{"socket":"unix:///run/x/cdh.sock","skip_sealed_secret_verification":true,"future":1,
"aa":{"aa_socket":"unix:///run/x/aa.sock"},
"kbc":{"name":"cc_kbc","url":"https://kbs.example:8080/prefix/","kbs_cert":"PEM",
"fallback_urls":["https://kbs2.example"]},
"credentials":[{"resource_uri":"kbs:///default/aliyun/ecs_ram_role",
"path":"/run/confidential-containers/cdh/kbs/x.json"}],
"image":{"image_security_policy_uri":"kbs:///default/security-policy/test",
"max_concurrent_layer_downloads_per_image":5},"log":{"level":"debug"},
"rpc":{"exact_status":1}}""".replace('"exact_status":1', '"exact_status":"on"')

SMALLEST = '[kbc]\nname = "cc_kbc"\nurl = "http://h:1"\n'


def read(text: str, name: str = "cdh.toml") -> CdhConfig:
    return decode_config(text.encode(), Path(name), CdhConfig)


def rules(text: str | None = None, cmdline: str = "", **environment: str) -> CdhConfig:
    file = None if text is None else read(text)
    return effective(file, environment, CommandLine.parse(cmdline))


@pytest.mark.spec("confidential-data-hub", 1)
def test_toml_and_json_give_the_same_settings() -> None:
    first = effective(read(TOML), {}, CommandLine.parse(""))
    second = effective(read(JSON, "cdh.json"), {}, CommandLine.parse(""))
    assert first == second
    assert first.kbc.endpoints() == ("https://kbs.example:8080/prefix", "https://kbs2.example")
    assert first.image is not None
    assert first.image.max_concurrent_layer_downloads_per_image == 5
    assert first.rpc.exact_status


@pytest.mark.spec("confidential-data-hub", 2)
def test_without_a_file_the_kbc_comes_from_variable_command_line_or_is_offline() -> None:
    line = "quiet agent.aa_kbc_params=cc_kbc::http://k:2 agent.aa_kbc_params=x::y"
    assert rules(None, line, AA_KBC_PARAMS="cc_kbc::http://h:1").kbc == KbcConfig(
        name="cc_kbc", url="http://h:1"
    )
    assert rules(None, line).kbc == KbcConfig(name="cc_kbc", url="http://k:2")
    assert rules(None).kbc == KbcConfig(name="offline_fs_kbc")


@pytest.mark.spec("confidential-data-hub", 3)
def test_the_variable_beats_the_file_and_the_command_line_does_not() -> None:
    line = "agent.aa_kbc_params=offline_fs_kbc::"
    assert rules(TOML, line).kbc.url == "https://kbs.example:8080/prefix/"
    changed = rules(TOML, line, AA_KBC_PARAMS="offline_fs_kbc::null").kbc
    assert (changed.name, changed.url, changed.fallback_urls) == ("offline_fs_kbc", "null", ())
    same = rules(TOML, AA_KBC_PARAMS="cc_kbc::https://kbs.example:8080/prefix").kbc
    assert same.fallback_urls == ("https://kbs2.example",)


def test_an_ipv6_address_survives_the_variable() -> None:
    kbc = rules(None, AA_KBC_PARAMS="cc_kbc::http://[::1]:8080").kbc
    assert kbc.endpoints() == ("http://[::1]:8080",)


def test_a_variable_without_separator_is_refused() -> None:
    with pytest.raises(ConfigError, match="illegal aa_kbc_params format"):
        rules(None, AA_KBC_PARAMS="cc_kbc")


@pytest.mark.spec("confidential-data-hub", 4)
def test_a_file_needs_kbc_name_and_nothing_else() -> None:
    for text in ("", "[kbc]\n", '[kbc]\nurl = "http://h"\n', '[log]\nlevel="info"\n'):
        with pytest.raises(ConfigError, match='missing configuration field "kbc'):
            read(text)
    assert read('[kbc]\nname = "offline_fs_kbc"\n').kbc.url == ""


@pytest.mark.spec("confidential-data-hub", 5)
@pytest.mark.spec("image-pull", 7)
def test_the_command_line_speaks_for_images_only_without_the_table() -> None:
    line = (
        "agent.https_proxy=http://p:1 agent.no_proxy=a,b agent.image_registry_auth=kbs:///a/b/c "
        "agent.enable_signature_verification=true agent.image_policy_file=kbs:///p/q/r"
    )
    from_line = rules(SMALLEST, line).image
    assert from_line is not None
    assert from_line.image_pull_proxy is not None
    assert from_line.image_pull_proxy.https_proxy == "http://p:1"
    assert from_line.authenticated_registry_credentials_uri == "kbs:///a/b/c"
    assert from_line.image_security_policy_uri == "kbs:///p/q/r"
    from_file = rules(SMALLEST + "[image]\n", line).image
    assert from_file is not None
    assert from_file.image_pull_proxy is None
    assert from_file.authenticated_registry_credentials_uri is None
    assert from_file.image_security_policy_uri is None


@pytest.mark.spec("confidential-data-hub", 6)
@pytest.mark.spec("image-pull", 7)
def test_a_policy_of_the_command_line_needs_verification_to_be_true() -> None:
    for value in ("", " agent.enable_signature_verification=yes"):
        image = rules(SMALLEST, f"agent.image_policy_file=file:///p{value}").image
        assert image is not None
        assert image.image_security_policy_uri is None


@pytest.mark.spec("confidential-data-hub", 7)
def test_the_variable_for_registry_credentials_beats_the_file() -> None:
    text = SMALLEST + '[image]\nauthenticated_registry_credentials_uri = "file:///a"\n'
    variables = {"CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS": "file:///b"}
    image = rules(text, **variables).image
    assert image is not None
    assert image.authenticated_registry_credentials_uri == "file:///b"


@pytest.mark.spec("confidential-data-hub", 8)
def test_the_command_line_adds_credentials_and_skips_malformed_ones() -> None:
    line = "cdh.kbs_resources=u1::p1,u2::p2,bad cdh.kbs_resources=u3::p3"
    added = (
        Credential(resource_uri="u1", path="p1"),
        Credential(resource_uri="u2", path="p2"),
    )
    assert rules(None, line).credentials == added
    assert rules(TOML, line).credentials[1:] == added


@pytest.mark.spec("confidential-data-hub", 12)
def test_unknown_keys_are_ignored_at_every_level() -> None:
    text = SMALLEST + "other = 1\n[image]\nx = 1\n[image.registry_config]\ny = 2\n[z.w]\nv = 1\n"
    assert read(text).kbc.name == "cc_kbc"


def test_the_agent_s_socket_may_stand_at_the_top_where_its_table_names_none() -> None:
    top = 'aa_socket = "unix:///top"\n' + SMALLEST
    assert rules(SMALLEST).aa.aa_socket == DEFAULT_AA_SOCKET
    assert rules(top).aa.aa_socket == "unix:///top"
    assert rules(top + '[aa]\naa_socket = "unix:///own"\n').aa.aa_socket == "unix:///own"
    assert rules(top, AA_SOCKET="unix:///a").aa.aa_socket == "unix:///a"
    required = rules(SMALLEST + "[aa]\nrequired_by_pulls = true\n", AA_SOCKET="unix:///a").aa
    assert (required.aa_socket, required.required_by_pulls) == ("unix:///a", True)


def test_other_variables_become_fields() -> None:
    config = rules(
        SMALLEST,
        AA_SOCKET="unix:///a",
        KBS_CERT="PEM",
        SKIP_SEALED_SECRET_VERIFICATION="true",
        OCICRYPT_KEYPROVIDER_CONFIG="/etc/ocicrypt_config.json",
        OFFLINE_FS_KBC_EXTRA_FILE_PATH="/x,/y,",
        https_proxy="http://p:3128",
        NO_PROXY="localhost",
    )
    assert config.aa.aa_socket == "unix:///a"
    assert config.kbc.kbs_cert == "PEM"
    assert config.skip_sealed_secret_verification
    assert config.ocicrypt_keyprovider_config == "/etc/ocicrypt_config.json"
    assert config.kbc.offline_files == ("/x", "/y")
    assert config.proxy is not None
    assert (config.proxy.https_proxy, config.proxy.no_proxy) == ("http://p:3128", "localhost")


def test_a_file_s_own_values_beat_their_variables_where_the_specification_says_so() -> None:
    config = rules(TOML, KBS_CERT="OTHER", SKIP_SEALED_SECRET_VERIFICATION="false")
    assert config.kbc.kbs_cert == "PEM"
    assert config.skip_sealed_secret_verification


def test_the_variables_of_a_kms_fill_what_the_file_leaves_out_and_its_directory_rules() -> None:
    variables = {
        "ALIYUN_IN_GUEST_KEY_PATH": "/keys",
        "ALIBABA_CLOUD_ROLE_ARN": "role",
        "ALIBABA_CLOUD_OIDC_PROVIDER_ARN": "provider",
        "ALIBABA_CLOUD_OIDC_TOKEN_FILE": "/token",
        "ALIBABA_CLOUD_ROLE_SESSION_NAME": "pod",
    }
    found = rules(SMALLEST, **variables).kms.aliyun
    assert found.in_guest_key_path == "/keys"
    assert (found.role_arn, found.oidc_provider_arn) == ("role", "provider")
    assert (found.oidc_token_file, found.role_session_name) == ("/token", "pod")
    own = f'{SMALLEST}\n[kms.aliyun]\nrole_arn = "own"\nin_guest_key_path = "/own"\n'
    found = rules(own, **variables).kms.aliyun
    assert (found.in_guest_key_path, found.role_arn) == ("/keys", "own")
    assert rules(own).kms.aliyun.in_guest_key_path == "/own"
    defaults = rules(SMALLEST).kms.aliyun
    assert defaults.in_guest_key_path is None
    assert defaults.metadata_url == "http://100.100.100.200"
    assert defaults.token_root == "/run/confidential-containers"


def test_aws_and_ehsm_have_a_directory_from_their_variables_and_nothing_else() -> None:
    variables = {
        "AWS_IN_GUEST_KEY_PATH": "/aws",
        "EHSM_IN_GUEST_KEY_PATH": "/ehsm",
        "AWS_ACCESS_KEY_ID": "canary",
        "AWS_REGION": "canary",
        "AWS_CA_BUNDLE": "canary",
    }
    own = f'{SMALLEST}\n[kms.aws]\nin_guest_key_path = "/own"\n[kms.ehsm]\n'
    found = rules(own, **variables).kms
    assert found.aws == KmsServiceConfig(in_guest_key_path="/aws")
    assert found.ehsm == KmsServiceConfig(in_guest_key_path="/ehsm")
    assert rules(own).kms.aws.in_guest_key_path == "/own"
    assert rules(SMALLEST).kms.ehsm == KmsServiceConfig()
