"""`image-pull`: pulls one image into a bundle, or fetches an artifact, from a shell."""

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
from image_pull.component import build_fetcher, build_puller
from image_pull.config import ImageConfig, with_environment
from image_pull.ocicrypt.configured import ConfiguredProviders
from image_pull.ocicrypt.protocol import KeyUnwrapper
from image_pull.progress import Progress
from image_pull.registry.rules import RegistriesTable, RegistryTable
from image_pull.sources import read_file
from image_pull.wording import explain

FETCH: Final = "fetch"
"""The word before the arguments that asks for an artifact."""

PROVIDERS_VARIABLE: Final = "OCICRYPT_KEYPROVIDER_CONFIG"
DEFAULT_WORK_DIR: Final = "/var/tmp/image-pull"  # noqa: S108  # named by the user's help text
WORK_DIR_HELP: Final = f"root of the store (default {DEFAULT_WORK_DIR})"
EPILOG: Final = """
BUNDLE gets `rootfs` (an overlay mount, or a copy where overlays cannot be mounted) and
`config.json`. The manifest's digest goes to standard output.

An image whose compressed layers do not fit is refused before the first one is asked for; how much
they unpack to no manifest says. When the store fills, what nobody uses goes, and the layers that
are missing are tried once more.

examples:
  image-pull docker.io/library/busybox:latest ./bundle
  image-pull --insecure 127.0.0.1:5000 127.0.0.1:5000/demo/app:v1 ./bundle
  image-pull --decryption-key private.pem registry.example/app@sha256:... ./bundle
  image-pull --undo IMAGE ./bundle
  image-pull fetch registry.example/models/llm:v2 ./llm    (see image-pull fetch --help)

exit status: 0 pulled, 1 failed, 2 wrong command line
"""


FETCH_EPILOG: Final = """
PATH becomes the artifact's file, or the directory of its files when it has several, each named by
its title annotation. Nothing is at PATH before all of it is there and verified: digests, and the
HMAC of what is encrypted. What came stays in .NAME.fetch beside PATH until then, so that a fetch
that was cut, failed or killed goes on where it was. Files that were encrypted are for their owner
only. Layers are not unpacked. The manifest's digest goes to standard output.

examples:
  image-pull fetch registry.example/models/llm:v2 /var/lib/models/llm
  image-pull fetch --policy policy.json registry.example/models/llm@sha256:... ./llm
  image-pull fetch --decryption-key private.pem registry.example/secret/weights:v1 ./weights
  image-pull fetch --key-providers /etc/ocicrypt_keyprovider.conf registry.example/w:v1 ./w

exit status: 0 fetched, 1 failed, 2 wrong command line
"""

