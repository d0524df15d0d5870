"""The commands `attestation-agent` (ttRPC) and `grpc-aa` (gRPC).

Source: docs/spec/attestation-agent.md 1.1, 1.2, 1.5 and 1.6.
"""

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, NoReturn

from attestation_agent.attesters import available
from attestation_agent.component import AttestationAgent, InstanceTeller, OpenServer
from attestation_agent.config import (
    DEFAULT_GRPC_SOCKET,
    DEFAULT_SOCKET,
    AaConfig,
    with_gateway,
    without_file,
)
from attestation_agent.hints import read_hints
from attestation_agent.launch import LaunchData
from guest import log as logs
from guest.cmdline import CommandLine
from guest.config import read_config, read_kernel_command_line
from guest.errors import ConfigError, InvalidInputError
from guest.help_text import HelpText
from guest.log import LogFormat
from guest.metrics import CallMetrics, Metrics, MetricsServer
from guest.process import harden
from guest.proxies import Proxies
from guest.rpc.address import UnixAddress, parse_address, parse_tcp
from guest.rpc.method import Routes
from guest.rpc.server import CallObserver, Server
from guest.supervisor import Component, main_loop
from guest.ttrpc.server import TtrpcServer
from guest.version import VERSION
from guest.warmup import WarmUp

TTRPC_COMMAND: Final = "attestation-agent"
GRPC_COMMAND: Final = "grpc-aa"

DESCRIPTION: Final = "Serve evidence, tokens and runtime measurement of this guest."
EXIT_STATUS: Final = "exit status: 0 stopped by a signal, 1 cannot start, 2 wrong command line"

TOKEN_PLUGINS: Final = "KBS, COCO_AS"

log = logging.getLogger(__name__)


def main() -> NoReturn:
    """`attestation-agent`: serve ttRPC."""
    _run(TTRPC_COMMAND, grpc=False)


def grpc_main() -> NoReturn:
    """`grpc-aa`: serve gRPC."""
    _run(GRPC_COMMAND, grpc=True)


def _run(program: str, *, grpc: bool) -> NoReturn:
    harden()
    arguments = make_parser(program, grpc=grpc).parse_args(sys.argv[1:])
    environment = dict(os.environ)

    async def build() -> Sequence[Component]:
        metrics = Metrics()
        agent, metrics_directory = open_agent(arguments, environment, metrics, grpc=grpc)
        served = MetricsServer(metrics, program, directory=metrics_directory)
        return (agent, served, WarmUp(agent.first_needs))

    main_loop(build, program=program, notify_socket=environment.get("NOTIFY_SOCKET"))


def open_agent(
    arguments: argparse.Namespace,
    environment: Mapping[str, str],
    metrics: Metrics,
    *,
    grpc: bool = False,
) -> tuple[AttestationAgent, str]:
    """The service that command line and environment ask for, and the metrics' directory.

    Raises:
        GuestError: the configuration is wrong, or this guest has no attester.
    """
    config = _read_config(arguments, environment, grpc=grpc)
    observer = CallMetrics(metrics, "aa")
    agent = AttestationAgent(
        config,
        _server_opener(arguments.attestation_sock, observer, grpc=grpc),
        hints=read_hints(environment),
        launch=LaunchData.read(document=arguments.initdata_toml, digest=arguments.initdata_digest),
        proxies=Proxies.from_variables(environment),
        grpc=grpc,
        instance=_instance(config, environment),
    )
    directory = arguments.metrics_dir
    return agent, config.metrics.directory if directory is None else directory


def _instance(config: AaConfig, environment: Mapping[str, str]) -> InstanceTeller | None:
    if config.aa_instance.instance_type is None:
        return None
    from attestation_agent.instance import Instance

    proxies = Proxies.from_variables(environment)
    key = environment.get("TRUSTEE_API_KEY")
    return Instance(config.aa_instance, environment, proxies, api_key=key)


def make_parser(program: str, *, grpc: bool = False) -> argparse.ArgumentParser:
    """The command line of both commands."""
    parser = argparse.ArgumentParser(
        prog=program, allow_abbrev=False, description=DESCRIPTION, epilog=EXIT_STATUS,
        formatter_class=partial(HelpText, columns=os.environ.get("COLUMNS")),
    )  # fmt: skip
    default = DEFAULT_GRPC_SOCKET if grpc else DEFAULT_SOCKET
    what = "IP:port" if grpc else "URI, unix:// only"
    parser.add_argument(
        "-a", "--attestation_sock", default=default, metavar="ADDRESS",
        help=f"where to listen: {what} (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "-c", "--config-file", metavar="PATH", help="configuration file: TOML, JSON or YAML"
    )
    parser.add_argument(
        "-i", "--initdata-digest", metavar="BASE64", help="digest of the init data to bind"
    )
    parser.add_argument(
        "-t", "--initdata-toml", metavar="PATH",
        help="init data document to bind and to send to the KBS; wins over -i",
    )  # fmt: skip
    parser.add_argument(
        "--strict", action="store_true", help="refuse unknown keys of the configuration"
    )
    parser.add_argument(
        "--metrics-dir", metavar="DIR",
        help="directory of the metrics socket, empty for none (default: metrics.directory)",
    )  # fmt: skip
    parser.add_argument("-V", "--version", action="version", version=_version_text(program))
    for alias, dest in (
        ("--attestation-sock", "attestation_sock"),
        ("--config", "config_file"),
        ("--config_file", "config_file"),
        ("--initdata_digest", "initdata_digest"),
        ("--initdata_toml", "initdata_toml"),
    ):
        parser.add_argument(alias, dest=dest, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def _version_text(program: str) -> str:
    attesters = ", ".join(tee.value for tee in available())
    return f"{program} {VERSION}\nsupported attesters: {attesters}\ntoken plugins: {TOKEN_PLUGINS}"


def _read_config(
    arguments: argparse.Namespace, environment: Mapping[str, str], *, grpc: bool
) -> AaConfig:
    rust_log = environment.get("RUST_LOG")
    journal = logs.is_journal(environment.get("JOURNAL_STREAM"))
    logs.configure("info", rust_log=rust_log, journal=journal)
    if arguments.config_file is not None:
        config = read_config(arguments.config_file, AaConfig, strict=arguments.strict)
    else:
        command_line = CommandLine.parse(read_kernel_command_line())
        config = without_file(environment.get("AA_KBC_PARAMS"), command_line)
    config = with_gateway(config, environment)
    is_json = config.log.format is LogFormat.JSON
    logs.configure(config.log.level, rust_log=rust_log, json=is_json, journal=journal)
    chosen = config.log.level if rust_log is None else rust_log
    rpc = "grpc" if grpc else "ttrpc"
    log.info("starting", extra={"version": VERSION, "log": chosen, "rpc": rpc})
    if arguments.config_file is not None:
        log.info("Using config file: %s", arguments.config_file)
    else:
        log.info(
            "No AA config file specified. Using default configuration and the kbs address will "
            "be read from kernel cmdline."
        )
    return config


def _server_opener(text: str, observer: CallObserver, *, grpc: bool) -> OpenServer:
    try:
        address = parse_tcp(text) if grpc else parse_address(text)
    except InvalidInputError as error:
        if grpc:
            raise ConfigError("--attestation_sock") from error
        raise ConfigError("socket address scheme is not expected") from error
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
