"""What the first pull reads: credentials, policies, registry rules. Kept only once all are good.

Source: docs/spec/image-pull.md, sections 1.2, 4, 5 and 9.1.
"""

import asyncio
import logging
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from guest.deadline import Deadline
from guest.errors import DecodeError, GuestError, PlatformError
from guest.prepared import prepared
from guest.secret import Secret
from image_pull.config import ImageConfig
from image_pull.registry.auth import AuthFile
from image_pull.registry.mirrors import check_rules
from image_pull.registry.rules import MirrorTable, RegistriesTable, RegistryTable
from image_pull.registry.transport import Transport
from image_pull.signature.evaluation import Means
from image_pull.signature.gate import PolicyGate
from image_pull.signature.lookaside import Lookaside, further_configs
from image_pull.signature.policy import Policy
from image_pull.signature.sigstore_config import SigstoreConfig
from image_pull.sources import Sources
from image_pull.wording import CLIENT, explain, reworded

log = logging.getLogger(__name__)

VALIDATOR: Final = f"{CLIENT}Initialize signature validator failed: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Fixed for the life of the process.

    Attributes:
        auth: credentials, None for anonymous pulls.
        gate: the signature policy.
        rules: where images come from.
    """

    auth: AuthFile | None
    gate: PolicyGate
    rules: RegistriesTable


async def load_settings(
    config: ImageConfig,
    sources: Sources,
    transport: Callable[[], Transport],
    deadline: Deadline,
) -> Settings:
    """Read everything that the configuration names.

    Args:
        config: the `[image]` table.
        sources: gives what it names.
        transport: asked for when a signature is to be fetched from the web.
        deadline: for all of it.

    Raises:
        GuestError: something cannot be had or is malformed; the text is the peer's.
    """
    auth = None
    if config.authenticated_registry_credentials_uri is not None:
        uri = config.authenticated_registry_credentials_uri
        with await _fetch(sources, uri, deadline) as data:
            auth = _auth(data)
    lookaside = await _lookaside(config, sources, transport, deadline)
    policy = None
    if config.image_security_policy_uri is not None:
        with await _fetch(sources, config.image_security_policy_uri, deadline) as data:
            policy = _policy(data.reveal())
    elif config.image_security_policy is not None:
        policy = _policy(config.image_security_policy.encode())
    return Settings(
        auth=auth,
        gate=PolicyGate(
            policy,
            Means(keys=sources, lookaside=lookaside, keys_end=config.refuse_expired_keys),
        ),
        rules=await _rules(config, sources, deadline),
    )


async def _fetch(sources: Sources, uri: str, deadline: Deadline) -> Secret:
    try:
        return await sources.fetch(uri, deadline)
    except GuestError as error:
        text = f"{CLIENT}Initialize resource provider failed: {uri}: {explain(error)}"
        raise reworded(text, error) from error


def _auth(data: Secret) -> AuthFile:
    try:
        return AuthFile.parse(data.reveal())
    except DecodeError as error:
        # The causes may quote the file.
        text = f"{CLIENT}Initialize auth module failed: Invalid registry auth file: {error}"
        raise PlatformError(text) from None


async def _lookaside(
    config: ImageConfig,
    sources: Sources,
    transport: Callable[[], Transport],
    deadline: Deadline,
) -> Lookaside | None:
    if config.sigstore_config_uri is not None:
        with await _fetch(sources, config.sigstore_config_uri, deadline) as data:
            text = data.reveal()
    elif config.sigstore_config is not None:
        text = config.sigstore_config.encode()
    else:
        return None
    failed = f"{VALIDATOR}Invalid simple signing sigstore config"
    try:
        found = await asyncio.to_thread(SigstoreConfig.parse, text)
        further = await asyncio.to_thread(further_configs, Path(config.work_dir))
        failed = f"{VALIDATOR}Failed to update sigstore config"
        for each in further:
            found = found.merged(each)
    except GuestError as error:
        raise PlatformError(f"{failed}: {explain(error)}") from error
    return Lookaside(found, transport)


def _policy(data: bytes) -> Policy:
    try:
        return Policy.parse(data)
    except DecodeError as error:
        raise PlatformError(f"{VALIDATOR}Invalid image policy file: {explain(error)}") from error


async def _rules(config: ImageConfig, sources: Sources, deadline: Deadline) -> RegistriesTable:
    table = config.registry_config
    try:
        if table is None and config.registry_configuration_uri is not None:
            with await _fetch(sources, config.registry_configuration_uri, deadline) as data:
                table = parse_rules(data.reveal())
        table = table or RegistriesTable()
        check_rules(table)
    except DecodeError as error:
        text = f"{CLIENT}Malwared registry configuration: {explain(error)}"
        raise PlatformError(text) from error
    return table


def parse_rules(data: bytes) -> RegistriesTable:
    """Parse registries.conf; a key that nobody knows is warned of.

    Raises:
        DecodeError: not TOML, or of a wrong type.
    """
    try:
        document = tomllib.loads(data.decode("utf-8"))
        table = msgspec.convert(document, prepared(RegistriesTable))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise DecodeError("registry configuration is not TOML") from error
    except msgspec.ValidationError as error:
        raise DecodeError(f"registry configuration: {error}") from error
    _warn_of_unknown(document, RegistriesTable)
    for registry in document.get("registry", ()):
        _warn_of_unknown(registry, RegistryTable)
        for mirror in registry.get("mirror", ()):
            _warn_of_unknown(mirror, MirrorTable)
    return table


def _warn_of_unknown(table: Mapping[str, Any], kind: type[msgspec.Struct]) -> None:
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    for key in sorted(set(table) - known):
        log.warning("unknown key of the registry configuration is ignored", extra={"key": key})
