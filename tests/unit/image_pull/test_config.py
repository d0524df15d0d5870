"""The `[image]` table: defaults, command line, environment."""

import msgspec
import pytest

from guest.config import decode_config
from guest.errors import ConfigError
from guest.proxies import Proxies
from image_pull.component import proxies_of
from image_pull.config import (
    CREDENTIALS_VARIABLE,
    ImageConfig,
    ImagePullProxy,
    from_kernel_parameters,
    with_environment,
)


class File(msgspec.Struct, frozen=True):
    image: ImageConfig | None = None


def read(text: str) -> ImageConfig:
    image = decode_config(text.encode(), "cdh.toml", File).image
    assert image is not None
    return image


@pytest.mark.spec("image-pull", 6)
def test_the_defaults_are_the_specified_ones_and_no_download_at_all_is_refused() -> None:
    config = read("[image]")
    assert config.work_dir == "/run/kata-containers/image/"
    assert config.max_concurrent_layer_downloads_per_image == 3
    with pytest.raises(ConfigError, match=r"image.max_concurrent_layer_downloads_per_image"):
        read("[image]\nmax_concurrent_layer_downloads_per_image = 0")


def test_rules_may_be_inline() -> None:
    config = read(
        "[image.registry_config]\nunqualified-search-registries = ['a.io']\n"
        "[[image.registry_config.registry]]\nlocation = 'q.io'\ninsecure = true\n"
        "[[image.registry_config.registry.mirror]]\nlocation = 'm.io'\n"
    )
    assert config.registry_config is not None
    assert config.registry_config.unqualified_search_registries == ("a.io",)
    assert config.registry_config.registry[0].mirror[0].location == "m.io"


@pytest.mark.parametrize("value", [None, "false", "True", "1", ""])
def test_the_kernels_policy_counts_only_with_verification_exactly_true(value: str | None) -> None:
    parameters = {"agent.image_policy_file": "kbs:///a/b/c"}
    if value is not None:
        parameters["agent.enable_signature_verification"] = value
    assert from_kernel_parameters(parameters) == ImageConfig()
    parameters["agent.enable_signature_verification"] = "true"
    assert from_kernel_parameters(parameters).image_security_policy_uri == "kbs:///a/b/c"


def test_the_kernel_gives_proxies_and_credentials() -> None:
    config = from_kernel_parameters(
        {
            "agent.https_proxy": "p:1",
            "agent.no_proxy": "x",
            "agent.image_registry_auth": "file:///a",
        }
    )
    assert config.image_pull_proxy == ImagePullProxy(https_proxy="p:1", no_proxy="x")
    assert config.authenticated_registry_credentials_uri == "file:///a"


def test_the_variable_rules_over_the_configured_credentials() -> None:
    config = ImageConfig(authenticated_registry_credentials_uri="kbs:///a/b/c")
    changed = with_environment(config, {CREDENTIALS_VARIABLE: "file:///run/peerpod/auth.json"})
    assert changed.authenticated_registry_credentials_uri == "file:///run/peerpod/auth.json"
    assert with_environment(config, {}) == config


@pytest.mark.parametrize(
    ("configured", "environment", "expected"),
    [
        (None, {"HTTPS_PROXY": "a:1", "https_proxy": "b:1"}, ImagePullProxy(https_proxy="a:1")),
        (None, {"all_proxy": "a:1"}, ImagePullProxy(https_proxy="a:1", http_proxy="a:1")),
        (
            None,
            {"http_proxy": "a:1", "NO_PROXY": "x"},
            ImagePullProxy(http_proxy="a:1", no_proxy="x"),
        ),
        (None, {"HTTPS_PROXY": "a:1", "REQUEST_METHOD": "GET"}, None),
        (None, {"NO_PROXY": "x"}, None),
        (
            ImagePullProxy(http_proxy="c:1"),
            {"HTTPS_PROXY": "a:1"},
            ImagePullProxy(http_proxy="c:1"),
        ),
        (ImagePullProxy(no_proxy="y"), {"HTTPS_PROXY": "a:1"}, ImagePullProxy(https_proxy="a:1")),
    ],
)
def test_the_environments_proxies_count_only_when_none_is_configured(
    configured: ImagePullProxy | None,
    environment: dict[str, str],
    expected: ImagePullProxy | None,
) -> None:
    config = with_environment(ImageConfig(image_pull_proxy=configured), environment)
    assert config.image_pull_proxy == expected


NO_PROXY = [
    ("192.168.0.1", "192.168.0.1", True),
    ("192.168.0.0/16", "192.168.7.9", True),
    ("::1", "[::1]", True),
    ("example.com", "example.com", True),
    (".example.com", "example.com", True),
    ("example.com", "r.example.com", True),
    ("example.com", "R.EXAMPLE.com", True),
    (".example.com", "r.example.com", True),
    ("example.com", "notexample.com", False),
    ("*", "example.com", True),
    ("*", "10.0.0.1", True),
    ("*.example.com", "a.example.com", False),
    ("localhost:5000", "localhost", False),
    (" a.io , b.io ", "b.io", True),
    ("10.0.0.1", "localhost", False),
]


@pytest.mark.spec("image-pull", 19)
def test_no_proxy_bypasses_as_the_table_says_and_the_environment_not_at_all() -> None:
    for entry, host, bypassed in NO_PROXY:
        proxies = proxies_of(ImagePullProxy(https_proxy="p:1", no_proxy=entry))
        found = proxies.for_url(f"https://{host}:5000/v2/")
        assert found == (None if bypassed else "http://p:1"), (entry, host)
    configured = ImageConfig(image_pull_proxy=ImagePullProxy(https_proxy="p:1"))
    config = with_environment(configured, {"HTTP_PROXY": "e:1", "NO_PROXY": "*"})
    assert proxies_of(config.image_pull_proxy) == Proxies(https="http://p:1")
