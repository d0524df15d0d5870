"""`ttrpc-cdh-tool` and `grpc-cdh-tool`: one call to a running CDH.

Source: docs/spec/confidential-data-hub.md 1.4.
"""

import argparse
import asyncio
import socket
from pathlib import Path
from typing import Final, TypeVar

from google.protobuf.message import Message

from cdh.config import DEFAULT_GRPC_SOCKET, DEFAULT_SOCKET
from cdh.files import read_given
from cdh.oneshot import add_operations
from cdh.storage.document import decode_storage
from guest import wire
from guest.deadline import Deadline
from guest.errors import DecodeError, GuestError, InvalidInputError, UnreachableError, retold
from guest.protos import cdh_pb2, keyprovider_pb2
from guest.protos.methods import (
    GET_RESOURCE,
    PULL_IMAGE,
    SECURE_MOUNT,
    UNSEAL_SECRET,
    UNWRAP_KEY,
)
from guest.rpc.address import TcpAddress
from guest.rpc.method import Channel, Method

TTRPC_PROGRAM: Final = "ttrpc-cdh-tool"
GRPC_PROGRAM: Final = "grpc-cdh-tool"

DEFAULT_SECONDS: Final = 50.0
MAX_SECONDS: Final = 1e9
RESOLVE_SECONDS: Final = 10.0

REQUEST_FAILED: Final = "request to CDH"
"""Begins the text of every call that failed."""

_HTTP: Final = "http://"

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


def make_parser(*, grpc: bool) -> argparse.ArgumentParser:
    """The command line of one of the two."""
    parser = argparse.ArgumentParser(
        prog=GRPC_PROGRAM if grpc else TTRPC_PROGRAM,
        allow_abbrev=False,
        description=f"Make one {'gRPC' if grpc else 'ttRPC'} call to a confidential data hub.",
        epilog="exit status: 0 done, 1 failed, 2 wrong command line",
    )
    parser.add_argument(
        "-s",
        "--socket",
        default=f"{_HTTP}{DEFAULT_GRPC_SOCKET}" if grpc else DEFAULT_SOCKET,
        metavar="ADDRESS",
        help="where the hub listens (default: %(default)s)",
    )
    if not grpc:
        parser.add_argument(
            "-t",
            "--timeout",
            type=_seconds,
            default=DEFAULT_SECONDS,
            metavar="SECONDS",
            help="for the call, 0 for none (default: 50)",
        )
    commands = parser.add_subparsers(dest="operation", required=True, metavar="OPERATION")
    add_operations(commands, packet="the key provider's input", images=not grpc)
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= MAX_SECONDS:
        raise argparse.ArgumentTypeError("must be a number of seconds, not negative")
    return value


async def open_channel(arguments: argparse.Namespace, *, grpc: bool) -> Channel:
    """The channel to the given socket.

    Raises:
        InvalidInputError: the address cannot be parsed.
        UnreachableError: the host's name cannot be resolved.
    """
    if not grpc:
        from guest.ttrpc.channel import TtrpcChannel

        return TtrpcChannel(arguments.socket)
    from guest.rpc.grpc import GrpcChannel

    text = arguments.socket
    if not text.startswith(_HTTP):
        return GrpcChannel(text)
    host, _, port = text.removeprefix(_HTTP).rstrip("/").rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port[:6]) < 1 << 16:
        raise InvalidInputError(f"{text!r} is not {_HTTP}<host>:<port>")
    return GrpcChannel(TcpAddress(await _resolve(host.strip("[]")), int(port)))


async def _resolve(host: str) -> str:
    """A numeric address of a host."""
    loop = asyncio.get_running_loop()
    try:
        async with Deadline.after(RESOLVE_SECONDS).limit(f"the address of {host[:100]}"):
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UnreachableError(f"no address of {host[:100]!r}") from error
    return str(found[0][4][0])


class Calls:
    """The calls, as their subcommands make them.

    Args:
        channel: leads to CDH.
        seconds: for each call, 0 for no limit; None leaves it to the method.
        grpc: print what the gRPC client prints, where the two differ.
    """

    def __init__(self, channel: Channel, seconds: float | None, *, grpc: bool) -> None:
        self._channel = channel
        self._seconds = seconds
        self._grpc = grpc

    async def run(self, arguments: argparse.Namespace) -> str:
        """Do what was parsed; gives the line for standard output.

        Raises:
            GuestError: a file is wrong, or the call failed.
        """
        match arguments.operation:
            case "unseal-secret":
                return await self._unseal(arguments.secret_path)
            case "unwrap-key":
                return await self._unwrap(arguments.annotation_path)
            case "get-resource":
                resource = await self._call(
                    GET_RESOURCE, cdh_pb2.GetResourceRequest(ResourcePath=arguments.resource_uri)
                )
                return wire.encode_base64(resource.Resource)
            case "secure-mount":
                return await self._mount(arguments.storage_path)
            case _:
                return await self._pull(arguments.image_url, arguments.bundle_path)

    async def _call(self, method: Method[Q, R], request: Q) -> R:
        deadline = method.deadline(self._seconds)
        if self._seconds == 0:
            deadline = Deadline.unlimited()
        try:
            return await self._channel.call(method, request, deadline=deadline)
        except GuestError as error:
            raise retold(error, f"{REQUEST_FAILED}: {error}") from error.__cause__

    async def _unseal(self, path: Path) -> str:
        request = cdh_pb2.UnsealSecretInput(secret=read_given(path).reveal())
        return wire.encode_base64((await self._call(UNSEAL_SECRET, request)).plaintext)

    async def _unwrap(self, path: Path) -> str:
        request = keyprovider_pb2.KeyProviderKeyWrapProtocolInput(
            KeyProviderKeyWrapProtocolInput=read_given(path).reveal()
        )
        output = await self._call(UNWRAP_KEY, request)
        return wire.encode_base64(output.KeyProviderKeyWrapProtocolOutput)

    async def _mount(self, path: Path) -> str:
        try:
            storage = decode_storage(read_given(path).reveal())
        except DecodeError as error:
            raise InvalidInputError(f"{path} is no storage document") from error
        request = cdh_pb2.SecureMountRequest(
            volume_type=storage.volume_type,
            options=storage.options,
            flags=storage.flags,
            mount_point=storage.mount_point,
        )
        await self._call(SECURE_MOUNT, request)
        return "mount succeed." if self._grpc else "mount succeeded!"

    async def _pull(self, image: str, bundle: str) -> str:
        from google.protobuf.text_format import MessageToString

        request = cdh_pb2.ImagePullRequest(image_url=image, bundle_path=bundle)
        response = await self._call(PULL_IMAGE, request)
        return f"Image pulled: {MessageToString(response, as_one_line=True)}"


async def run(arguments: argparse.Namespace, *, grpc: bool) -> str:
    """Do what was parsed; gives the line for standard output.

    Raises:
        GuestError: a file or the address is wrong, or the call failed.
    """
    channel = await open_channel(arguments, grpc=grpc)
    try:
        seconds = None if grpc else arguments.timeout
        return await Calls(channel, seconds, grpc=grpc).run(arguments)
    finally:
        await channel.close()
