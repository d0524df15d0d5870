"""The attestation agent's configuration.

Source: docs/spec/attestation-agent.md 2.
"""

import logging
import math
from enum import StrEnum
from typing import Final

import msgspec

from attestation_agent.attesters.base import QuoteChoice
from guest.cmdline import CommandLine, find_kbc_params
from guest.config import RpcConfig
from guest.crypto.key_algorithm import TeeKeyAlgorithm
from guest.errors import DecodeError, InvalidInputError
from guest.log import LogConfig
from guest.metrics import MetricsConfig
from guest.rpc.address import TcpAddress, parse_address

log = logging.getLogger(__name__)

DEFAULT_SOCKET: Final = (
    "unix:///run/confidential-containers/attestation-agent/attestation-agent.sock"
)
DEFAULT_GRPC_SOCKET: Final = "127.0.0.1:50002"

DEFAULT_REGISTER: Final = 17
"""Register of a runtime measurement that names none."""

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
    """

    url: str
    cert: str | None = None
    timeout: float | None = None
    policy_ids: tuple[str, ...] = ()
    bind_nonce: bool = False

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
    """

    url: str
    cert: str | None = None
    tee_key_algorithm: TeeKeyAlgorithm = TeeKeyAlgorithm.EC_P256
    fallback_urls: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.tee_key_algorithm is TeeKeyAlgorithm.ML_KEM_768:
            raise ValueError("tee_key_algorithm ML-KEM-768+A192KW: its keys have no PEM form")


class TokenConfigs(msgspec.Struct, frozen=True, kw_only=True):
    """`[token_configs]`: where tokens come from; a kind that is not there fails when asked for."""

    coco_as: CocoAsConfig | None = None
    kbs: KbsConfig | None = None


class EventLogConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[eventlog_config]`.

    Attributes:
        init_pcr: register of a measurement that names none; unsigned, 64 bits.
        enable_eventlog: keep the event log where the TEE can measure.
    """

    init_pcr: int = DEFAULT_REGISTER
    enable_eventlog: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.init_pcr < 1 << 64:
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
    """

    tee: ChosenTee | None = None
    tdx: TdxConfig = TdxConfig()


class AaConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file; every table may be missing."""

    token_configs: TokenConfigs = TokenConfigs()
    eventlog_config: EventLogConfig = EventLogConfig()
    attester: AttesterConfig = AttesterConfig()
    rpc: RpcConfig = RpcConfig()
    metrics: MetricsConfig = MetricsConfig()
    log: LogConfig = LogConfig()


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
