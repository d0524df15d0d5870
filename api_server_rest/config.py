"""What the REST shim is told on its command line. Sans-I/O.

Source: docs/spec/api-server-rest.md 1; docs/spec/confidential-data-hub.md 12.5 and 12.11.
"""

from enum import StrEnum
from typing import Final

import msgspec

DEFAULT_BIND: Final = "127.0.0.1:8006"
DEFAULT_CDH_ADDRESS: Final = "unix:///run/confidential-containers/cdh.sock"
DEFAULT_AA_ADDRESS: Final = (
    "unix:///run/confidential-containers/attestation-agent/attestation-agent.sock"
)


class Feature(StrEnum):
    """Which halves of the interface are served."""

    RESOURCE = "resource"
    ATTESTATION = "attestation"
    ALL = "all"

    @property
    def has_cdh(self) -> bool:
        """Whether `/cdh` is served."""
        return self is not Feature.ATTESTATION

    @property
    def has_aa(self) -> bool:
        """Whether `/aa` is served and `/info` names the TEE."""
        return self is not Feature.RESOURCE


class Injection(StrEnum):
    """Who may push resources into the guest through the shim."""

    OFF = "off"
    LOOPBACK = "loopback"
    REMOTE = "remote"


class RestConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the shim.

    Attributes:
        bind: numeric address and port; port 0 lets the system choose.
        feature: what is served.
        cdh_address: of the confidential data hub, for messages too.
        aa_address: of the attestation agent, for messages too.
        version: of this build, as `/info` shows it.
        refuse_origin: refuse requests that a browser made for a page (`Origin`).
        injection: who may push resources; where it is off there are no routes for it.
    """

    bind: str = DEFAULT_BIND
    feature: Feature = Feature.RESOURCE
    cdh_address: str = DEFAULT_CDH_ADDRESS
    aa_address: str = DEFAULT_AA_ADDRESS
    version: str = "unknown"
    refuse_origin: bool = False
    injection: Injection = Injection.OFF
