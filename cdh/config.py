"""The configuration of CDH, and how file, environment and kernel command line make one.

Source: docs/spec/confidential-data-hub.md 2.
"""

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from guest.base_url import verify_base_urls
from guest.cmdline import CommandLine, KbcParams, find_kbc_params
from guest.errors import ConfigError, DecodeError
from guest.log import LogConfig
from image_pull import config as image_config
from image_pull.config import ImageConfig

DEFAULT_SOCKET: Final = "unix:///run/confidential-containers/cdh.sock"
DEFAULT_GRPC_SOCKET: Final = "127.0.0.1:50000"
DEFAULT_AA_SOCKET: Final = (
    "unix:///run/confidential-containers/attestation-agent/attestation-agent.sock"
)

MAX_CREDENTIALS: Final = 256
"""Most files that are fetched at start."""

CacheSeconds = Annotated[float, msgspec.Meta(ge=0, le=86400)]
"""How long something is kept."""

MAX_CREDENTIALS_SECONDS: Final = 600
"""Longest that a start may wait for its credentials."""


class KbcConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where resources come from.

    Attributes:
        name: `cc_kbc` or `offline_fs_kbc`.
        url: base address of the KBS; may have a path, trailing slashes do not matter.
        kbs_cert: PEM, trusted besides the system's roots.
        fallback_urls: further addresses of the same KBS, tried in order.
        offline_files: read by `offline_fs_kbc` after its standard files, in order.
        api_key: of a gateway before the KBS; from `TRUSTEE_API_KEY`, since a file may be public.
    """

    name: str
    url: str = ""
    kbs_cert: str | None = None
    fallback_urls: tuple[str, ...] = ()
    offline_files: tuple[str, ...] = ()
    api_key: str | None = None

    def endpoints(self) -> tuple[str, ...]:
        """All addresses of the KBS, without trailing slashes, the first one first."""
        return tuple(url.rstrip("/") for url in (self.url, *self.fallback_urls) if url)


class AaConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where the attestation agent is.

    Attributes:
        aa_socket: its ttRPC address; for tokens and for runtime measurement. Empty only before
            `effective`.
        required_by_pulls: a pull fails where that socket has no file, instead of going unmeasured.
    """

    aa_socket: str = ""
    required_by_pulls: bool = False


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """A resource that is stored in a file before CDH answers anybody.

    Attributes:
        resource_uri: which resource.
        path: where to; below the directories of `cdh.credentials`.
    """

    resource_uri: str
    path: str


class RpcConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How calls are answered.

    Attributes:
        exact_status: answer failures with their exact status instead of INTERNAL.
    """

    exact_status: bool = False


class ResourceCacheConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[resource_cache]`: resources of the KBS that are kept in memory; none by default.

    Attributes:
        seconds: that a resource is kept; 0 for not at all.
        lifetimes: seconds by resource URI, before `seconds`; 0 has one never kept.
        max_entries: most resources.
        max_bytes: most bytes of all together.
    """

    seconds: CacheSeconds = 0.0
    lifetimes: dict[str, CacheSeconds] = {}
    max_entries: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 256
    max_bytes: Annotated[int, msgspec.Meta(ge=1, le=1 << 30)] = 4 * 1024 * 1024


class InjectionConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[resource_injection]`: resources may be pushed into the guest.

    Attributes:
        enabled: serve the calls for it.
        seconds: from the key to the resource.
        max_sessions: keys that wait for a resource at one time.
        max_bytes: most bytes of all that was pushed; it lies in memory.
    """

    enabled: bool = False
    seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 300.0
    max_sessions: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 64
    max_bytes: Annotated[int, msgspec.Meta(ge=1, le=1 << 30)] = 64 * 1024 * 1024


class ProxyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Proxies towards the KBS; from the environment where the file names none.

    Attributes:
        https_proxy: for `https` URLs.
        http_proxy: for `http` URLs.
        no_proxy: comma list of hosts that are reached directly.
    """

    https_proxy: str | None = None
    http_proxy: str | None = None
    no_proxy: str | None = None


class AliyunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Alibaba Cloud KMS.

    Attributes:
        in_guest_key_path: the directory of its credentials, instead of the standard ones.
        role_arn: the role that this guest assumes with its identity token (RRSA).
        oidc_provider_arn: who issues the identity token.
        oidc_token_file: where the identity token is, read anew for each use.
        role_session_name: stands in the cloud's records.
        metadata_url: the metadata server of the machine.
        token_root: files that a secret names (`token_path`) must lie below it.
        extra_root_certificates: PEM texts that vouch for the shared gateways besides the
            system's roots.
    """

    in_guest_key_path: str | None = None
    role_arn: str | None = None
    oidc_provider_arn: str | None = None
    oidc_token_file: str | None = None
    role_session_name: str | None = None
    metadata_url: str = "http://100.100.100.200"
    token_root: str = "/run/confidential-containers"
    extra_root_certificates: tuple[str, ...] = ()


class KmsServiceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One key management service that needs no more than credentials and trust.

    Attributes:
        in_guest_key_path: the directory of its credentials, instead of the standard ones.
        extra_root_certificates: PEM texts that vouch for it besides the system's roots.
    """

    in_guest_key_path: str | None = None
    extra_root_certificates: tuple[str, ...] = ()


class KmsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Key management services; the usual variables of the environment fill what is unset.

    Attributes:
        aliyun: Alibaba Cloud.
        aws: AWS KMS and Secrets Manager; of its variables only `AWS_IN_GUEST_KEY_PATH` counts.
        ehsm: Intel eHSM-KMS.
    """

    aliyun: AliyunConfig = AliyunConfig()
    aws: KmsServiceConfig = KmsServiceConfig()
    ehsm: KmsServiceConfig = KmsServiceConfig()


class StorageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[storage]`: secure mounts.

    Attributes:
        key_file_dirs: a volume's key may be a file (`file://`) below these directories only.
        unmount_at_exit: unmount what was mounted here when the hub stops in good order.
    """

    key_file_dirs: tuple[str, ...] = ("/run/confidential-containers",)
    unmount_at_exit: bool = False


class CdhConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything CDH is told.

    Attributes:
        kbc: where resources come from.
        socket: listen address; None is the default of the command.
        aa: where the attestation agent is.
        credentials: files to fetch at start.
        skip_sealed_secret_verification: open sealed secrets whose signature was not checked.
        log: what is logged.
        image: how images are pulled; None only before `effective`.
        rpc: how calls are answered.
        proxy: proxies towards the KBS.
        kms: key management services.
        ocicrypt_keyprovider_config: the file that other programs find the key provider in; None
            has CDH write its own.
        resource_cache: what is kept of the KBS's resources.
        storage: secure mounts.
        resource_injection: may resources be pushed.
        aa_socket: what `aa.aa_socket` is called elsewhere; that one goes first.
        credentials_seconds: from the start of the process, for all credentials; a start that
            needs longer fails.
    """

    kbc: KbcConfig
    socket: str | None = None
    aa: AaConfig = AaConfig()
    credentials: Annotated[tuple[Credential, ...], msgspec.Meta(max_length=MAX_CREDENTIALS)] = ()
    skip_sealed_secret_verification: bool = False
    log: LogConfig = LogConfig()
    image: ImageConfig | None = None
    rpc: RpcConfig = RpcConfig()
    proxy: ProxyConfig | None = None
    kms: KmsConfig = KmsConfig()
    ocicrypt_keyprovider_config: str | None = None
    resource_cache: ResourceCacheConfig = ResourceCacheConfig()
    storage: StorageConfig = StorageConfig()
    resource_injection: InjectionConfig = InjectionConfig()
    aa_socket: str | None = None  # Compat: configurations of Alibaba's fork
    credentials_seconds: Annotated[float, msgspec.Meta(gt=0, le=MAX_CREDENTIALS_SECONDS)] = 5.0


def effective(
    file: CdhConfig | None, environment: Mapping[str, str], command_line: CommandLine
) -> CdhConfig:
    """What rules after environment and kernel command line had their say; called by roots.

    Args:
        file: the configuration file's content, or None when none was named.
        environment: the process's variables.
        command_line: of the kernel.

    Raises:
        ConfigError: `AA_KBC_PARAMS` or `agent.aa_kbc_params` without `::`.
    """
    params = environment.get("AA_KBC_PARAMS")
    if file is None:
        kbc = _with_params(KbcConfig(name=""), _find_params(params, command_line))
        file = CdhConfig(kbc=kbc)
    elif params is not None:
        kbc = _with_params(file.kbc, _find_params(params, command_line))
        file = msgspec.structs.replace(file, kbc=kbc)
    image = file.image
    if image is None:
        image = image_config.from_kernel_parameters(dict(command_line.pairs))
    named = file.aa.aa_socket or file.aa_socket or DEFAULT_AA_SOCKET
    skip = environment.get("SKIP_SEALED_SECRET_VERIFICATION") == "true"
    credentials = _credentials(command_line.first("cdh.kbs_resources") or "")
    return msgspec.structs.replace(
        file,
        kbc=_with_environment(file.kbc, environment),
        aa=msgspec.structs.replace(file.aa, aa_socket=environment.get("AA_SOCKET", named)),
        credentials=(*file.credentials, *credentials),
        skip_sealed_secret_verification=file.skip_sealed_secret_verification or skip,
        image=image_config.with_environment(image, environment),
        proxy=file.proxy or _proxy_of(environment),
        kms=_kms_with_environment(file.kms, environment),
        ocicrypt_keyprovider_config=environment.get(
            "OCICRYPT_KEYPROVIDER_CONFIG", file.ocicrypt_keyprovider_config
        ),
    )


