"""The attestation agent's configuration.

Source: docs/spec/attestation-agent.md 2.
"""

import logging
import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec

from attestation_agent.attesters.base import QuoteChoice
from guest.base_url import verify_base_urls
from guest.cmdline import CommandLine, find_kbc_params
from guest.config import RpcConfig
from guest.crypto.key_algorithm import TeeKeyAlgorithm
from guest.errors import DecodeError, InvalidInputError, UnsupportedError
from guest.log import LogConfig
from guest.metrics import MetricsConfig
from guest.rpc.address import TcpAddress, parse_address

log = logging.getLogger(__name__)

DEFAULT_SOCKET: Final = (
    "unix:///run/confidential-containers/attestation-agent/attestation-agent.sock"
)
DEFAULT_GRPC_SOCKET: Final = "127.0.0.1:50002"

KBS_CLIENT: Final = "cc_kbc"
"""The only key broker client of `aa_kbc_params` that means a KBS."""


class CocoAsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[token_configs.coco_as]`: an attestation service that is asked directly.

    The defaults are the original's exchange: evidence that binds nothing.

    Attributes:
        url: base; `/attestation` is appended.
        cert: PEM text of one more trust anchor.
        timeout: most seconds of one request; without it the caller's deadline alone rules.
        policy_ids: policies that the service appraises by; none at all is its default policy.
        bind_nonce: ask for a nonce first and bind it; then the init data document is sent too.
        additional_data: pass a caller's `AdditionalData` on; nothing vouches for it.
        api_key: of a gateway before the service; from `TRUSTEE_API_KEY`.
    """

    url: str
    cert: str | None = None
    timeout: float | None = None
    policy_ids: tuple[str, ...] = ()
    bind_nonce: bool = False
    additional_data: bool = False
    api_key: str | None = None

    def __post_init__(self) -> None:
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise ValueError(f"timeout {self.timeout} is no positive number of seconds")


class KbsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[token_configs.kbs]`: the key broker service that attests this guest.

    Attributes:
        url: base; `/kbs/v0/...` is appended.
        cert: PEM text of one more trust anchor.
        tee_key_algorithm: kind of the key pair that each token is bound to.
        fallback_urls: further addresses of the same Trustee, tried in this order.
        api_key: of a gateway before it; from `TRUSTEE_API_KEY`, since a file may be public.
    """

    url: str
    cert: str | None = None
    tee_key_algorithm: TeeKeyAlgorithm = TeeKeyAlgorithm.EC_P256
    fallback_urls: tuple[str, ...] = ()
    api_key: str | None = None

    def __post_init__(self) -> None:
        if self.tee_key_algorithm is TeeKeyAlgorithm.ML_KEM_768:
            _verify_ml_kem()


def _verify_ml_kem() -> None:
    """Refuse now what every attestation would fail with; loads the libraries that it needs."""
    from guest.crypto.keys import TeeKey

    try:
        TeeKey.generate(TeeKeyAlgorithm.ML_KEM_768)
    except UnsupportedError as error:
        raise ValueError(f"tee_key_algorithm ML-KEM-768+A192KW: {error}") from error


class TokenConfigs(msgspec.Struct, frozen=True, kw_only=True):
    """`[token_configs]`: where tokens come from; a kind that is not there fails when asked for."""

    coco_as: CocoAsConfig | None = None
    kbs: KbsConfig | None = None


class EventLogConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[eventlog_config]`.

    Attributes:
        init_pcr: register of a measurement that names none; unsigned, 64 bits. Without it 17, and
            16 where the registers are a TPM's.
        enable_eventlog: keep the event log where the TEE can measure.
    """

    init_pcr: int | None = None
    enable_eventlog: bool = False

    def __post_init__(self) -> None:
        if self.init_pcr is not None and not 0 <= self.init_pcr < 1 << 64:
            raise ValueError(f"init_pcr {self.init_pcr} is no unsigned number of 64 bits")


class ChosenTee(StrEnum):
    """What a configuration may choose against the detection."""

    SAMPLE = "sample"


class TdxConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[attester.tdx]`.

    Attributes:
        quote: where quotes come from: `auto` is the first of `configfs`, `vsock` and `ioctl` that
            the guest has; `vsock` is the fastest.
        quoting_service: `vsock://<cid>:<port>` (or, for tests, `unix://<path>`) of the quoting
            service; without it the port in `/etc/tdx-attest.conf`, on the host.
    """

    quote: QuoteChoice = QuoteChoice.AUTO
    quoting_service: str | None = None

    def __post_init__(self) -> None:
        if self.quoting_service is None:
            return
        try:
            address = parse_address(self.quoting_service)
        except InvalidInputError as error:
            raise ValueError(f"quoting_service: {error}") from error
        if isinstance(address, TcpAddress):
            raise ValueError("quoting_service is neither vsock:// nor unix://")


class AttesterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[attester]`.

    Attributes:
        tee: `sample` chooses the sample attester where only a TPM would be found; refused where
            the guest has a TEE.
        tdx: what only a TDX guest looks at.
        nvidia: GPUs in confidential computing mode are attested; without it nobody looks for them.
        tpm: a TPM is attested as a device where the guest has another TEE, unless that TEE's
            evidence is the TPM's already.
        nvidia_dpu: a BlueField DPU is attested; verifiers do not yet agree about its evidence.
    """

    tee: ChosenTee | None = None
    tdx: TdxConfig = TdxConfig()
    nvidia: bool = True
    tpm: bool = False
    nvidia_dpu: bool = False


