"""The commands `confidential-data-hub` (ttRPC) and `grpc-cdh` (gRPC).

Source: docs/spec/confidential-data-hub.md 1.2 and 2.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

from cdh import config as cdh_config
from cdh import kms
from cdh.component import ConfidentialDataHub, OpenServer
from cdh.config import DEFAULT_GRPC_SOCKET, DEFAULT_SOCKET, CdhConfig
from cdh.credentials import RUNTIME_DIR
from guest import log
from guest.cmdline import CommandLine
from guest.config import read_config, read_kernel_command_line
from guest.errors import ConfigError, InvalidInputError
from guest.help_text import HelpText
from guest.log import LogFormat
from guest.metrics import DIRECTORY as METRICS_DIRECTORY
from guest.metrics import CallMetrics, Metrics, MetricsServer
from guest.process import DEFAULT_PATH, harden, started_at
from guest.rpc.address import UnixAddress, parse_address, parse_tcp
from guest.rpc.method import Channel, Routes
from guest.rpc.server import CallObserver, Server
from guest.supervisor import Component, main_loop
from guest.ttrpc.channel import TtrpcChannel
from guest.ttrpc.server import TtrpcServer
from guest.version import VERSION
from guest.warmup import WarmUp
from image_pull.metrics import PullMetrics

TTRPC_COMMAND: Final = "confidential-data-hub"
GRPC_COMMAND: Final = "grpc-cdh"


def main() -> NoReturn:
    """`confidential-data-hub`: serve ttRPC."""
    _run(TTRPC_COMMAND, grpc=False)


def grpc_main() -> NoReturn:
    """`grpc-cdh`: serve gRPC."""
    _run(GRPC_COMMAND, grpc=True)


def _run(program: str, *, grpc: bool) -> NoReturn:
    harden()
    arguments = make_parser(program).parse_args(sys.argv[1:])
    if arguments.version:
        print(_version_text())
        raise SystemExit(0)
    environment = dict(os.environ)

    async def build() -> Sequence[Component]:
        metrics = Metrics()
        hub = open_hub(arguments, environment, metrics, grpc=grpc, started=started_at())
        served = MetricsServer(metrics, program, directory=arguments.metrics_dir)
        return (hub, served, WarmUp(hub.first_needs, hub.prepare))

    main_loop(build, program=program, notify_socket=environment.get("NOTIFY_SOCKET"))


def open_hub(
    arguments: argparse.Namespace,
    environment: dict[str, str],
    metrics: Metrics,
    *,
    aa: Channel | None = None,
    grpc: bool = False,
    started: float | None = None,
) -> ConfidentialDataHub:
    """The service that command line and environment ask for.

    Args:
        arguments: of `make_parser`.
        environment: the process's variables.
        metrics: counts its calls and pulls.
        aa: leads to the attestation agent; None for the configured socket.
        grpc: build the gRPC service.
        started: when the process began, in seconds since boot; None for now.

    Raises:
        GuestError: the configuration is wrong.
    """
    config = _read_config(arguments, environment)
    return ConfidentialDataHub(
        config,
        aa or _agent_channel(config.aa.aa_socket),
        _server_opener(config, CallMetrics(metrics, "cdh"), grpc=grpc),
        grpc=grpc,
        runtime_dir=arguments.runtime_dir,
        pulls=PullMetrics(metrics),
        started=started,
        path=environment.get("PATH", DEFAULT_PATH),
    )


def _agent_channel(address: str) -> Channel:
    try:
        return TtrpcChannel(address)
    except InvalidInputError as error:
        raise ConfigError(f"aa.aa_socket: {error}") from error


def make_parser(program: str) -> argparse.ArgumentParser:
    """The command line of both commands."""
    parser = argparse.ArgumentParser(
        prog=program,
        allow_abbrev=False,
        formatter_class=partial(HelpText, columns=os.environ.get("COLUMNS")),
    )
    parser.add_argument("-c", "--config", metavar="PATH", help="configuration file, TOML or JSON")
    parser.add_argument("-V", "--version", action="store_true", help="print the version")
    parser.add_argument(
        "--strict", action="store_true", help="refuse unknown keys of the configuration"
    )
    parser.add_argument(
        "--runtime-dir",
        type=Path,
        default=RUNTIME_DIR,
        metavar="DIR",
        help="where credentials and ocicrypt_config.json are put (default: %(default)s)",
    )
    parser.add_argument(
        "--metrics-dir",
        default=METRICS_DIRECTORY,
        metavar="DIR",
        help="directory of the metrics socket, empty for none (default: %(default)s)",
    )
    return parser


def _version_text() -> str:
    plugins = ", ".join(entry.name for entry in kms.DECRYPTERS)
    return f"{VERSION}\nkbs: enabled\nkms plugins: {plugins}"


def _read_config(arguments: argparse.Namespace, environment: dict[str, str]) -> CdhConfig:
    rust_log = environment.get("RUST_LOG")
    journal = log.is_journal(environment.get("JOURNAL_STREAM"))
    log.configure("info", rust_log=rust_log, journal=journal)
    path = arguments.config or environment.get("CDH_CONFIG_PATH")
    file = read_config(path, CdhConfig, strict=arguments.strict) if path else None
    command_line = CommandLine.parse(read_kernel_command_line())
    config = cdh_config.effective(file, environment, command_line)
    json = config.log.format is LogFormat.JSON
    log.configure(config.log.level, rust_log=rust_log, json=json, journal=journal)
    return config


def _server_opener(config: CdhConfig, observer: CallObserver, *, grpc: bool) -> OpenServer:
    socket = config.socket or (DEFAULT_GRPC_SOCKET if grpc else DEFAULT_SOCKET)
    try:
        address = parse_tcp(socket) if grpc else parse_address(socket)
    except InvalidInputError as error:
        raise ConfigError(f"socket: {error}") from error
    if not grpc and not isinstance(address, UnixAddress):
        raise ConfigError("socket address scheme is not expected")

    def open_server(routes: Routes) -> Server:
        if grpc:
            from guest.rpc.grpc import GrpcServer

            return GrpcServer(routes, address, observer=observer)
        return TtrpcServer(routes, address, observer=observer)

    return open_server


if __name__ == "__main__":
    main()