def verify_urls(config: CdhConfig) -> None:
    """Refuse addresses of services that no request could ever be sent to.

    `offline_fs_kbc` asks nobody: what stands in its URL is nobody's address, customarily `null`.

    Raises:
        ConfigError: one is not a plain http or https URL; names its key.
    """
    urls = {"kms.aliyun.metadata_url": config.kms.aliyun.metadata_url}
    if config.kbc.name == "cc_kbc":
        urls["kbc.url"] = config.kbc.url
        for number, url in enumerate(config.kbc.fallback_urls):
            urls[f"kbc.fallback_urls[{number}]"] = url
    verify_base_urls(urls)


def _find_params(text: str | None, command_line: CommandLine) -> KbcParams:
    try:
        return find_kbc_params(text, command_line)
    except DecodeError as error:
        raise ConfigError(str(error)) from error


def _with_params(kbc: KbcConfig, params: KbcParams) -> KbcConfig:
    """The parameters' name and URL; fallbacks stay only beside the URL they belong to."""
    same = params.url.rstrip("/") == kbc.url.rstrip("/")
    fallback_urls = kbc.fallback_urls if same else ()
    return msgspec.structs.replace(
        kbc, name=params.name, url=params.url, fallback_urls=fallback_urls
    )


def _with_environment(kbc: KbcConfig, environment: Mapping[str, str]) -> KbcConfig:
    files = environment.get("OFFLINE_FS_KBC_EXTRA_FILE_PATH", "")
    return msgspec.structs.replace(
        kbc,
        kbs_cert=environment.get("KBS_CERT") if kbc.kbs_cert is None else kbc.kbs_cert,
        offline_files=(*kbc.offline_files, *(path for path in files.split(",") if path)),
        api_key=environment.get("TRUSTEE_API_KEY") or kbc.api_key,
    )


def _kms_with_environment(kms: KmsConfig, environment: Mapping[str, str]) -> KmsConfig:
    """The directory's variable rules over the file; the others fill what the file leaves out."""
    own = kms.aliyun

    def pick(value: str | None, name: str) -> str | None:
        return value or environment.get(name) or None

    path = environment.get("ALIYUN_IN_GUEST_KEY_PATH") or own.in_guest_key_path
    aliyun = msgspec.structs.replace(
        own,
        in_guest_key_path=path,
        role_arn=pick(own.role_arn, "ALIBABA_CLOUD_ROLE_ARN"),
        oidc_provider_arn=pick(own.oidc_provider_arn, "ALIBABA_CLOUD_OIDC_PROVIDER_ARN"),
        oidc_token_file=pick(own.oidc_token_file, "ALIBABA_CLOUD_OIDC_TOKEN_FILE"),
        role_session_name=pick(own.role_session_name, "ALIBABA_CLOUD_ROLE_SESSION_NAME"),
    )
    aws, ehsm = (
        msgspec.structs.replace(
            service,
            in_guest_key_path=environment.get(f"{name}_IN_GUEST_KEY_PATH")
            or service.in_guest_key_path,
        )
        for name, service in (("AWS", kms.aws), ("EHSM", kms.ehsm))
    )
    return msgspec.structs.replace(kms, aliyun=aliyun, aws=aws, ehsm=ehsm)


def _credentials(text: str) -> tuple[Credential, ...]:
    """`<uri>::<path>` items joined by commas; malformed ones are skipped."""
    items = (item.partition("::") for item in text.split(","))
    return tuple(
        Credential(resource_uri=uri, path=path) for uri, separator, path in items if separator
    )


def _proxy_of(environment: Mapping[str, str]) -> ProxyConfig | None:
    def value(name: str) -> str | None:
        return environment.get(name) or environment.get(name.lower()) or None

    every = value("ALL_PROXY")
    proxy = ProxyConfig(
        https_proxy=value("HTTPS_PROXY") or every,
        http_proxy=value("HTTP_PROXY") or every,
        no_proxy=value("NO_PROXY"),
    )
    return proxy if proxy.https_proxy or proxy.http_proxy else None
