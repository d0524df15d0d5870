"""The resource policy: a callable, with the usual ones at hand. Sans-I/O.

Source: docs/spec/kbs-protocol.md §12 (resource policy input), §13.5.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """One request, as a policy sees it.

    Attributes:
        claims: all claims of the token.
        plugin: `resource` or another plugin's name.
        path: the segments after it.
        query: the query string's members.
    """

    claims: Mapping[str, object]
    plugin: str
    path: tuple[str, ...]
    query: Mapping[str, str]


ResourcePolicy = Callable[[Access], bool]


def allow_all(access: Access) -> bool:
    """Everything, to every valid token."""
    return True


def deny_all(access: Access) -> bool:
    """Nothing."""
    return False


def allow_repositories(*repositories: str) -> ResourcePolicy:
    """Resources of these repositories only."""

    def policy(access: Access) -> bool:
        return access.plugin == "resource" and access.path[:1] in [(r,) for r in repositories]

    return policy


def trustee_default(access: Access) -> bool:
    """Trustee's own: plugin `resource`, unless the evidence is the sample attester's."""
    return access.plugin == "resource" and "sample" not in _evidence(access.claims, "cpu0")


def affirming(access: Access) -> bool:
    """Plugin-independent: at least one appraisal, and all of them affirming."""
    submods = access.claims.get("submods")
    if not isinstance(submods, Mapping) or not submods:
        return False
    return all(
        isinstance(submod, Mapping) and submod.get("ear.status") == "affirming"
        for submod in submods.values()
    )


def _evidence(claims: Mapping[str, object], submod: str) -> Mapping[str, object]:
    value: object = claims
    for step in ("submods", submod, "ear.veraison.annotated-evidence"):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}
