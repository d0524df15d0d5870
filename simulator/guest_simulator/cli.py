"""The command `guest-simulator`: run KBS and registry on loopback, write a demo image."""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guest_simulator.images.demo import demo_layers
from guest_simulator.images.image import build_image
from guest_simulator.images.layout import write_layout
from guest_simulator.kbs.admin import AdminMode, AdminRules
from guest_simulator.kbs.behaviour import Behaviour
from guest_simulator.kbs.evidence import HASH_ALGORITHMS
from guest_simulator.kbs.policy import ResourcePolicy, affirming, allow_all, deny_all
from guest_simulator.kbs.rego import compile_policy
from guest_simulator.kbs.rego_syntax import RegoError
from guest_simulator.kbs.server import Kbs
from guest_simulator.kbs.trust import TRUSTED, read_trust
from guest_simulator.registry.access import Access, Mode
from guest_simulator.registry.server import Registry
from guest_simulator.state import (
    State,
    StateError,
    issue_certificate,
    open_state,
    read_resources,
)

FAILURE: Final = 1
"""Exit status when it cannot start; 2 is for a wrong command line."""

POLICIES: Final[Mapping[str, ResourcePolicy]] = {
    "allow": allow_all,
    "deny": deny_all,
    "affirming": affirming,
}

DESCRIPTION: Final = """\
The world around a confidential guest, for demos, tests and benches only: a key broker service
that really checks, and an OCI registry, both on loopback."""

UP_EPILOG: Final = """\
Both servers run until SIGTERM or SIGINT. While they run, faults are armed from outside:
  curl -d '{"path": "/resource/", "status": 500, "times": 1}' URL/_simulator/faults
  curl URL/_simulator/stats
Exit status: 0 stopped by a signal, 1 cannot start, 2 wrong command line."""


class StartError(Exception):
    """It cannot start."""


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise ValueError(text)
    return value


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="guest-simulator", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser(
        "up",
        help="run the KBS and the registry until SIGTERM",
        description="Run the KBS and the registry on loopback until SIGTERM.",
        epilog=UP_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_place(up)
    _add_kbs(up)
    _add_registry(up)
    image = commands.add_parser("image", help="write the demo image as an OCI layout")
    image.add_argument("directory", type=Path, help="the layout; made when absent")
    image.add_argument("--tag", default="latest", help="its name in the layout (%(default)s)")
    image.add_argument("--files", type=int, default=2000, help="real files (%(default)s)")
    image.add_argument("--source", type=Path, help="where they come from (Python's library)")
    return parser


def _add_place(up: argparse.ArgumentParser) -> None:
    up.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="keys, certificates, resources and blobs (a new temporary directory)",
    )
    up.add_argument("--json", action="store_true", help="print one JSON line once listening")
    up.add_argument("--tls", action="store_true", help="both over https, CA in DIR/ca.pem")


def _add_kbs(up: argparse.ArgumentParser) -> None:
    group = up.add_argument_group("KBS")
    add = group.add_argument
    add("--kbs-port", type=_port, default=0, metavar="N", help="TCP port (any)")
    add("--resources", type=Path, metavar="DIR", help="files repository/type/tag to begin with")
    add(
        "--policy",
        default="allow",
        metavar="P",
        help="resource policy: allow, deny, affirming or a Rego file (%(default)s)",
    )
    add(
        "--admin",
        choices=[str(mode) for mode in AdminMode],
        default=str(AdminMode.AUTHENTICATED),
        help="who may administrate (%(default)s)",
    )
    add("--token-seconds", type=int, default=300, metavar="S", help="life of a token (300)")
    add("--session-seconds", type=float, default=300.0, metavar="S", help="of a session (300)")
    add("--hash-algorithm", choices=HASH_ALGORITHMS, help="announced to guests (none)")
    add(
        "--trust",
        action="append",
        default=[],
        metavar="TEE",
        help=f"hardware whose evidence convinces, besides the samples: {', '.join(TRUSTED)}",
    )
    add("--prepare-answers", action="store_true", help="repeat equal answers: for benches")


