"""Key providers as an ocicrypt configuration names them, and how they are asked.

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
from guest.protos.methods import UNWRAP_KEY, WRAP_KEY
from guest.rpc.address import Address, TcpAddress, UnixAddress, parse_address
from guest.rpc.method import Channel
from guest.secret import Secret
from image_pull.ocicrypt.protocol import MAX_OUTPUT

MAX_CONFIG: Final = 1024 * 1024


class _Command(msgspec.Struct, frozen=True):
    path: str
    args: tuple[str, ...] = ()


class TlsFiles(
    msgspec.Struct,
    frozen=True,
    rename={
        "root_ca_file": "root-ca-file",
        "cert_file": "cert-file",
        "key_file": "key-file",
        "server_name": "server-name",
        "insecure_skip_verify": "insecure-skip-verify",
    },
):
    """How a provider behind gRPC with TLS is known, and we to it.

    Attributes:
        root_ca_file: the authorities that count; empty for the library's own.
        cert_file: our certificate.
        key_file: its key.
        server_name: what the provider's certificate is for, if not for the address.
        insecure_skip_verify: refused where it is true.
    """

    root_ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    server_name: str = ""
    insecure_skip_verify: bool = False


class _Provider(msgspec.Struct, frozen=True, rename={"grpc_tls": "grpc-tls"}):
    cmd: _Command | None = None
    grpc: str | None = None
    grpc_tls: TlsFiles | None = None
    ttrpc: str | None = None


class _Config(msgspec.Struct, frozen=True, rename={"key_providers": "key-providers"}):
    key_providers: dict[str, _Provider] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderEntry:
    """How one provider is reached; one of the three.

    Attributes:
        command: program and arguments.
        target: a gRPC server.
        tls: of that server; None for plaintext.
        ttrpc: a ttRPC server, which can unwrap only.
    """

    command: tuple[str, ...] = ()
    target: Address | None = None
    tls: TlsFiles | None = None
    ttrpc: Address | None = None


def parse_config(data: bytes) -> Mapping[str, ProviderEntry | None]:
    """Read an ocicrypt configuration; None stands for providers that cannot be reached.

    Raises:
        DecodeError: not such a document, or a provider has an address that is none.
    """
    config = jsonio.decode(data, _Config, max_depth=16, max_bytes=MAX_CONFIG)
    return {name: _entry(name, provider) for name, provider in config.key_providers.items()}


def _entry(name: str, provider: _Provider) -> ProviderEntry | None:
    if provider.cmd is not None:
        return ProviderEntry(command=(provider.cmd.path, *(provider.cmd.args or ())))
    if provider.grpc:
        return ProviderEntry(target=_target(name, provider.grpc), tls=provider.grpc_tls)
    if provider.ttrpc:
        try:
            return ProviderEntry(ttrpc=parse_address(provider.ttrpc))
        except InvalidInputError as error:
            raise DecodeError(f"key provider {name[:80]} has no ttRPC address") from error
    return None


def own_entry(address: str, *, grpc: bool) -> ProviderEntry | None:
    """How a configuration names the service that listens on `address`; None if it cannot."""
    try:
        own = parse_address(address) if "://" in address else _target("own", address)
    except (InvalidInputError, DecodeError):
        return None
    return ProviderEntry(target=own) if grpc else ProviderEntry(ttrpc=own)


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
        UnsupportedError: it cannot be reached, or in a way that cannot wrap.
    """
    if name not in config:
        known = ", ".join(sorted(config)) or "none"
        raise InvalidInputError(
            f"no wrapped keys produced by encryption: the key provider {name!r} is not "
            f"configured (configured: {known})"
        )
    entry = config[name]
    if entry is None or entry.ttrpc is not None:
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

    async def unwrap(self, request: bytes, deadline: Deadline) -> Secret:
        """See `KeyUnwrapper.unwrap`."""
        message = KeyProviderKeyWrapProtocolInput(KeyProviderKeyWrapProtocolInput=request)
        answer = await self._channel.call(UNWRAP_KEY, message, deadline=deadline)
        return Secret(answer.KeyProviderKeyWrapProtocolOutput)


class CommandProvider:
    """A provider that is a program: input on its standard input, output on its standard output."""

    def __init__(self, command: tuple[str, ...], environment: Mapping[str, str]) -> None:
        """Run `command` for each key, with `environment` as Go's clients do."""
        self._command = command
        self._environment = dict(environment)

    async def unwrap(self, request: bytes, deadline: Deadline) -> Secret:
        """See `KeyUnwrapper.unwrap` and `wrap`."""
        return Secret(await self.wrap(request, deadline))

    async def wrap(self, request: bytes, deadline: Deadline) -> bytes:
        """See `KeyProvider.wrap`; the input says what is to be done.

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
