"""The command `guest`: the three services in one process, and tools for people.

Source: docs/ARCHITECTURE.md 1.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final

from guest.version import VERSION

DEFAULT_BIND: Final = "127.0.0.1:8006"

ALIASES: Final = {
    "secret": "seal secrets, open them, make keys (the command `secret`)",
    "kbs": "attest to a KBS and print a resource (the command `trustee-attester`)",
}
"""Commands of their own that are this one's too."""

TOOLS: Final = {
    "image": "encrypt images",
    "initdata": "build and inspect init data",
    "config": "check configuration files",
    "doctor": "what this guest has, what answers, what is missing",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; exit status 0, 1 for a failure, 2 for a wrong command line."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and words[0] in ALIASES:
        return _run_alias(words)
    parser = argparse.ArgumentParser(
        prog="guest",
        allow_abbrev=False,
        description="The in-guest half of Confidential Containers.",
    )
    parser.add_argument("-V", "--version", action="version", version=f"guest {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_tools(commands, in_full=bool(words) and words[0] != "serve")
    options = parser.parse_args(words)
    if options.command == "serve":
        from guest.commands.serve import serve

        serve(options, dict(os.environ))
    return _run_tool(options)


def _run_alias(words: Sequence[str]) -> int:
    """Another command of ours under this one's name."""
    if words[0] == "secret":
        from cdh.tools import secret_main

        return secret_main(words[1:])
    from attestation_agent.tools import attester_main

    return attester_main(words[1:])


def _run_tool(options: argparse.Namespace) -> int:
    environment = dict(os.environ)
    match options.command:
        case "initdata":
            from guest.commands import initdata

            return initdata.run(options)
        case "config":
            from guest.commands import config

            return config.run(options)
        case "doctor":
            from guest.commands import doctor

            return doctor.run(options, environment)
        case _:
            from guest.commands import image

            return image.run(options, environment)


def _add_tools(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", *, in_full: bool
) -> None:
    """The commands for people; only their names where none of them is meant."""
    for name, text in ALIASES.items():
        commands.add_parser(name, help=text)
    if not in_full:
        for name, text in TOOLS.items():
            commands.add_parser(name, help=text)
        return
    from guest.commands import config, doctor, initdata
    from image_pull import tools as image_tools

    image_tools.add_commands(commands)
    initdata.add_commands(commands)
    config.add_commands(commands)
    doctor.add_commands(commands)


def _add_serve(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "serve",
        allow_abbrev=False,
        help="attestation agent, data hub and REST shim in one process",
        description=(
            "Attestation agent, confidential data hub and REST shim in one process: the same "
            "sockets and configuration files as the three daemons."
        ),
    )
    parser.add_argument("--attestation-sock", metavar="URI", help="socket of the attestation agent")
    parser.add_argument("--aa-config", metavar="PATH", help="its configuration file")
    parser.add_argument("--initdata-toml", metavar="PATH", help="init data document to bind")
    parser.add_argument("--initdata-digest", metavar="BASE64", help="digest to bind instead")
    parser.add_argument("--cdh-config", metavar="PATH", help="configuration file of the data hub")
    parser.add_argument("--runtime-dir", metavar="DIR", help="where the data hub writes files")
    parser.add_argument(
        "--bind", default=DEFAULT_BIND, metavar="IP:PORT", help="REST shim (default: %(default)s)"
    )
    parser.add_argument(
        "--features",
        default="resource",
        metavar="FEATURE",
        help="of the REST shim: resource, attestation or all (default: %(default)s)",
    )
    parser.add_argument(
        "--resource-injection",
        default="off",
        choices=["off", "loopback", "remote"],
        help="of the REST shim: who may push resources into the guest (default: %(default)s)",
    )
    parser.add_argument(
        "--metrics-dir", metavar="DIR", help="directory of the metrics sockets, empty for none"
    )
    parser.add_argument(
        "--strict", action="store_true", help="refuse unknown keys of the configuration"
    )
