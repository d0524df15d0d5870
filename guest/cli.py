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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; exit status 0, 1 for a failure, 2 for a wrong command line."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        prog="guest",
        allow_abbrev=False,
        description="The in-guest half of Confidential Containers.",
    )
    parser.add_argument("-V", "--version", action="version", version=f"guest {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_serve(commands)
    if words and words[0] != "serve":
        from guest.commands import initdata
        from image_pull import tools as image_tools

        image_tools.add_commands(commands)
        initdata.add_commands(commands)
    else:
        commands.add_parser("image", help="encrypt images")
        commands.add_parser("initdata", help="build and inspect init data")
    options = parser.parse_args(words)
    if options.command == "serve":
        from guest.commands.serve import serve

        serve(options, dict(os.environ))
    if options.command == "initdata":
        from guest.commands import initdata

        return initdata.run(options)
    from guest.commands import image

    return image.run(options, dict(os.environ))


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
        "--metrics-dir", metavar="DIR", help="directory of the metrics sockets, empty for none"
    )
    parser.add_argument(
        "--strict", action="store_true", help="refuse unknown keys of the configuration"
    )
