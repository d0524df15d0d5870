"""The command `guest image encrypt`: an image encrypted on its way from here to there.

Source: docs/spec/ocicrypt.md 7, 8 and 10.
"""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guest.crypto.digest import Digest
from guest.crypto.recipients import MAX_KEY_LENGTH, RecipientKey
from guest.deadline import Deadline
from guest.errors import (
    ConfigError,
    DecodeError,
    GuestError,
    InvalidInputError,
    UnsupportedError,
)
from guest.proxies import Proxies
from guest.secret import Secret
from image_pull.encrypt import ImageEncryption, UnwrapOptions
from image_pull.endpoints import (
    RegistryOptions,
    open_destination,
    open_source,
    read_file,
    usual_authfiles,
)
from image_pull.location import Location, parse_location
from image_pull.ocicrypt.decrypt import unwrap_options
from image_pull.ocicrypt.providers import (
    MAX_CONFIG,
    ChannelProvider,
    CommandProvider,
    ProviderEntry,
    find_entry,
    parse_config,
)
from image_pull.ocicrypt.recipients import Recipients
from image_pull.ocicrypt.wrapping import JweWrapper, KeyProvider, KeyWrapper, ProviderWrapper

CONFIG_VARIABLE: Final = "OCICRYPT_KEYPROVIDER_CONFIG"
LOCAL_PROVIDER: Final = "attestation-agent"
"""The provider whose work this process can do itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """Where keys that are wrapped in this process are registered.

    Attributes:
        kbs: base URL, or None to register nowhere.
        auth_private_key: administrator's Ed25519 key in PEM.
        kbs_cert: PEM file of an authority for the KBS.
        role: claim of the admin token.
        issuer: claim of the admin token.
        audience: claim of the admin token.
        proxies: of the environment.
    """

    kbs: str | None
    auth_private_key: Path | None
    kbs_cert: Path | None
    role: str | None
    issuer: str | None
    audience: str | None
    proxies: Proxies


OpenLocal = Callable[[LocalSettings], AbstractAsyncContextManager[KeyProvider]]
"""Opens the key provider of this process; it lives in another package than this."""

EPILOG: Final = """\
SOURCE and DEST:
  oci:DIRECTORY[:TAG]            an OCI image layout
  docker://HOST/NAME[:TAG]       an image in a registry

recipients (repeat the option for more; any one of them can decrypt):
  jwe:FILE                       public key: PEM, DER or JWK; RSA, or EC on P-256, P-384, P-521
  provider:NAME[:PARAMETERS]     a key provider of the configuration

A confidential guest reads images of provider:attestation-agent. Its parameters, joined by `::`:
  keyid=kbs:///REPO/TYPE/TAG     the key's name in the KBS
  keypath=FILE                   the 32 raw bytes of the key; without it a new key is made
  algorithm=A256GCM              or A256CTR
The provider is a running coco_keyprovider where a configuration names one; otherwise, or with
--kbs, this command does its work: it wraps the keys itself, after it registered them.

