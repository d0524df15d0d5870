"""Key providers as an owner's configuration names them, and the clients that ask them to wrap.

Source: docs/spec/ocicrypt.md 10 and 11.2.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from guest import jsonio
from guest.deadline import Deadline
from guest.errors import (
    DecodeError,
    InvalidInputError,
    PeerError,
    PlatformError,
    UnsupportedError,
)
from guest.process import DEFAULT_PATH, run_program
from guest.protos.keyprovider_pb2 import KeyProviderKeyWrapProtocolInput
from guest.protos.methods import WRAP_KEY
from guest.rpc.address import Address, TcpAddress, UnixAddress
from guest.rpc.method import Channel

MAX_CONFIG: Final = 1024 * 1024
MAX_OUTPUT: Final = 4 * 1024 * 1024
"""Most bytes that a provider program may write."""


class _Command(msgspec.Struct, frozen=True):
    path: str
    args: tuple[str, ...] = ()


class _Provider(msgspec.Struct, frozen=True, rename={"grpc_tls": "grpc-tls"}):
    cmd: _Command | None = None
    grpc: str | None = None
    grpc_tls: object = None


class _Config(msgspec.Struct, frozen=True, rename={"key_providers": "key-providers"}):
    key_providers: dict[str, _Provider] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderEntry:
    """How one provider is reached; one of the two.

    Attributes:
        command: program and arguments.
        target: a gRPC server.
    """

    command: tuple[str, ...] = ()
    target: Address | None = None


def parse_config(data: bytes) -> Mapping[str, ProviderEntry | None]:
    """Read an ocicrypt configuration; None stands for providers that cannot be used to wrap.

    Raises:
        DecodeError: not such a document, or a provider has an address that is none.
    """
    config = jsonio.decode(data, _Config, max_depth=16, max_bytes=MAX_CONFIG)
    return {name: _entry(name, provider) for name, provider in config.key_providers.items()}


def _entry(name: str, provider: _Provider) -> ProviderEntry | None:
    if provider.cmd is not None:
        return ProviderEntry(command=(provider.cmd.path, *(provider.cmd.args or ())))
    if provider.grpc and provider.grpc_tls is None:
        return ProviderEntry(target=_target(name, provider.grpc))
    return None


def _target(name: str, text: str) -> Address:
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        path = path.removeprefix("//") if path.startswith("//") else path
        if path.startswith("/"):
            return UnixAddress(path)
    for scheme in ("http://", "tcp://", "dns:///"):
        text = text.removeprefix(scheme)
    host, colon, port = text.rstrip("/").rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or "/" in host or not (port.isascii() and port.isdigit()):
        raise DecodeError(f"key provider {name} has no gRPC address: {text[:200]!r}")
    if not 0 < int(port) < 65536:
        raise DecodeError(f"key provider {name} has the port {port[:20]}")
    return TcpAddress(host, int(port))


def find_entry(config: Mapping[str, ProviderEntry | None], name: str) -> ProviderEntry:
    """The entry of a provider.

    Raises:
        InvalidInputError: it is not in the configuration.
        UnsupportedError: it is reached in a way that cannot wrap.
    """
    if name not in config:
        known = ", ".join(sorted(config)) or "none"
        raise InvalidInputError(
            f"no wrapped keys produced by encryption: the key provider {name!r} is not "
            f"configured (configured: {known})"
        )
    entry = config[name]
    if entry is None:
        raise UnsupportedError(
            f"key provider {name}: Unsupported keyprovider invocation. "
            "Supported invocation methods are grpc and cmd"
        )
    return entry


class ChannelProvider:
    """A provider behind a channel."""

    def __init__(self, channel: Channel) -> None:
        """Ask through `channel`, which its owner closes."""
        self._channel = channel

    async def wrap(self, request: bytes, deadline: Deadline) -> bytes:
        """See `KeyProvider.wrap`."""
        message = KeyProviderKeyWrapProtocolInput(KeyProviderKeyWrapProtocolInput=request)
        answer = await self._channel.call(WRAP_KEY, message, deadline=deadline)
        return bytes(answer.KeyProviderKeyWrapProtocolOutput)


class CommandProvider:
    """A provider that is a program: input on its standard input, output on its standard output."""

    def __init__(self, command: tuple[str, ...], environment: Mapping[str, str]) -> None:
        """Run `command` for each key, with `environment` as Go's clients do."""
        self._command = command
        self._environment = dict(environment)

    async def wrap(self, request: bytes, deadline: Deadline) -> bytes:
        """See `KeyProvider.wrap`.

        Raises:
            PlatformError: it cannot be started.
            PeerError: it failed; the text has what it wrote to standard error.
        """
        done = await run_program(
            self._command,
            deadline=deadline,
            stdin=request,
            env=self._environment,
            path=self._environment.get("PATH", DEFAULT_PATH),
            max_output=MAX_OUTPUT,
        )
        try:
            done.verify_success()
        except PlatformError as error:
            raise PeerError(f"Error while running command: {self._command[0]}") from error
        return done.stdout
