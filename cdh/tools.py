"""The commands `cdh-oneshot`, `ttrpc-cdh-tool`, `grpc-cdh-tool` and `secret`.

Results go to standard output, everything else to standard error; a failure is exit status 1.

Source: docs/spec/confidential-data-hub.md 1.3, 1.4 and 1.5.
"""

import os
import sys
from collections.abc import Mapping, Sequence

from cdh import calls, oneshot
from cdh import config as cdh_config
from cdh.config import CdhConfig
from guest import log
from guest.cmdline import CommandLine
from guest.config import read_config, read_kernel_command_line
from guest.errors import ConfigError, InvalidInputError
from guest.log import LogFormat
from guest.rpc.method import Channel
from guest.tool import finish
from guest.ttrpc.channel import TtrpcChannel


def oneshot_main(argv: Sequence[str] | None = None) -> int:
    """`cdh-oneshot`: the exit status."""
    arguments = oneshot.make_parser().parse_args(argv)

    async def work(environment: Mapping[str, str]) -> str:
        config = _read_config(arguments.config, environment)
        return await oneshot.run(arguments, config, _agent_channel(config.aa.aa_socket))

    return finish(oneshot.PROGRAM, work, dict(os.environ))


def ttrpc_tool_main(argv: Sequence[str] | None = None) -> int:
    """`ttrpc-cdh-tool`: the exit status."""
    arguments = calls.make_parser(grpc=False).parse_args(argv)
    return finish(calls.TTRPC_PROGRAM, lambda _: calls.run(arguments, grpc=False), dict(os.environ))


def grpc_tool_main(argv: Sequence[str] | None = None) -> int:
    """`grpc-cdh-tool`: the exit status."""
    arguments = calls.make_parser(grpc=True).parse_args(argv)
    return finish(calls.GRPC_PROGRAM, lambda _: calls.run(arguments, grpc=True), dict(os.environ))


def secret_main(argv: Sequence[str] | None = None) -> int:
    """`secret`: the exit status."""
    from cdh.secrets import command, command_line

    arguments = command_line.make_parser().parse_args(argv)

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    return finish(
        command_line.PROGRAM,
        lambda environment: command.run(arguments, environment, say),
        dict(os.environ),
    )


def _read_config(given: str | None, environment: Mapping[str, str]) -> CdhConfig:
    rust_log = environment.get("RUST_LOG")
    log.configure("info", rust_log=rust_log)
    path = given or environment.get("CDH_CONFIG_PATH")
    file = read_config(path, CdhConfig) if path else None
    config = cdh_config.effective(file, environment, CommandLine.parse(read_kernel_command_line()))
    json = config.log.format is LogFormat.JSON
    log.configure(config.log.level, rust_log=rust_log, json=json)
    return config


def _agent_channel(address: str) -> Channel:
    try:
        return TtrpcChannel(address)
    except InvalidInputError as error:
        raise ConfigError(f"aa.aa_socket: {error}") from error