example:
  guest image encrypt oci:app:v1 docker://registry.example/app:v1 \\
      --encryption-key provider:attestation-agent:keyid=kbs:///default/image-kek/app \\
      --kbs https://kbs.example:8080 --auth-private-key admin.pem --role admin
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `image` to the commands of `guest`; `run` does what was parsed."""
    image = commands.add_parser("image", help="encrypt images", allow_abbrev=False)
    actions = image.add_subparsers(dest="action", required=True, metavar="ACTION")
    parser = actions.add_parser(
        "encrypt",
        help="encrypt the layers of an image for a confidential guest",
        description="Copy an image and encrypt its layers on the way. Prints the digest of the "
        "new image. Layers that are encrypted already get recipients added.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", type=_location, metavar="SOURCE", help="image to read")
    parser.add_argument("destination", type=_location, metavar="DEST", help="where it goes")
    parser.add_argument(
        "--encryption-key",
        action="append",
        required=True,
        metavar="RECIPIENT",
        help="for whom the layers are encrypted, see below",
    )
    parser.add_argument(
        "--encrypt-layer",
        action="append",
        type=int,
        metavar="N",
        help="encrypt this layer, counted from 0, or from the last with -1; default: all",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but the digest")
    parser.add_argument(
        "--decryption-key",
        action="append",
        type=Path,
        metavar="FILE",
        help="private key that opens layers which are encrypted already, to add recipients",
    )
    _add_key_options(parser.add_argument_group("keys"))
    _add_registry_options(parser.add_argument_group("registries"))


def _add_key_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--kbs", metavar="URL", help="wrap in this process and register the key with this KBS"
    )
    for option, text in (
        ("auth-private-key", "Ed25519 key (PEM) of an administrator of the KBS"),
        ("kbs-cert", "PEM file of an authority for the KBS"),
        (
            "keyprovider-config",
            f"ocicrypt configuration with the key providers (default: ${CONFIG_VARIABLE})",
        ),
    ):
        group.add_argument(f"--{option}", type=Path, metavar="FILE", help=text)
    group.add_argument("--role", help="claim `role` of the admin token")
    group.add_argument("--issuer", help="claim `iss` of the admin token")
    group.add_argument("--audience", help="claim `aud` of the admin token")


def _add_registry_options(group: "argparse._ArgumentGroup") -> None:
    for prefix, which in (("", "both registries"), ("src-", "SOURCE"), ("dest-", "DEST")):
        group.add_argument(
            f"--{prefix}authfile",
            type=Path,
            metavar="FILE",
            help=f"credentials for {which}, as docker and podman keep them",
        )
        group.add_argument(
            f"--{prefix}ca",
            type=Path,
            metavar="FILE",
            help=f"PEM file of the authorities to trust for {which}, instead of the system's",
        )
        group.add_argument(f"--{prefix}plain-http", action="store_true", help=f"no TLS for {which}")


def _location(text: str) -> Location:
    try:
        return parse_location(text)
    except InvalidInputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(
    arguments: argparse.Namespace,
    environment: Mapping[str, str],
    *,
    open_local: OpenLocal | None = None,
) -> int:
    """Encrypt, and print the new image's digest on standard output.

    Args:
        arguments: parsed by what `add_commands` added.
        environment: of the process.
        open_local: the key provider of this process; None where there is none.

    Returns:
        0; 1 if it failed, for the reason on standard error; 2 if the options make no sense.
    """
    try:
        recipients = Recipients.parse(arguments.encryption_key)
        if (arguments.kbs is None) != (arguments.auth_private_key is None):
            raise InvalidInputError("--kbs and --auth-private-key go together")
    except GuestError as error:
        print(f"guest image encrypt: {': '.join(error.causes())}", file=sys.stderr)
        return 2
    try:
        digest = asyncio.run(_encrypt(arguments, recipients, environment, open_local))
    except GuestError as error:
        print(f"guest image encrypt: {': '.join(error.causes())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("guest image encrypt: interrupted", file=sys.stderr)
        return 1
    print(digest)
    return 0


async def _encrypt(
    arguments: argparse.Namespace,
    recipients: Recipients,
    environment: Mapping[str, str],
    open_local: OpenLocal | None,
) -> Digest:
    async with AsyncExitStack() as stack:
        wrappers = await _wrappers(stack, arguments, recipients, environment, open_local)
        source = open_source(arguments.source, _access(arguments, environment, "src"))
        stack.callback(source.close)
        destination = open_destination(
            arguments.destination, _access(arguments, environment, "dest")
        )
        stack.callback(destination.close)

        def note(text: str) -> None:
            if not arguments.quiet:
                print(text, file=sys.stderr)

        encryption = ImageEncryption(
            source,
            destination,
            wrappers,
            layers=arguments.encrypt_layer,
            unwrap=_unlocker(arguments.decryption_key),
            note=note,
        )
        return await encryption.run()


async def _wrappers(
    stack: AsyncExitStack,
    arguments: argparse.Namespace,
    recipients: Recipients,
    environment: Mapping[str, str],
    open_local: OpenLocal | None,
) -> list[KeyWrapper]:
    wrappers: list[KeyWrapper] = []
    config = _read_config(arguments, environment)
    for name, parameters in recipients.providers:
        if name == LOCAL_PROVIDER and (config is None or arguments.kbs is not None):
            if open_local is None:
                raise UnsupportedError("keys can only be wrapped by a key provider here")
            settings = _local_settings(arguments, environment)
            provider = await stack.enter_async_context(open_local(settings))
        else:
            entry = find_entry(config or {}, name)
            provider = await stack.enter_async_context(_remote(entry, environment))
        wrappers.append(ProviderWrapper(name, parameters, provider))
    if recipients.public_keys:
        wrappers.append(JweWrapper([_public_key(Path(name)) for name in recipients.public_keys]))
    return wrappers


def _unlocker(files: Sequence[Path] | None) -> UnwrapOptions | None:
    """Opens layers that are encrypted for one of these private keys."""
    if not files:
        return None
    private_keys = [Secret(read_file(path, MAX_KEY_LENGTH)) for path in files]

    async def unwrap(annotations: Mapping[str, str], deadline: Deadline) -> Secret:
        return await unwrap_options(
            annotations, keys=None, private_keys=private_keys, deadline=deadline
        )

    return unwrap


def _read_config(
    arguments: argparse.Namespace, environment: Mapping[str, str]
) -> Mapping[str, ProviderEntry | None] | None:
    path: Path | None = arguments.keyprovider_config
    if path is None and environment.get(CONFIG_VARIABLE):
        path = Path(environment[CONFIG_VARIABLE])
    if path is None:
        return None
    try:
        return parse_config(read_file(path, MAX_CONFIG))
    except DecodeError as error:
        raise ConfigError(f"{path} is no ocicrypt configuration") from error


def _local_settings(arguments: argparse.Namespace, environment: Mapping[str, str]) -> LocalSettings:
    return LocalSettings(
        kbs=arguments.kbs,
        auth_private_key=arguments.auth_private_key,
        kbs_cert=arguments.kbs_cert,
        role=arguments.role,
        issuer=arguments.issuer,
        audience=arguments.audience,
        proxies=Proxies.from_variables(environment),
    )


@asynccontextmanager
async def _remote(
    entry: ProviderEntry, environment: Mapping[str, str]
) -> AsyncIterator[KeyProvider]:
    if entry.target is None:
        yield CommandProvider(entry.command, environment)
        return
    from image_pull.ocicrypt.configured import open_grpc

    channel = open_grpc(entry)
    try:
        yield ChannelProvider(channel)
    finally:
        await channel.close()


def _public_key(path: Path) -> RecipientKey:
    try:
        return RecipientKey.decode(read_file(path, MAX_KEY_LENGTH))
    except DecodeError as error:
        raise InvalidInputError(f"{path}") from error


def _access(
    arguments: argparse.Namespace, environment: Mapping[str, str], side: str
) -> RegistryOptions:
    options = vars(arguments)
    authfile: Path | None = options[f"{side}_authfile"] or arguments.authfile
    return RegistryOptions(
        plain_http=options[f"{side}_plain_http"] or arguments.plain_http,
        roots=options[f"{side}_ca"] or arguments.ca,
        authfiles=usual_authfiles(environment) if authfile is None else (authfile,),
        is_chosen=authfile is not None,
        proxies=Proxies.from_variables(environment),
    )