class InstanceType(StrEnum):
    """Whose instance this guest is."""

    ECS = "aliyun_ecs"
    EAS = "aliyun_eas"


class HeartbeatConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[aa_instance.heartbeat]`.

    Attributes:
        enabled: tell a Trustee gateway, again and again, that this instance is there.
        trustee_url: the gateway; `TRUSTEE_URL` beats it.
        interval_minutes: between two heartbeats.
    """

    enabled: bool = False
    trustee_url: str | None = None
    interval_minutes: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.interval_minutes <= 24 * 60:
            raise ValueError(f"interval_minutes {self.interval_minutes} is not between 0 and 1440")


class InstanceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[aa_instance]`: what a Trustee gateway is told of this instance; without it, nothing.

    Attributes:
        instance_type: where the information is.
        heartbeat: whether it is repeated.
    """

    instance_type: InstanceType | None = None
    heartbeat: HeartbeatConfig = HeartbeatConfig()


class AaConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file; every table may be missing."""

    token_configs: TokenConfigs = TokenConfigs()
    eventlog_config: EventLogConfig = EventLogConfig()
    attester: AttesterConfig = AttesterConfig()
    rpc: RpcConfig = RpcConfig()
    metrics: MetricsConfig = MetricsConfig()
    log: LogConfig = LogConfig()
    aa_instance: InstanceConfig = InstanceConfig()


def without_file(environment: str | None, command_line: CommandLine) -> AaConfig:
    """The configuration of an agent that was given no file.

    Args:
        environment: `AA_KBC_PARAMS`, which beats the command line even when it is empty.
        command_line: of the kernel.
    """
    try:
        params = find_kbc_params(environment, command_line)
    except DecodeError as error:
        log.warning("no KBS is configured", extra={"error": str(error)})
        return AaConfig()
    if params.name != KBS_CLIENT:
        return AaConfig()
    return AaConfig(token_configs=TokenConfigs(kbs=KbsConfig(url=params.url)))


def verify_urls(config: AaConfig) -> None:
    """Refuse addresses of services that no request could ever be sent to.

    Raises:
        ConfigError: one is not a plain http or https URL; names its key.
    """
    kbs, coco_as = config.token_configs.kbs, config.token_configs.coco_as
    urls = {"aa_instance.heartbeat.trustee_url": config.aa_instance.heartbeat.trustee_url or ""}
    if coco_as is not None:
        urls["token_configs.coco_as.url"] = coco_as.url
    if kbs is not None:
        urls["token_configs.kbs.url"] = kbs.url
        for number, url in enumerate(kbs.fallback_urls):
            urls[f"token_configs.kbs.fallback_urls[{number}]"] = url
    verify_base_urls(urls)


AS_PATH: Final = "/attestation-service"
"""Where a Trustee gateway has its attestation service."""


def with_gateway(config: AaConfig, environment: Mapping[str, str]) -> AaConfig:
    """The configuration with what the environment says of a Trustee gateway; alone, nothing.

    `TRUSTEE_URL` takes the place of the KBS's and the attestation service's addresses,
    `TRUSTEE_API_KEY` lets this guest in, `COCO_AS_POLICY_ID` names policies, separated by commas.

    Source: docs/spec/confidential-data-hub.md 12.7.
    """
    url = environment.get("TRUSTEE_URL", "").rstrip("/")
    kbs, coco_as = config.token_configs.kbs, config.token_configs.coco_as
    if url:
        kbs = msgspec.structs.replace(kbs or KbsConfig(url=url), url=url, fallback_urls=())
        coco_as = msgspec.structs.replace(coco_as or CocoAsConfig(url=url), url=f"{url}{AS_PATH}")
    key = environment.get("TRUSTEE_API_KEY")
    if key:
        kbs = kbs and msgspec.structs.replace(kbs, api_key=key)
        coco_as = coco_as and msgspec.structs.replace(coco_as, api_key=key)
    policies = tuple(part for part in environment.get("COCO_AS_POLICY_ID", "").split(",") if part)
    if policies:
        coco_as = coco_as and msgspec.structs.replace(coco_as, policy_ids=policies)
    instance = config.aa_instance
    if url:
        beat = msgspec.structs.replace(instance.heartbeat, trustee_url=url)
        instance = msgspec.structs.replace(instance, heartbeat=beat)
    tokens = TokenConfigs(kbs=kbs, coco_as=coco_as)
    return msgspec.structs.replace(config, token_configs=tokens, aa_instance=instance)