FILES: Final = (
    (("-c", "--config"), "FILE", "[image] table as TOML or JSON"),
    (("--policy",), "FILE", "signature policy (JSON)"),
    (("--auth-file",), "FILE", "registry credentials (auth.json)"),
    (("--key-providers",), "FILE", f"who unwraps layer keys (default ${PROVIDERS_VARIABLE})"),
)
REPEATED: Final = (
    ("--insecure", "HOST[:PORT]", "reach this registry by plain HTTP; may be repeated"),
    ("--ca", "FILE", "trust these PEM certificates too; may be repeated"),
    ("--decryption-key", "FILE", "PEM private key for encrypted layers; may be repeated"),
)
SWITCHES: Final = (
    (("--strict",), "refuse unknown keys in FILE"),
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
    """Progress as `rich` draws it: a bar for all layers, and one for each."""

    def __init__(self, progress: Any) -> None:
        """Draw into a `rich.progress.Progress`."""
        self._progress = progress
        self._tasks: dict[str, Any] = {}
        self._sizes: dict[str, int] = {}
        self._ready: set[str] = set()
        self._all: Any = None

    def layer_bytes(self, digest: str, done: int, total: int) -> None:
        """Move the bar of a blob."""
        self._sizes[digest] = total
        if digest in self._tasks:
            self._progress.update(self._tasks[digest], completed=done, total=total)

    def layer_state(self, digest: str, state: str) -> None:
        """Name the state of a blob, and count those that are there."""
        if self._all is None:
            self._all = self._progress.add_task("", total=None)
        if digest not in self._tasks:
            self._tasks[digest] = self._progress.add_task("", total=None)
        self._progress.update(self._tasks[digest], description=f"{digest[7:19]} {state}")
        if state in ("stored", "reused"):
            self._ready.add(digest)
            size = self._sizes.get(digest, 1)
            self._progress.update(self._tasks[digest], total=size, completed=size)
        counted = f"{len(self._ready)} of {len(self._tasks)} layers"
        self._progress.update(self._all, description=counted)


def parser() -> argparse.ArgumentParser:
    """The command line of a pull."""
    made = argparse.ArgumentParser(
        prog="image-pull",
        description="Pull an OCI image, verify it and make a bundle of it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("image", metavar="IMAGE", help="reference, without docker://")
    made.add_argument("bundle", metavar="BUNDLE", type=_absolute, help="directory, made if missing")
    made.add_argument("--work-dir", metavar="DIR", help=WORK_DIR_HELP)
    made.add_argument("--undo", action="store_true", help="take a pulled bundle apart again")
    _add_common(made)
    return made


def fetch_parser() -> argparse.ArgumentParser:
    """The command line of a fetch."""
    made = argparse.ArgumentParser(
        prog="image-pull fetch",
        description="Fetch an OCI artifact, encrypted or not, to a path.",
        epilog=FETCH_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("image", metavar="ARTIFACT", help="reference, without docker://")
    made.add_argument(
        "path", metavar="PATH", type=_absolute, help="where it appears; nothing is there yet"
    )
    made.set_defaults(work_dir=None)
    _add_common(made)
    return made


def _add_common(made: argparse.ArgumentParser) -> None:
    for names, metavar, text in FILES:
        made.add_argument(*names, metavar=metavar, help=text)
    for name, metavar, text in REPEATED:
        made.add_argument(name, metavar=metavar, action="append", default=[], help=text)
    for names, text in SWITCHES:
        made.add_argument(*names, action="store_true", help=text)
    made.add_argument("--timeout", metavar="SECONDS", type=_seconds, help="for all of it")


def _absolute(text: str) -> Path:
    return Path(text).absolute()


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
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        *(TextColumn("{task.description}"), BarColumn(), DownloadColumn()),
        *(TransferSpeedColumn(), TimeRemainingColumn()),
    )
    with Progress(*columns, console=Console(stderr=True)) as drawn:
        yield Shown(drawn)


async def _pull(
    arguments: argparse.Namespace, config: ImageConfig, keys: KeyUnwrapper | None
) -> str:
    private_keys = [_read(path) for path in arguments.decryption_key]
    puller = build_puller(config, resources=NoKbs(), keys=keys, private_keys=private_keys)
    try:
        if arguments.undo:
            await puller.discard(arguments.bundle)
            return "undone"
        with _progress(arguments.quiet) as shown:
            return await puller.pull(
                arguments.image, arguments.bundle, deadline=_deadline(arguments), progress=shown
            )
    finally:
        await puller.close()


async def _fetch(
    arguments: argparse.Namespace, config: ImageConfig, keys: KeyUnwrapper | None
) -> str:
    private_keys = [_read(path) for path in arguments.decryption_key]
    fetcher = build_fetcher(config, resources=NoKbs(), keys=keys, private_keys=private_keys)
    try:
        with _progress(arguments.quiet) as shown:
            return await fetcher.fetch(
                arguments.image, arguments.path, deadline=_deadline(arguments), progress=shown
            )
    finally:
        await fetcher.close()


def _deadline(arguments: argparse.Namespace) -> Deadline:
    return Deadline.after(arguments.timeout) if arguments.timeout else Deadline.unlimited()


async def _run(arguments: argparse.Namespace, config: ImageConfig, *, is_fetch: bool) -> str:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    run = _fetch if is_fetch else _pull
    file = arguments.key_providers or os.environ.get(PROVIDERS_VARIABLE)
    if not file:
        return await run(arguments, config, None)
    keys = ConfiguredProviders(Path(file), environment=dict(os.environ))
    try:
        return await run(arguments, config, keys)
    finally:
        await keys.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    is_fetch = argv[:1] == [FETCH]
    arguments = fetch_parser().parse_args(argv[1:]) if is_fetch else parser().parse_args(argv)
    harden()
    try:
        level = "info" if arguments.verbose else "error"
        configure(level, rust_log=os.environ.get("RUST_LOG"), json=False)
        config = config_of(arguments, os.environ)
        print(asyncio.run(_run(arguments, config, is_fetch=is_fetch)))
    except asyncio.CancelledError:
        print("image-pull: interrupted", file=sys.stderr)
        return 1
    except GuestError as error:
        print(f"image-pull: {explain(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
