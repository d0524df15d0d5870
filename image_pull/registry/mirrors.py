"""From one reference to the ordered places it is pulled from. Sans-I/O.

Source: docs/spec/image-pull.md, section 4.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from guest.errors import DecodeError
from image_pull.reference import DEFAULT_REGISTRY, OFFICIAL, ImageReference
from image_pull.registry.rules import MirrorTable, RegistriesTable, RegistryTable

WILDCARD: Final = "*."
AFTER_MATCH: Final = ("", ":", "/", "@")
"""What may follow the matched part of a reference; "" is its end."""

AUTH_FILES: Final = "containers-auth.json"
"""The one credential helper that can be evaluated: files that the configuration names."""


class TaskKind(StrEnum):
    """Why a place is on the list."""

    ORIGINAL = "original"
    UNQUALIFIED = "unqualified"
    MIRROR = "mirror"
    REMAPPED = "remapped"


@dataclass(frozen=True, slots=True, kw_only=True)
class PullTask:
    """One place to pull from.

    Attributes:
        reference: rewritten by the rules; credentials and policy go by it.
        insecure: plain HTTP.
        kind: why it is on the list.
    """

    reference: ImageReference
    insecure: bool
    kind: TaskKind

    @property
    def scheme(self) -> str:
        """Of the registry's URLs."""
        return "http" if self.insecure else "https"


def check_rules(table: RegistriesTable) -> None:
    """Refuse rules that contradict themselves and those that cannot be evaluated.

    Raises:
        DecodeError: names the rule that is wrong.
    """
    for rule in table.registry:
        _check_rule(rule)
    if table.aliases:
        raise DecodeError("illegal Registry Config: aliases are not supported")
    if set(table.credential_helpers) - {AUTH_FILES}:
        raise DecodeError("illegal Registry Config: credential-helpers are not supported")
    if table.short_name_mode == "enforcing" and len(table.unqualified_search_registries) > 1:
        raise DecodeError(
            "illegal Registry Config: short-name-mode enforcing allows one search registry"
        )


def _check_rule(rule: RegistryTable) -> None:
    if not rule.location and not rule.prefix:
        raise DecodeError("illegal Registry Config: both location and prefix are empty")
    if not rule.location and rule.prefix.startswith(WILDCARD):
        raise DecodeError("illegal Registry Config: location is unset and prefix is with wildcard")
    for mirror in rule.mirror:
        if not mirror.location:
            raise DecodeError("illegal Registry Config: mirror location is empty")
        if rule.mirror_by_digest_only and mirror.pull_from_mirror:
            raise DecodeError(
                "illegal Registry Config: pull-from-mirror contradicts mirror-by-digest-only"
            )


def pull_tasks(reference: ImageReference, table: RegistriesTable) -> tuple[PullTask, ...]:
    """The places to try, in order.

    Raises:
        DecodeError: a rule blocks the image, or makes something of it that is no reference.
    """
    tasks: list[PullTask] = []
    for entry, kind in _base(reference, table.unqualified_search_registries):
        text = str(entry)
        rule, end = _longest_match(text, table.registry)
        if rule is None:
            tasks.append(PullTask(reference=entry, insecure=False, kind=kind))
        elif not rule.blocked:
            tasks += _tasks_of_rule(entry, kind, rule, text[end:])
    if not tasks:
        raise DecodeError(f"Image {reference} is blocked by registry rule.")
    return tuple(tasks)


def _base(
    reference: ImageReference, search: tuple[str, ...]
) -> list[tuple[ImageReference, TaskKind]]:
    if reference.registry != DEFAULT_REGISTRY:
        return [(reference, TaskKind.ORIGINAL)]
    entries = []
    for registry in search:
        if registry == DEFAULT_REGISTRY:
            entries.append((reference, TaskKind.UNQUALIFIED))
            continue
        short = reference.repository.removeprefix(OFFICIAL)
        tail = str(replace(reference, repository=short)).removeprefix(f"{DEFAULT_REGISTRY}/")
        entries.append((ImageReference.parse(f"{registry}/{tail}"), TaskKind.UNQUALIFIED))
    return entries


def _longest_match(text: str, rules: tuple[RegistryTable, ...]) -> tuple[RegistryTable | None, int]:
    """The rule that fits most of the text, and where its match ends; of equals the later one."""
    best, best_end = None, 0
    for rule in rules:
        end = _match(text, rule.prefix or rule.location)
        if end and end >= best_end:
            best, best_end = rule, end
    return best, best_end


def _match(text: str, prefix: str) -> int:
    """Where the match ends, or 0: at the text's start only, and followed by a boundary."""
    if not prefix.startswith(WILDCARD):
        end = len(prefix)
        return end if text.startswith(prefix) and text[end : end + 1] in AFTER_MATCH else 0
    suffix = prefix[1:]
    start = text.find(suffix, 1)
    while start > 0 and "/" not in text[:start]:
        end = start + len(suffix)
        if text[end : end + 1] in AFTER_MATCH:
            return end
        start = text.find(suffix, start + 1)
    return 0


def _tasks_of_rule(
    entry: ImageReference, kind: TaskKind, rule: RegistryTable, rest: str
) -> list[PullTask]:
    tasks = [
        PullTask(
            reference=ImageReference.parse(mirror.location + rest),
            insecure=mirror.insecure,
            kind=TaskKind.MIRROR,
        )
        for mirror in rule.mirror
        if _serves(mirror, rule, entry)
    ]
    if rule.location:
        entry = ImageReference.parse(rule.location + rest)
        kind = kind if rule.location == DEFAULT_REGISTRY else TaskKind.REMAPPED
    return [*tasks, PullTask(reference=entry, insecure=rule.insecure, kind=kind)]


def _serves(mirror: MirrorTable, rule: RegistryTable, entry: ImageReference) -> bool:
    use = "digest-only" if rule.mirror_by_digest_only else mirror.pull_from_mirror
    if use == "digest-only":
        return entry.digest is not None
    return use != "tag-only" or entry.digest is None
