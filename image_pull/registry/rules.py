"""Registry rules as they are written: containers-registries.conf v2, the parts we know. Sans-I/O.

Source: docs/spec/image-pull.md, section 4; containers-registries.conf(5).
"""

from typing import Literal

import msgspec

MirrorUse = Literal["", "all", "digest-only", "tag-only"]
"""When a mirror serves: for every reference, only with a digest, only with a tag."""


class MirrorTable(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """One `[[registry.mirror]]`.

    Attributes:
        location: what replaces the matched part of the reference; not empty.
        insecure: plain HTTP.
        pull_from_mirror: for which references it serves.
    """

    location: str
    insecure: bool = False
    pull_from_mirror: MirrorUse = ""


class RegistryTable(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """One `[[registry]]`.

    Attributes:
        prefix: what references it is for; empty means `location`.
        location: what replaces the matched part; empty means the reference itself.
        insecure: plain HTTP.
        blocked: never pull what matches.
        mirror: tried before the location, in order.
        mirror_by_digest_only: mirrors serve only references with a digest.
    """

    prefix: str = ""
    location: str = ""
    insecure: bool = False
    blocked: bool = False
    mirror: tuple[MirrorTable, ...] = ()
    mirror_by_digest_only: bool = False


class RegistriesTable(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """The whole file, or `[image.registry_config]`.

    Attributes:
        unqualified_search_registries: where names without a registry are looked for, in order.
        registry: the rules.
        short_name_mode: `enforcing` with several search registries cannot be evaluated.
        aliases: cannot be evaluated, so a file that has some is refused.
        credential_helpers: only `containers-auth.json`, the files we read, can be evaluated.
    """

    unqualified_search_registries: tuple[str, ...] = ("docker.io",)
    registry: tuple[RegistryTable, ...] = ()
    short_name_mode: Literal["", "disabled", "permissive", "enforcing"] = ""
    aliases: dict[str, str] = {}
    credential_helpers: tuple[str, ...] = ()
