"""`image-pull`: pulls one image into a bundle from a shell."""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from guest.config import read_config
from guest.deadline import Deadline
from guest.errors import ConfigError, GuestError, UnsupportedError
from guest.log import configure
from guest.process import harden
from guest.secret import Secret
from image_pull.component import build_puller
from image_pull.config import ImageConfig, with_environment
from image_pull.layer_fetch import Progress
from image_pull.puller import ImagePuller
from image_pull.registry.rules import RegistriesTable, RegistryTable
from image_pull.sources import read_file
from image_pull.wording import explain

DEFAULT_WORK_DIR: Final = "/var/tmp/image-pull"  # noqa: S108  # named by the user's help text
EPILOG: Final = """
BUNDLE gets `rootfs` (an overlay mount, or a copy where overlays cannot be mounted) and
`config.json`. The manifest's digest goes to standard output.

examples:
  image-pull docker.io/library/busybox:latest ./bundle
  image-pull --insecure 127.0.0.1:5000 127.0.0.1:5000/demo/app:v1 ./bundle
  image-pull --decryption-key private.pem registry.example/app@sha256:... ./bundle
  image-pull --undo IMAGE ./bundle

exit status: 0 pulled, 1 failed, 2 wrong command line
"""


FILES: Final = (
    (("-c", "--config"), "FILE", "[image] table as TOML or JSON"),
    (("--work-dir",), "DIR", f"root of the store (default {DEFAULT_WORK_DIR})"),
    (("--policy",), "FILE", "signature policy (JSON)"),
    (("--auth-file",), "FILE", "registry credentials (auth.json)"),
)
REPEATED: Final = (
    ("--insecure", "HOST[:PORT]", "reach this registry by plain HTTP; may be repeated"),
    ("--ca", "FILE", "trust these PEM certificates too; may be repeated"),
    ("--decryption-key", "FILE", "PEM private key for encrypted layers; may be repeated"),
)
SWITCHES: Final = (
    (("--strict",), "refuse unknown keys in FILE"),
    (("--undo",), "take a pulled bundle apart again"),
    (("-v", "--verbose"), "log what is done and doubted"),
    (("-q", "--quiet"), "no progress"),
)
"""Flags with one value, with several, with none."""


class NoKbs:
    """A shell has no attested KBS session."""

    async def fetch(self, uri: str, deadline: Deadline) -> Secret:
        """Refuse.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(f"{uri}: image-pull reads files only, no KBS resources")


class Shown:
    """Progress as `rich` draws it; nothing where standard error is no terminal."""

    def __init__(self, progress: Any) -> None:
        """Draw into a `rich.progress.Progress`."""
        self._progress = progress
        self._tasks: dict[str, Any] = {}
        self._sizes: dict[str, int] = {}

    def layer_bytes(self, digest: str, done: int, total: int) -> None:
        """Move the bar of a blob."""
        self._sizes[digest] = total
        if digest in self._tasks:
            self._progress.update(self._tasks[digest], completed=done, total=total)

    def layer_state(self, digest: str, state: str) -> None:
        """Name the state of a blob."""
        if digest not in self._tasks:
            self._tasks[digest] = self._progress.add_task("", total=None)
        self._progress.update(self._tasks[digest], description=f"{digest[7:19]} {state}")
        if state in ("stored", "reused"):
            size = self._sizes.get(digest, 1)
            self._progress.update(self._tasks[digest], total=size, completed=size)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="image-pull",
        description="Pull an OCI image, verify it and make a bundle of it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("image", metavar="IMAGE", help="reference, without docker://")
    made.add_argument("bundle", metavar="BUNDLE", help="directory, made if missing")
    for names, metavar, text in FILES:
        made.add_argument(*names, metavar=metavar, help=text)
    for name, metavar, text in REPEATED:
        made.add_argument(name, metavar=metavar, action="append", default=[], help=text)
    for names, text in SWITCHES:
        made.add_argument(*names, action="store_true", help=text)
    made.add_argument("--timeout", metavar="SECONDS", type=_seconds, help="for the whole pull")
    return made


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError("must be a positive number of seconds")
    return value


class _File(msgspec.Struct, frozen=True):
    image: ImageConfig = ImageConfig(work_dir=DEFAULT_WORK_DIR)


def config_of(arguments: argparse.Namespace, environment: Mapping[str, str]) -> ImageConfig:
    """The `[image]` table of the file, with what the flags say over it.

    Raises:
        ConfigError: the file or one that a flag names is wrong.
    """
    config = _File().image
    if arguments.config:
        config = read_config(arguments.config, _File, strict=arguments.strict).image
    config = with_environment(config, environment)
    changes: dict[str, object] = {}
    if arguments.work_dir:
        changes["work_dir"] = str(Path(arguments.work_dir).absolute())
    if arguments.policy:
        changes["image_security_policy_uri"] = str(Path(arguments.policy).absolute())
    if arguments.auth_file:
        auth_file = str(Path(arguments.auth_file).absolute())
        changes["authenticated_registry_credentials_uri"] = auth_file
    if arguments.ca:
        roots = tuple(_read(path).reveal().decode("utf-8", "replace") for path in arguments.ca)
        changes["extra_root_certificates"] = config.extra_root_certificates + roots
    if arguments.insecure:
        changes["registry_config"] = _insecure(config, arguments.insecure)
    return msgspec.structs.replace(config, **changes)


def _insecure(config: ImageConfig, hosts: Sequence[str]) -> RegistriesTable:
    if config.registry_config is None and config.registry_configuration_uri is not None:
        raise ConfigError("--insecure does not go together with registry_configuration_uri")
    table = config.registry_config or RegistriesTable()
    rules = tuple(RegistryTable(location=host, insecure=True) for host in hosts)
    return msgspec.structs.replace(table, registry=(*table.registry, *rules))


def _read(path: str) -> Secret:
    try:
        return read_file(str(Path(path).absolute()))
    except GuestError as error:
        raise ConfigError(explain(error)) from error


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Progress | None]:
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True)) as drawn:
        yield Shown(drawn)


async def _run(puller: ImagePuller, bundle: Path, arguments: argparse.Namespace) -> str:
    deadline = Deadline.after(arguments.timeout) if arguments.timeout else Deadline.unlimited()
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    try:
        if arguments.undo:
            await puller.discard(bundle)
            return "undone"
        with _progress(arguments.quiet) as progress:
            return await puller.pull(arguments.image, bundle, deadline=deadline, progress=progress)
    finally:
        await puller.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    arguments = parser().parse_args(argv)
    harden()
    try:
        level = "info" if arguments.verbose else "error"
        configure(level, rust_log=os.environ.get("RUST_LOG"), json=False)
        config = config_of(arguments, os.environ)
        private_keys = [_read(path) for path in arguments.decryption_key]
        puller = build_puller(config, resources=NoKbs(), keys=None, private_keys=private_keys)
        bundle = Path(arguments.bundle).absolute()
        print(asyncio.run(_run(puller, bundle, arguments)))
    except asyncio.CancelledError:
        print("image-pull: interrupted", file=sys.stderr)
        return 1
    except GuestError as error:
        print(f"image-pull: {explain(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
