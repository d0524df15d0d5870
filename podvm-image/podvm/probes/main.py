"""The probes of each scenario, in their order."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from podvm.probes import sandbox, services, storage, system
from podvm.probes.report import expected, probe, say

Probe = tuple[str, Callable[[], str]]

SCENARIOS: Final[Mapping[str, Sequence[Probe]]] = {
    "cloud": (
        ("S19", system.services_up),
        ("S1", system.verified_root),
        ("S3", system.registers),
        ("S5", system.user_files),
        ("S6", system.init_data),
        ("memory", system.sizes),
        ("S11", system.no_failed_unit),
        ("S13", system.listeners),
        ("S15", system.configfs),
        ("S8", services.rest_answers),
        ("S8.token", services.token_accepted),
        ("S9.secret", services.unsealed),
        ("S9.image", services.pulled),
        ("S9.volume", services.volume_created),
        ("S17", services.foreign_authority_refused),
        ("security", system.security_scores),
        ("S14.agent", sandbox.agent_confined),
        ("S14.rest", sandbox.rest_confined),
        ("S10.kill", services.restarted),
        ("S10.term", services.with_debug_logs),
        ("S8.debug", services.rest_answers),
        ("S9.debug", services.unsealed),
        ("S7", services.accepts_at_once),
        ("S12", system.byte_code),
        ("S20", system.journal_clean),
        ("S11.end", system.no_failed_unit),
    ),
    "disk": (
        ("S19", system.services_up),
        ("S5", system.user_files),
        ("S6", system.init_data),
        ("S16", storage.scratch),
        ("S9.again", services.volume_found_again),
        ("S9.edited", services.volume_edited),
        ("S20", system.journal_clean),
        ("S11", system.no_failed_unit),
    ),
    "plain": (
        ("S19", system.services_up),
        ("S3", system.registers),
        ("S4", system.init_data),
        ("S8", services.rest_answers),
        ("S11", system.no_failed_unit),
    ),
}


def main() -> None:
    """Run the scenario that the host asks for."""
    name = str(expected()["scenario"])
    say(f"SMOKE-START {name}")
    for identifier, work in SCENARIOS[name]:
        probe(identifier, work)
