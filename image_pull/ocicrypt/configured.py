"""Key providers of an ocicrypt configuration file, asked to unwrap.

The file is read anew for every key: what is missing or malformed today may be there tomorrow. A
provider that is this process itself is asked without a connection.

Source: docs/spec/ocicrypt.md 10, 11.2 and 13.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from guest.deadline import Deadline
from guest.errors import (
    ConfigError,
    DecodeError,
    DeniedError,
    GuestError,
    LimitError,
    NotFoundError,
    UnauthenticatedError,
    UnreachableError,
    UnsupportedError,
    retold,
)
from guest.rpc.address import Address
from guest.rpc.method import Channel
from guest.secret import Secret
from image_pull.ocicrypt.protocol import KeyUnwrapper
from image_pull.ocicrypt.providers import (
    MAX_CONFIG,
    ChannelProvider,
    CommandProvider,
    ProviderEntry,
    TlsFiles,
    parse_config,
)

FIRST: Final = "attestation-agent"
"""The provider that CoCo's images are wrapped for; it is asked before others."""

MAX_FILE: Final = 1024 * 1024
"""Most bytes of a certificate or key."""

_TELLING: Final = (DeniedError, UnauthenticatedError, UnreachableError, NotFoundError)
"""Classes whose meaning the whole failure keeps, the most telling first."""


class ConfiguredProviders:
    """The providers of one file; a `KeyUnwrapper`."""

    def __init__(
        self,
        path: Path,
        *,
        own: KeyUnwrapper | None = None,
        own_address: ProviderEntry | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is read yet.

        Args:
            path: the file.
            own: this process's own unwrapper.
            own_address: how the file names this process.
            environment: for providers that are programs.
        """
        self._path = path
        self._own = own
        self._own_address = own_address
        self._environment = dict(environment or {})
        self._channels: dict[tuple[Address, TlsFiles | None], Channel] = {}

    async def unwrap(self, request: bytes, deadline: Deadline) -> Secret:
        """The output of the first provider that has one.

        Raises:
            ConfigError: the file is missing or malformed; it is named.
            UnsupportedError: no provider can be reached from here.
            GuestError: each one refused.
        """
        config = await asyncio.to_thread(self._read)
        failures: list[tuple[str, GuestError]] = []
        for name in sorted(config, key=lambda name: name != FIRST):
            try:
                unwrapper = await self._unwrapper(name, config[name])
                return await unwrapper.unwrap(request, deadline)
            except GuestError as error:
                failures.append((name, error))
            if deadline.is_over():
                break
        raise self._failure(failures)

    def _read(self) -> Mapping[str, ProviderEntry | None]:
        try:
            return parse_config(_read_file(self._path, MAX_CONFIG))
        except (OSError, LimitError) as error:
            raise ConfigError(f"ocicrypt configuration {self._path} cannot be read") from error
        except DecodeError as error:
            raise ConfigError(f"{self._path} is no ocicrypt configuration") from error

    async def _unwrapper(self, name: str, entry: ProviderEntry | None) -> KeyUnwrapper:
        if entry is None:
            raise UnsupportedError(
                "keyprovider: invalid configuration, both grpc and runner are NULL"
            )
        if self._own is not None and entry == self._own_address:
            return self._own
        if entry.command:
            return CommandProvider(entry.command, self._environment)
        address = entry.ttrpc or entry.target
        assert address is not None
        key = (address, entry.tls)
        if key not in self._channels:
            channel = await _open_channel(entry)
            if self._channels.setdefault(key, channel) is not channel:
                await channel.close()  # another layer was faster
        return ChannelProvider(self._channels[key])

    def _failure(self, failures: list[tuple[str, GuestError]]) -> GuestError:
        if not failures:
            return UnsupportedError(f"{self._path} names no key provider")
        reasons = "; ".join(
            f"{name[:80]}: {': '.join(error.causes())[:300]}" for name, error in failures[:4]
        )
        chosen = failures[0][1]
        for telling in _TELLING:
            found = next((error for _, error in failures if isinstance(error, telling)), None)
            if found is not None:
                chosen = found
                break
        failure = retold(chosen, f"key providers of {self._path}: {reasons}")
        failure.__cause__ = chosen
        return failure

    async def close(self) -> None:
        """Let go of connections."""
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()


async def _open_channel(entry: ProviderEntry) -> Channel:
    if entry.ttrpc is not None:
        from guest.ttrpc.channel import TtrpcChannel

        return TtrpcChannel(entry.ttrpc)
    assert entry.target is not None
    return await asyncio.to_thread(open_grpc, entry)


def open_grpc(entry: ProviderEntry) -> Channel:
    """A channel to a provider behind gRPC; nothing is connected.

    Raises:
        ConfigError: a certificate or key cannot be read.
        UnsupportedError: the provider's certificate is not to be checked.
    """
    from guest.rpc.grpc import ChannelTls, GrpcChannel

    assert entry.target is not None
    files = entry.tls
    if files is None:
        return GrpcChannel(entry.target)
    if files.insecure_skip_verify:
        raise UnsupportedError("grpc-tls with insecure-skip-verify is not supported")
    return GrpcChannel(
        entry.target,
        tls=ChannelTls(
            roots=_pem(files.root_ca_file),
            certificate=_pem(files.cert_file),
            key=_pem(files.key_file),
            server_name=files.server_name or None,
        ),
    )


def _pem(path: str) -> bytes | None:
    if not path:
        return None
    try:
        return _read_file(Path(path), MAX_FILE)
    except (OSError, LimitError) as error:
        raise ConfigError(f"{path[:200]} of grpc-tls cannot be read") from error


def _read_file(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise LimitError(f"{path} is longer than {limit} bytes")
    return data
