"""The command `api-server-rest`.

Source: docs/spec/api-server-rest.md 1; docs/spec/confidential-data-hub.md 12.5.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

from api_server_rest.backend import UnusableChannel
from api_server_rest.component import ApiServerRest
from api_server_rest.config import (
    DEFAULT_AA_ADDRESS,
    DEFAULT_BIND,
    DEFAULT_CDH_ADDRESS,
    Feature,
    Injection,
    RestConfig,
)
from guest import log
from guest.errors import ConfigError, InvalidInputError
from guest.metrics import DIRECTORY as METRICS_DIRECTORY
from guest.metrics import Kind, Metric, Metrics, MetricsServer
from guest.process import harden
from guest.rpc.method import Channel
from guest.rpc.patience import PatientChannel
from guest.supervisor import Component, main_loop
from guest.ttrpc.channel import TtrpcChannel
from guest.version import VERSION

PROGRAM: Final = "api-server-rest"
LOG_LEVEL: Final = "info"

REQUEST_SECONDS: Final = Metric(
    "coco_rest_request_seconds",
    "Duration of answered HTTP requests by what was asked for and status.",
    Kind.HISTOGRAM,
    ("action", "status"),
)


class RequestMetrics:
    """Counts requests.

    Args:
        metrics: of this process.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def request_ended(self, action: str, status: int, seconds: float) -> None:
        """Note one request."""
        self._metrics.record(REQUEST_SECONDS, seconds, action, str(status))


def main() -> NoReturn:
    """`api-server-rest`: serve HTTP on loopback."""
    harden()
    arguments = make_parser().parse_args(sys.argv[1:])
    if arguments.version:
        print(f"{PROGRAM} Guest Components Version: v{VERSION}\n")
        raise SystemExit(0)
    environment = dict(os.environ)

    async def build() -> Sequence[Component]:
        journal = log.is_journal(environment.get("JOURNAL_STREAM"))
        log.configure(LOG_LEVEL, rust_log=environment.get("RUST_LOG"), journal=journal)
        metrics = Metrics()
        shim = open_shim(arguments, environment, metrics)
        return (shim, MetricsServer(metrics, PROGRAM, directory=arguments.metrics_dir))

    main_loop(build, program=PROGRAM, notify_socket=environment.get("NOTIFY_SOCKET"))


def open_shim(
    arguments: argparse.Namespace,
    environment: Mapping[str, str],
    metrics: Metrics,
    *,
    aa: Channel | None = None,
    cdh: Channel | None = None,
) -> ApiServerRest:
    """The service that command line and environment ask for.

    Args:
        arguments: of `make_parser`.
        environment: the process's variables; none of them matters here.
        metrics: counts its requests.
        aa: leads to the attestation agent; None for the address of the command line.
        cdh: leads to the data hub; None for the address of the command line.

    Raises:
        ConfigError: the command line asks for what there is not.
    """
    del environment
    feature = _feature(arguments.features)
    injection = Injection(arguments.resource_injection)
    if injection is not Injection.OFF and not feature.has_cdh:
        raise ConfigError("--resource-injection needs --features resource or all")
    config = RestConfig(
        bind=arguments.bind,
        feature=feature,
        cdh_address=arguments.cdh_addr,
        aa_address=arguments.aa_addr,
        version=f"v{VERSION}",
        refuse_origin=arguments.refuse_origin,
        injection=injection,
    )
    return ApiServerRest(
        config,
        aa or _channel(config.aa_address),
        cdh or _channel(config.cdh_address),
        observer=RequestMetrics(metrics),
    )


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog=PROGRAM, allow_abbrev=False)
    parser.add_argument("-b", "--bind", default=DEFAULT_BIND, metavar="IP:PORT")
    parser.add_argument(
        "-f",
        "--features",
        default=Feature.RESOURCE.value,
        metavar="FEATURE",
        help="resource, attestation or all (default: %(default)s)",
    )
    parser.add_argument(
        "-c", "--cdh_addr", "--cdh-addr", default=DEFAULT_CDH_ADDRESS, metavar="URI"
    )
    parser.add_argument("-a", "--aa_addr", "--aa-addr", default=DEFAULT_AA_ADDRESS, metavar="URI")
    parser.add_argument("-V", "--version", action="store_true", help="print the version")
    parser.add_argument(
        "--refuse-origin", action="store_true", help="refuse requests that browsers make for pages"
    )
    parser.add_argument(
        "--resource-injection",
        default=Injection.OFF.value,
        choices=[one.value for one in Injection],
        help="who may push resources into the guest: nobody (off), processes of this pod "
        "(loopback), whoever reaches the port (remote); the data hub must allow it too, by "
        "[resource_injection] enabled = true (default: %(default)s)",
    )
    parser.add_argument(
        "--metrics-dir",
        default=METRICS_DIRECTORY,
        metavar="DIR",
        help="directory of the metrics socket, empty for none (default: %(default)s)",
    )
    return parser


def _feature(text: str) -> Feature:
    try:
        return Feature(text)
    except ValueError:
        raise ConfigError(
            "Unknown features. Supported features are: resource, attestation, all."
        ) from None


def _channel(address: str) -> Channel:
    """A bad address is found out at the first call, like a dead one."""
    try:
        return PatientChannel(TtrpcChannel(address))
    except InvalidInputError:
        return UnusableChannel(address)


if __name__ == "__main__":
    main()
