"""`cdh-oneshot`: one operation of CDH in a process of its own, without a socket.

Source: docs/spec/confidential-data-hub.md 1.3.
"""

import argparse
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from cdh import credentials
from cdh.assembly import Assembly, assemble
from cdh.config import CdhConfig
from cdh.files import read_given
from cdh.hub import DataHub
from cdh.storage.document import decode_storage
from guest import wire
from guest.deadline import Deadline
from guest.errors import (
    ConfigError,
    DecodeError,
    DeniedError,
    GuestError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    UnsupportedError,
)
from guest.protos.methods import SECURE_MOUNT, UNSEAL_SECRET
from guest.retry import Backoff, retry
from guest.rpc.method import Channel
from guest.secret import Secret

PROGRAM: Final = "cdh-oneshot"
CREDENTIALS_SECONDS: Final = 50.0
"""Most seconds for all credentials together."""

MAX_RETRIES: Final = 1000
ATTEMPT_SECONDS: Final = UNSEAL_SECRET.timeout or 60.0
MOUNT_SECONDS: Final = SECURE_MOUNT.timeout or 600.0

FINAL_ERRORS: Final = (
    ConfigError,
    DeniedError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    UnsupportedError,
)
"""What no further attempt can mend."""

EPILOG: Final = """\
The result is the one line on standard output; logs and errors go to standard error.
What a policy denies, and an input that is wrong, is final after one attempt.

exit status: 0 done, 1 failed, 2 wrong command line
"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        allow_abbrev=False,
        description="Do one operation of the confidential data hub and exit.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-c", "--config", metavar="PATH", help="configuration file of the hub")
    parser.add_argument(
        "-r",
        "--retry",
        type=_count,
        default=3,
        metavar="N",
        help="further attempts of unseal-secret, unwrap-key and get-resource (default: 3)",
    )
    parser.add_argument(
        "--runtime-dir",
        type=Path,
        default=credentials.RUNTIME_DIR,
        metavar="DIR",
        help="where credentials and the keys of sealed secrets are (default: %(default)s)",
    )
    commands = parser.add_subparsers(dest="operation", required=True, metavar="OPERATION")
    add_operations(commands, packet="the annotation packet's JSON", images=True)
    return parser


def add_operations(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", *, packet: str, images: bool
) -> None:
    """The subcommands that `cdh-oneshot` and the two test clients have in common.

    Args:
        commands: of the command's parser.
        packet: what the file of `unwrap-key` holds.
        images: whether `pull-image` is one of them.
    """
    unseal = commands.add_parser("unseal-secret", help="print the plaintext in base64")
    unseal.add_argument("-s", "--secret-path", type=Path, required=True, help="sealed secret")
    unwrap = commands.add_parser("unwrap-key", help="print the unwrapped bytes in base64")
    unwrap.add_argument("-a", "--annotation-path", type=Path, required=True, help=packet)
    resource = commands.add_parser("get-resource", help="print the resource in base64")
    resource.add_argument("-r", "--resource-uri", required=True, help="kbs:///repo/type/tag")
    mount = commands.add_parser("secure-mount", help="mount a volume")
    mount.add_argument("-s", "--storage-path", type=Path, required=True, help="storage JSON")
    if images:
        pull = commands.add_parser("pull-image", help="pull an image into a bundle")
        pull.add_argument("-i", "--image-url", required=True, help="image reference")
        pull.add_argument("-b", "--bundle-path", required=True, help="directory of the bundle")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 4 or int(text) > MAX_RETRIES:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to {MAX_RETRIES}")
    return int(text)


async def run(arguments: argparse.Namespace, config: CdhConfig, aa: Channel) -> str:
    """Do what was parsed; gives the line for standard output.

    Args:
        arguments: of `make_parser`.
        config: what `cdh.config.effective` gave.
        aa: leads to the attestation agent; closed at the end.

    Raises:
        GuestError: it failed.
    """
    storage = msgspec.structs.replace(config.storage, unmount_at_exit=False)
    config = msgspec.structs.replace(config, storage=storage)
    parts = assemble(config, aa, arguments.runtime_dir)
    try:
        await _store_credentials(parts, config, arguments.runtime_dir)
        return await _operate(parts.hub, arguments)
    finally:
        await parts.close()


async def _store_credentials(parts: Assembly, config: CdhConfig, runtime_dir: Path) -> None:
    placements = credentials.plan(config.credentials, runtime_dir)
    if placements:
        deadline = Deadline.after(CREDENTIALS_SECONDS)
        await credentials.fetch_and_store(placements, parts.resources, runtime_dir, deadline)


async def _operate(hub: DataHub, arguments: argparse.Namespace) -> str:
    match arguments.operation:
        case "unseal-secret":
            sealed = read_given(arguments.secret_path).reveal()
            return await _fetch(lambda limit: hub.unseal_secret(sealed, limit), arguments.retry)
        case "unwrap-key":
            packet = read_given(arguments.annotation_path).reveal()
            return await _fetch(lambda limit: hub.unwrap_key(packet, limit), arguments.retry)
        case "get-resource":
            uri = arguments.resource_uri
            return await _fetch(lambda limit: hub.get_resource(uri, limit), arguments.retry)
        case "secure-mount":
            return await _mount(hub, arguments.storage_path)
        case _:
            bundle = _absolute(arguments.bundle_path)
            digest = await hub.pull_image(arguments.image_url, bundle, Deadline.unlimited())
            return f"image digest: {digest}"


def _absolute(path: str) -> str:
    return str(Path(path).absolute())


async def _fetch(attempt: Callable[[Deadline], Awaitable[Secret]], retries: int) -> str:
    """What `attempt` gives, in base64; it is made once, and again while that may help."""
    with await retry(
        lambda: attempt(Deadline.after(ATTEMPT_SECONDS)),
        deadline=Deadline.unlimited(),
        is_transient=_is_transient,
        backoff=Backoff(attempts=retries + 1),
    ) as secret:
        return wire.encode_base64(secret.reveal())


def _is_transient(error: GuestError) -> bool:
    return not isinstance(error.__cause__, FINAL_ERRORS)


async def _mount(hub: DataHub, path: Path) -> str:
    try:
        storage = decode_storage(read_given(path).reveal())
    except DecodeError as error:
        raise InvalidInputError(f"{path} is no storage document") from error
    deadline = Deadline.after(MOUNT_SECONDS)
    mounted = await hub.secure_mount(
        storage.volume_type, storage.options, storage.mount_point, deadline
    )
    return f"mount path: {mounted}"
