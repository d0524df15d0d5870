"""The command `coco_keyprovider`: wraps layer keys for whoever encrypts an image.

Source: docs/spec/ocicrypt.md 14.1.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn

from cdh.keyprovider.daemon import DIRECTORY, detach
from cdh.keyprovider.owner import OwnerSettings, key_provider
from cdh.keyprovider.registration import AdminClaims
from guest import log
from guest.errors import ConfigError, InvalidInputError, PlatformError
from guest.proxies import Proxies
from guest.rpc.address import TcpAddress, parse_tcp
from guest.rpc.server import serving
from guest.supervisor import Component, main_loop
from guest.version import VERSION

COMMAND: Final = "coco_keyprovider"


class KeyProviderComponent:
    """The gRPC server around the key provider."""

    name = COMMAND

    def __init__(
        self, address: TcpAddress, settings: OwnerSettings, started: Callable[[], None]
    ) -> None:
        """Serve on `address`; `started` is called when it accepts."""
        self._address = address
        self._settings = settings
        self._started = started

    async def run(self, *, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """See `Component.run`."""
        from guest.rpc.grpc import GrpcServer

        async with key_provider(self._settings) as service:
            async with serving(GrpcServer(service.routes(), self._address)):
                ready()
                self._started()
                await stop.wait()


def main() -> NoReturn:
    """Parse the command line and serve until a signal."""
    arguments = _parser().parse_args(sys.argv[1:])
    environment = dict(os.environ)
    started: Callable[[], None] = lambda: None  # noqa: E731  # replaced when it detaches
    if arguments.daemon:
        try:
            started = detach(arguments.daemon_dir)
        except PlatformError as error:
            print(f"{COMMAND}: {': '.join(error.causes())}", file=sys.stderr)
            raise SystemExit(1) from error

    async def build() -> Sequence[Component]:
        rust_log = environment.get("RUST_LOG")
        log.configure(
            "info", rust_log=rust_log, journal=log.is_journal(environment.get("JOURNAL_STREAM"))
        )
        return (_component(arguments, environment, started),)

    main_loop(build, program=COMMAND, notify_socket=environment.get("NOTIFY_SOCKET"))


def _component(
    arguments: argparse.Namespace, environment: dict[str, str], started: Callable[[], None]
) -> KeyProviderComponent:
    try:
        address = parse_tcp(arguments.socket)
    except InvalidInputError as error:
        raise ConfigError("--socket") from error
    settings = OwnerSettings(
        kbs=arguments.kbs,
        auth_private_key=arguments.auth_private_key,
        kbs_cert=arguments.kbs_cert,
        claims=AdminClaims(
            role=arguments.role, issuer=arguments.issuer, audience=arguments.audience
        ),
        proxies=Proxies.from_variables(environment),
    )
    return KeyProviderComponent(address, settings, started)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        allow_abbrev=False,
        description="Wrap the layer keys of container images with keys that a KBS hands out. "
        "Name it in an ocicrypt configuration and let skopeo or `guest image encrypt` ask it.",
        epilog="parameters of --encryption-key provider:attestation-agent:<parameters>, joined "
        "by `::`: keyid=<kbs:///repo/type/tag>, keypath=<file with 32 raw bytes>, "
        "algorithm=A256GCM|A256CTR, packet=1|2, sample=true (a published key, for tests only)",
    )
    _add_options(parser)
    parser.add_argument(
        "-d",
        "--daemon",
        action="store_true",
        help="go to the background once it serves; output and process id go to files in "
        "--daemon-dir",
    )
    parser.add_argument(
        "--daemon-dir",
        type=Path,
        default=DIRECTORY,
        metavar="DIR",
        help="with --daemon (default: %(default)s)",
    )
    parser.add_argument("-V", "--version", action="version", version=f"{COMMAND} {VERSION}")
    return parser


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-s", "--socket", required=True, metavar="IP:PORT", help="address to serve gRPC on"
    )
    parser.add_argument(
        "-a",
        "--auth-private-key",
        type=Path,
        metavar="PATH",
        help="Ed25519 private key (PKCS#8 PEM) that the KBS knows as an administrator's",
    )
    parser.add_argument(
        "--kbs", metavar="URL", help="register every key with this KBS before it is used"
    )
    parser.add_argument(
        "--kbs-cert", type=Path, metavar="PATH", help="PEM file of the KBS's authority"
    )
    parser.add_argument(
        "--role", help="claim `role` of the admin token, as current Trustee wants it (admin)"
    )
    parser.add_argument("--issuer", help="claim `iss` of the admin token")
    parser.add_argument("--audience", help="claim `aud` of the admin token")


if __name__ == "__main__":
    main()