def _add_registry(up: argparse.ArgumentParser) -> None:
    group = up.add_argument_group("registry")
    add = group.add_argument
    add("--registry-port", type=_port, default=0, metavar="N", help="TCP port (any)")
    add(
        "--registry-auth",
        choices=[str(mode) for mode in Mode],
        default="none",
        help="what it asks for (%(default)s)",
    )
    add("--registry-users", type=Path, metavar="FILE", help="lines `user:password`")
    add("--redirect-blobs", action="store_true", help="answer blobs with a redirect")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What `up` runs."""

    kbs: Kbs
    registry: Registry
    state: State
    tls: bool

    def describe(self) -> dict[str, object]:
        """Addresses and files, for programs."""
        return {
            "kbs": self.kbs.url,
            "registry": self.registry.host,
            "registry_url": self.registry.url,
            "admin_key": str(self.state.admin_key_path),
            "admin_token": str(self.state.admin_token_path),
            "ca": str(self.state.ca_path) if self.tls else None,
            "state": str(self.state.directory),
            "pid": os.getpid(),
        }


def _policy(name: str) -> ResourcePolicy:
    if name in POLICIES:
        return POLICIES[name]
    try:
        return compile_policy(Path(name).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, RegoError) as error:
        raise StartError(f"policy {name}: {error}") from error


def _users(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"registry users {path}: {error}") from error
    pairs = [line.partition(":") for line in lines if line.strip()]
    if not all(user and colon for user, colon, _ in pairs):
        raise StartError(f"registry users {path}: a line is user:password")
    return {user: password for user, _, password in pairs}


def _behaviour(options: argparse.Namespace, state: State) -> Behaviour:
    """What the KBS does, as the command line asks."""
    mode = AdminMode(options.admin)
    rules = AdminRules(mode=mode, keys=(state.admin_key.public_key(),))
    behaviour = Behaviour(
        policy=_policy(options.policy),
        admin=rules,
        token_seconds=options.token_seconds,
        session_seconds=options.session_seconds,
        selected_hash_algorithm=options.hash_algorithm,
        prepare_answers=options.prepare_answers,
    )
    try:
        behaviour.verifiers.update(read_trust(text) for text in options.trust)
    except (OSError, ValueError) as error:
        raise StartError(f"--trust: {error}") from error
    return behaviour


def build_world(options: argparse.Namespace, directory: Path) -> World:
    """The servers that a command line asks for, not listening yet.

    Raises:
        StartError: a file of the command line is not good.
        StateError: the state directory is not good.
    """
    state = open_state(directory)
    behaviour = _behaviour(options, state)
    context = issue_certificate(state).context() if options.tls else None
    kbs = Kbs(
        behaviour=behaviour,
        port=options.kbs_port,
        tls=context,
        resources=state.resources,
        signer=state.signer,
    )
    access = Access(mode=Mode(options.registry_auth), users=_users(options.registry_users))
    registry = Registry(
        port=options.registry_port,
        tls=context,
        access=access,
        directory=state.blobs,
        redirect=options.redirect_blobs,
    )
    for key, value in (read_resources(options.resources) if options.resources else {}).items():
        try:
            kbs.put_resource(key, value)
        except ValueError as error:
            raise StartError(f"resources {options.resources}: {error}") from error
    return World(kbs=kbs, registry=registry, state=state, tls=options.tls)


async def serve(world: World, *, as_json: bool) -> None:
    """Listen, say where, and wait for a signal.

    Raises:
        StartError: an address cannot be had.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(world.kbs)
            await stack.enter_async_context(world.registry)
        except OSError as error:
            raise StartError(f"cannot listen: {error}") from error
        world.kbs.allow_control()
        world.registry.allow_control()
        described = world.describe()
        if as_json:
            print(json.dumps(described), flush=True)
        else:
            for name, value in described.items():
                print(f"{name:<13} {value if value is not None else '-'}", flush=True)
        await stop.wait()


def _up(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="guest-simulator-") as temporary:
        world = build_world(options, options.state or Path(temporary))
        asyncio.run(serve(world, as_json=options.json))


def _image(options: argparse.Namespace) -> None:
    try:
        image = build_image(demo_layers(options.source, options.files))
        write_layout(image, options.directory, options.tag)
    except OSError as error:
        raise StartError(f"image {options.directory}: {error}") from error
    print(image.manifest_digest)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    options = build_parser().parse_args(arguments)
    os.umask(0o077)
    try:
        if options.command == "up":
            _up(options)
        else:
            _image(options)
    except (StartError, StateError) as error:
        print(f"guest-simulator: {error}", file=sys.stderr)
        return FAILURE
    return 0


if __name__ == "__main__":
    sys.exit(main())
