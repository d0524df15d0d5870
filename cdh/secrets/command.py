"""The command `secret`: what owners do with sealed secrets, and how a guest opens one by hand.

Source: docs/spec/confidential-data-hub.md 1.5.
"""

import argparse
import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from cdh import config as cdh_config
from cdh.assembly import assemble
from cdh.credentials import RUNTIME_DIR
from cdh.files import read_given
from cdh.keyprovider.owner import OwnerSettings, open_registrar
from cdh.keyprovider.registration import AdminClaims
from cdh.kms import open_encrypter, open_keeper
from cdh.kms.base import parse_resource_uri
from cdh.kms.site import KmsSite
from cdh.secrets import seal
from cdh.secrets.sealed import (
    MAX_KEY_LENGTH,
    EnvelopeSecret,
    SignedSecret,
    VaultSecret,
    check_verification_key,
    decode_payload,
    decode_unsigned,
)
from guest import jsonio
from guest.cmdline import CommandLine
from guest.crypto.es256 import Es256Key
from guest.deadline import Deadline
from guest.errors import DecodeError, InvalidInputError, PlatformError
from guest.proxies import Proxies
from guest.secret import Secret
from guest.ttrpc.channel import TtrpcChannel

SECONDS: Final = 60.0
"""For everything that one run asks others for."""

PROVIDERS: Final = {"ali": "aliyun", "aws": "aws", "ehsm": "ehsm"}
"""Subcommand of `envelope` to the provider's name in the secret."""

NOT_PROVISIONED: Final = "Warning: Secrets must be provisioned to provider separately."

Say = Callable[[str], None]
"""Tells a person, on standard error."""


async def run(arguments: argparse.Namespace, environment: Mapping[str, str], say: Say) -> str:
    """Do what was parsed; gives the lines for standard output, perhaps none.

    Args:
        arguments: of `cdh.secrets.command_line.make_parser`.
        environment: the process's variables.
        say: for what is no result.

    Raises:
        GuestError: it failed; nothing was written.
    """
    match arguments.command:
        case "seal":
            return await _seal(arguments, environment, say)
        case "unseal":
            return await _unseal(arguments, environment, say)
        case "keygen":
            await _keygen(arguments, environment, say)
            return ""
        case "inspect":
            return _inspect(arguments.file_path)
        case _:
            return await asyncio.to_thread(_verify, arguments)


async def _keygen(arguments: argparse.Namespace, environment: Mapping[str, str], say: Say) -> None:
    if arguments.register is not None and None in (arguments.kbs, arguments.auth_private_key):
        raise InvalidInputError("--register needs --kbs and --auth-private-key")
    private, public = await asyncio.to_thread(
        seal.make_key_files, arguments.kid, arguments.output_dir
    )
    if arguments.register is not None:
        try:
            await _register(arguments, environment, read_given(public))
        except BaseException:
            private.unlink()
            public.unlink()
            raise
        say(f"registered: {arguments.register}")
    say(f"written: {private} (keep it secret), {public}")


async def _register(
    arguments: argparse.Namespace, environment: Mapping[str, str], jwk: Secret
) -> None:
    """Put the public key where guests will look for it."""
    settings = OwnerSettings(
        kbs_cert=arguments.kbs_cert,
        claims=AdminClaims(
            role=arguments.role, issuer=arguments.issuer, audience=arguments.audience
        ),
        proxies=Proxies.from_variables(environment),
    )
    uri = parse_resource_uri(arguments.register)
    async with open_registrar(arguments.kbs, arguments.auth_private_key, settings) as registrar:
        await registrar.register(uri, jwk, Deadline.after(SECONDS))


async def _seal(arguments: argparse.Namespace, environment: Mapping[str, str], say: Say) -> str:
    path = arguments.signing_jwk_path
    with read_given(path, MAX_KEY_LENGTH) as jwk:
        try:
            key = Es256Key.from_jwk(jwk)
        except DecodeError as error:
            raise InvalidInputError(f"{path} is no private P-256 JWK") from error
    if arguments.kind == "vault":
        pointer = await _make_vault(arguments, environment, say)
        return seal.seal(pointer, arguments.signing_kid, key).decode("ascii")
    envelope = await _make_envelope(arguments, environment)
    return seal.seal(envelope, arguments.signing_kid, key).decode("ascii")


async def _make_vault(
    arguments: argparse.Namespace, environment: Mapping[str, str], say: Say
) -> VaultSecret:
    pointer = seal.vault(
        arguments.resource_uri,
        arguments.provider,
        _object(arguments.provider_settings, "--provider-settings"),
        _object(arguments.annotations, "--annotations"),
    )
    plaintext, credentials = arguments.file_path, arguments.credential_file_path
    if (plaintext is None) is not (credentials is None):
        raise InvalidInputError("--file-path and --credential-file-path need each other")
    if plaintext is None:
        say(NOT_PROVISIONED)
        return pointer
    config = cdh_config.effective(None, environment, CommandLine.parse(""))
    site = KmsSite(config, RUNTIME_DIR)
    try:
        keeper = open_keeper(pointer.provider, pointer.provider_settings, credentials, site)
        with read_given(plaintext) as secret:
            found = await keeper.put_secret(pointer.name, secret, Deadline.after(SECONDS))
    finally:
        await site.close()
    say(f"provisioned: {pointer.name}")
    annotations = pointer.annotations or found
    return seal.vault(pointer.name, pointer.provider, pointer.provider_settings, annotations)


