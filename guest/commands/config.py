"""`guest config check`: whether a configuration file is one, before a guest starts with it.

Source: docs/spec/attestation-agent.md 2, docs/spec/confidential-data-hub.md 2.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from attestation_agent.config import AaConfig
from cdh.config import CdhConfig
from guest import log
from guest.config import read_config
from guest.errors import GuestError
from guest.tool import explain

KINDS: Final[Mapping[str, type[msgspec.Struct]]] = {"aa": AaConfig, "cdh": CdhConfig}
"""Service to what its file holds."""

FAILED: Final = 1


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `config` and what is below it."""
    parser = commands.add_parser("config", allow_abbrev=False, help="check configuration files")
    below = parser.add_subparsers(dest="operation", required=True, metavar="OPERATION")
    check = below.add_parser(
        "check",
        allow_abbrev=False,
        help="read a file as its service would",
        epilog="exit status: 0 valid, 1 not, 2 wrong command line",
    )
    check.add_argument("file", type=Path, metavar="FILE", help="TOML, JSON or YAML")
    check.add_argument(
        "--for", choices=sorted(KINDS), dest="service",
        help="which service's (default: what the file's name begins with)",
    )  # fmt: skip
    check.add_argument(
        "--lenient", action="store_true", help="warn of unknown keys instead of refusing them"
    )


def run(options: argparse.Namespace) -> int:
    """Do what was parsed; exit status 0, 1 or 2."""
    log.configure("warn", rust_log=os.environ.get("RUST_LOG"))
    service = options.service or _guess(options.file)
    if service is None:
        sys.stderr.write("guest config check: --for aa or --for cdh is needed for this name\n")
        return 2
    try:
        read_config(options.file, KINDS[service], strict=not options.lenient)
    except GuestError as error:
        sys.stderr.write(f"guest config check: {explain(error)}\n")
        return FAILED
    sys.stdout.write(f"{options.file}: valid for {service}\n")
    return 0


def _guess(path: Path) -> str | None:
    name = path.name.lower()
    if name.startswith(("aa", "attestation-agent")):
        return "aa"
    return "cdh" if name.startswith(("cdh", "confidential-data-hub")) else None
