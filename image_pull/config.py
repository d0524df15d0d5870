"""The `[image]` table of CDH's configuration: how images are pulled. Sans-I/O.

Source: docs/spec/image-pull.md, section 2.
"""

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from image_pull.registry.rules import RegistriesTable

DEFAULT_WORK_DIR: Final = "/run/kata-containers/image/"
"""Where kata-agent mounts the trusted storage; root of the store."""

CREDENTIALS_VARIABLE: Final = "CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS"
"""Environment variable that overrides `authenticated_registry_credentials_uri`."""


class ImagePullProxy(msgspec.Struct, frozen=True, kw_only=True):
    """Proxies of the registry client.

    Attributes:
        https_proxy: for `https` URLs; a value without a scheme means `http://`.
        http_proxy: for `http` URLs.
        no_proxy: comma list of hosts that are reached directly.
    """

    https_proxy: str | None = None
    http_proxy: str | None = None
    no_proxy: str | None = None


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How images are pulled.

    Attributes:
        work_dir: root of the store.
        image_security_policy_uri: signature policy by URI; wins over the inline one.
        image_security_policy: signature policy as JSON text.
        sigstore_config_uri: lookaside configuration by URI; wins over the inline one.
        sigstore_config: lookaside configuration as YAML text.
        authenticated_registry_credentials_uri: registry credentials (auth.json) by URI.
        registry_configuration_uri: registry rules (registries.conf) by URI.
        registry_config: registry rules inline; win over the URI.
        max_concurrent_layer_downloads_per_image: layers of one image under way at once, 1 or more.
        image_pull_proxy: proxies; without any the environment's are used.
        extra_root_certificates: PEM certificates trusted besides the system's; an entry may hold
            several.
        kbc: accepted for enclave builds of the peer, not used.
        kbs_uri: accepted for enclave builds of the peer, not used.
        require_protected_store: refuse to pull when `work_dir` is neither memory nor a disk that
            was encrypted in this boot.
        max_unpacked_bytes: most bytes one layer may unpack to; without it, what is free in the
            store when the layer starts.
        keep_unused_layers_seconds: how long a layer that no root file system shows any more stays
            for later pulls, as long as nothing else needs its room.
        refuse_expired_keys: refuse image signatures by OpenPGP keys that have expired by the
            guest's clock, which the host can influence; revoked ones are always refused.
        evaluate_original_reference: evaluate the policy for the name the caller gave as well as
            for the name a registry rule made of it; both must accept.
    """

    work_dir: str = DEFAULT_WORK_DIR
    image_security_policy_uri: str | None = None
    image_security_policy: str | None = None
    sigstore_config_uri: str | None = None
    sigstore_config: str | None = None
    authenticated_registry_credentials_uri: str | None = None
    registry_configuration_uri: str | None = None
    registry_config: RegistriesTable | None = None
    max_concurrent_layer_downloads_per_image: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 3
    image_pull_proxy: ImagePullProxy | None = None
    extra_root_certificates: tuple[str, ...] = ()
    kbc: str = "sample_kbc"
    kbs_uri: str = "null"
    require_protected_store: bool = False
    max_unpacked_bytes: Annotated[int, msgspec.Meta(ge=1)] | None = None
    keep_unused_layers_seconds: Annotated[float, msgspec.Meta(ge=0)] = 900.0
    refuse_expired_keys: bool = True
    evaluate_original_reference: bool = False


def from_kernel_parameters(parameters: Mapping[str, str]) -> ImageConfig:
    """The table that the kernel command line stands for, when no `[image]` section exists.

    Args:
        parameters: the parsed command line; of duplicates the last one.
    """
    proxy = ImagePullProxy(
        https_proxy=parameters.get("agent.https_proxy"),
        http_proxy=parameters.get("agent.http_proxy"),
        no_proxy=parameters.get("agent.no_proxy"),
    )
    verify = parameters.get("agent.enable_signature_verification") == "true"
    return ImageConfig(
        image_pull_proxy=proxy if proxy != ImagePullProxy() else None,
        authenticated_registry_credentials_uri=parameters.get("agent.image_registry_auth"),
        image_security_policy_uri=parameters.get("agent.image_policy_file") if verify else None,
    )


def with_environment(config: ImageConfig, environment: Mapping[str, str]) -> ImageConfig:
    """The table after the variables that rule over it; called once, by a root.

    Args:
        config: from file or command line.
        environment: the process's variables.
    """
    credentials = environment.get(CREDENTIALS_VARIABLE)
    if credentials is not None:
        config = msgspec.structs.replace(config, authenticated_registry_credentials_uri=credentials)
    proxy = config.image_pull_proxy
    if proxy is not None and (proxy.https_proxy or proxy.http_proxy):
        return config
    return msgspec.structs.replace(config, image_pull_proxy=_proxies_of(environment))


def _proxies_of(environment: Mapping[str, str]) -> ImagePullProxy | None:
    """The environment's proxies; upper case wins, and CGI (`REQUEST_METHOD`) has none."""
    if "REQUEST_METHOD" in environment:
        return None

    def value(name: str) -> str | None:
        return environment.get(name) or environment.get(name.lower()) or None

    every = value("ALL_PROXY")
    https, http = value("HTTPS_PROXY") or every, value("HTTP_PROXY") or every
    if not https and not http:
        return None
    return ImagePullProxy(https_proxy=https, http_proxy=http, no_proxy=value("NO_PROXY"))