async def _make_envelope(
    arguments: argparse.Namespace, environment: Mapping[str, str]
) -> EnvelopeSecret:
    config = cdh_config.effective(None, environment, CommandLine.parse(""))
    site = KmsSite(config, RUNTIME_DIR)
    provider = PROVIDERS[arguments.kms]
    try:
        kms = open_encrypter(provider, vars(arguments), site)
        with read_given(arguments.file_path) as plaintext:
            return await seal.make_envelope(
                plaintext, arguments.key_id, provider, kms, Deadline.after(SECONDS)
            )
    finally:
        await site.close()


def _object(text: str, flag: str) -> Mapping[str, object]:
    try:
        return jsonio.decode(text.encode("utf-8", "surrogateescape"), dict[str, object])
    except DecodeError as error:
        raise InvalidInputError(f"{flag} is no JSON object") from error


async def _unseal(arguments: argparse.Namespace, environment: Mapping[str, str], say: Say) -> str:
    path: Path = arguments.file_path
    target = path.with_name(f"{path.name}.unsealed")
    if target.is_symlink() or target.exists():
        raise PlatformError(f"{target} is there already")
    sealed = read_given(path).reveal()
    variables = _variables(arguments, environment, _provider(sealed))
    config = cdh_config.effective(None, variables, CommandLine.parse(""))
    parts = assemble(config, TtrpcChannel(config.aa.aa_socket), RUNTIME_DIR)
    try:
        with await parts.unsealer.unseal(sealed, Deadline.after(SECONDS)) as plaintext:
            seal.write_new(target, plaintext)
    finally:
        await parts.close()
    say(f"written: {target}")
    return ""


def _provider(sealed: bytes) -> str:
    """Which provider the secret names: decides which flags must be there, and nothing else."""
    try:
        return decode_payload(decode_unsigned(sealed)).provider.lower()
    except DecodeError as error:
        raise InvalidInputError("this is no sealed secret") from error


def _variables(
    arguments: argparse.Namespace, environment: Mapping[str, str], provider: str
) -> Mapping[str, str]:
    """The environment with what the flags say in it, complete before anything is fetched."""
    variables = dict(environment)
    if arguments.skip_verification:
        variables["SKIP_SEALED_SECRET_VERIFICATION"] = "true"
    if arguments.aa_kbc_params is not None:
        variables["AA_KBC_PARAMS"] = arguments.aa_kbc_params
    if provider == "kbs" and "AA_KBC_PARAMS" not in variables:
        raise InvalidInputError("provider kbs needs --aa-kbc-params")
    if provider in PROVIDERS.values():
        if arguments.key_path is None:
            raise InvalidInputError(f"provider {provider} needs --key-path")
        variables[f"{provider.upper()}_IN_GUEST_KEY_PATH"] = str(arguments.key_path)
    return variables


def _inspect(path: Path) -> str:
    """What a sealed secret says of itself; ciphertexts as their lengths."""
    text = read_given(path).reveal()
    shown: dict[str, object] = {}
    try:
        shown["kid"] = SignedSecret.decode(text).kid
    except DecodeError as error:
        shown["unusable"] = str(error)
    try:
        payload = decode_payload(decode_unsigned(text))
    except DecodeError as error:
        raise InvalidInputError(f"{path} is no sealed secret") from error
    if isinstance(payload, VaultSecret):
        shown |= {"type": "vault", "name": payload.name}
    else:
        shown |= {
            "type": "envelope",
            "key_id": payload.key_id,
            "encrypted_key_bytes": len(payload.encrypted_key),
            "encrypted_data_bytes": len(payload.encrypted_data),
            "wrap_type": payload.wrap_type,
        }
    shown |= {
        "provider": payload.provider,
        "provider_settings": payload.provider_settings,
        "annotations": payload.annotations,
        "verified": False,
    }
    return msgspec.json.format(msgspec.json.encode(shown), indent=2).decode()


def _verify(arguments: argparse.Namespace) -> str:
    """Check a signature with a key at hand, asking nobody."""
    from guest.crypto.jose import verify_es256

    jwk = read_given(arguments.jwk_path, MAX_KEY_LENGTH)
    try:
        check_verification_key(jwk.reveal())
    except DecodeError as error:
        raise InvalidInputError(f"{arguments.jwk_path} is no P-256 JWK") from error
    try:
        signed = SignedSecret.decode(read_given(arguments.file_path).reveal())
        decode_payload(verify_es256(signed.jws, jwk.reveal()))
    except DecodeError as error:
        raise InvalidInputError(f"{arguments.file_path} is no sealed secret") from error
    return f"good signature, kid {signed.kid}"
