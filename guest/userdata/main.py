"""The command `process-user-data`.

Source: docs/spec/podvm-image.md 5 (command line, exit statuses).
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

from guest import log
from guest.deadline import Deadline
from guest.errors import GuestError
from guest.http import HttpClient
from guest.process import harden
from guest.userdata.plan import DIRECTORY
from guest.userdata.providers import Sources
from guest.userdata.provision import Settings, provision
from guest.userdata.write import FILE_MODE, PRIVATE_MODE
from guest.version import VERSION

PROGRAM: Final = "process-user-data"
FETCH_SECONDS: Final = 180
MAX_FETCH_SECONDS: Final = 86_400

USER_DATA: Final = (
    "media/cidata/user-data",
    "media/config-2/openstack/latest/user_data",
)
"""NoCloud's disk (or an upload), then the config drive of OpenStack; labels are directory names."""

VENDOR: Final = "sys/class/dmi/id/sys_vendor"
CLOCKS: Final = "sys/devices/system/clocksource/clocksource0/available_clocksource"

DESCRIPTION: Final = """\
Reads the user data that a cloud or a disk holds for this pod VM, and writes what of it is allowed
to /run/peerpod, with the init data's files and its digest. Anything but its absence is an error,
and then nothing is written."""

EPILOG: Final = "Exit status: 0 done, 1 any failure. RUST_LOG sets the log level."


class _Parser(argparse.ArgumentParser):
    """A wrong command line is status 1, as in the original."""

    def error(self, message: str) -> NoReturn:
        """Say it and leave."""
        self.exit(1, f"{self.prog}: {message}\n")


def main() -> NoReturn:
    """`process-user-data`: the whole run, then leave without waiting for any thread."""
    try:
        harden()
    except GuestError as error:
        raise SystemExit(_failed(error)) from None
    raise SystemExit(run(sys.argv[1:], dict(os.environ), leave=os._exit))


def run(
    words: Sequence[str],
    environment: Mapping[str, str],
    *,
    bases: Mapping[str, str] | None = None,
    leave: Callable[[int], NoReturn] | None = None,
) -> int:
    """Do what the command line says; exit status 0 or 1.

    Args:
        words: after the program's name.
        environment: the process's variables.
        bases: URLs of metadata services by cloud; None for those that the clouds fix.
        leave: ends the process with a status, while a thread may still wait for a name server.
    """
    parser = make_parser()
    options = parser.parse_args(words)
    if options.command is None:
        parser.print_help()
        return 0
    with asyncio.Runner() as runner:
        status = 0
        try:
            journal = log.is_journal(environment.get("JOURNAL_STREAM"))
            log.configure("info", rust_log=environment.get("RUST_LOG"), journal=journal)
            runner.run(_provision(options, dict(bases or {})))
        except GuestError as error:
            status = _failed(error)
        if leave is not None:
            sys.stderr.flush()
            leave(status)
    return status


def _failed(error: GuestError) -> int:
    sys.stderr.write(f"{PROGRAM}: {': '.join(error.causes())}\n")
    return 1


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = _Parser(prog=PROGRAM, allow_abbrev=False, description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("-v", "--version", action="version", version=f"{PROGRAM} version {VERSION}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    files = commands.add_parser(
        "provision-files", allow_abbrev=False, help="write the files", epilog=EPILOG
    )
    files.add_argument(
        "-t",
        "--user-data-fetch-timeout",
        type=_seconds,
        default=FETCH_SECONDS,
        metavar="SECONDS",
        help="until user data must be there (default: %(default)s)",
    )
    files.add_argument(
        "--accept-unmeasured-config",
        action="store_true",
        help="with init data, also take aa.toml and cdh.toml that it does not hold",
    )
    files.add_argument(
        "--private-files", action="store_true", help="files have mode 0600 instead of 0644"
    )
    files.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR", help="all paths begin here"
    )
    return parser


def _seconds(text: str) -> int:
    seconds = int(text)
    if not 0 < seconds <= MAX_FETCH_SECONDS:
        raise argparse.ArgumentTypeError(f"not between 1 and {MAX_FETCH_SECONDS}: {text}")
    return seconds


async def _provision(options: argparse.Namespace, bases: Mapping[str, str]) -> None:
    root: Path = options.root.absolute()
    settings = Settings(
        sources=Sources(
            files=tuple(root / path for path in USER_DATA),
            vendor=root / VENDOR,
            clocks=root / CLOCKS,
            bases=bases,
        ),
        directory=root / DIRECTORY.lstrip("/"),
        mode=PRIVATE_MODE if options.private_files else FILE_MODE,
        measured_only=not options.accept_unmeasured_config,
    )
    http = HttpClient(user_agent=f"{PROGRAM}/{VERSION}")
    try:
        await provision(settings, http, Deadline.after(options.user_data_fetch_timeout))
    finally:
        await http.close()


if __name__ == "__main__":
    main()
