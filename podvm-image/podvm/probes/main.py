"""The probes of each scenario, in their order."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from podvm.probes import costs, failures, sandbox, services, storage, system, timing, userdata
from podvm.probes.report import expected, probe, say

Probe = tuple[str, Callable[[], str]]

SCENARIOS: Final[Mapping[str, Sequence[Probe]]] = {
    "cloud": (
        ("S19", system.services_up),
        ("S1", system.verified_root),
        ("S3", system.registers),
        ("S5", system.user_files),
        ("S6", system.init_data),
        ("policy", system.kata_policy),
        ("memory", system.sizes),
        ("S11", system.no_failed_unit),
        ("S13", system.listeners),
        ("writable", system.nothing_persistent),
        ("S15", system.configfs),
        ("clock", system.clock),
        ("late.refused", failures.refused_without_broker),
        ("late.comes", failures.broker_comes),
        ("S8", services.rest_answers),
        ("S8.token", services.token_accepted),
        ("S9.secret", services.unsealed),
        ("S9.image", services.pulled),
        ("S9.volume", services.volume_created),
        ("S17", services.foreign_authority_refused),
        ("S17.name", services.pulled_by_name),
        ("security", system.security_scores),
        ("verify", system.units_verified),
        ("S14.agent", sandbox.agent_confined),
        ("S14.rest", sandbox.rest_confined),
        ("S10.kill", timing.restarted),
        ("S10.term", timing.with_debug_logs),
        ("S8.debug", services.rest_answers),
        ("S8.token.debug", services.token_accepted),
        ("S9.debug", services.unsealed),
        ("S6.again", system.measured_once),
        ("S12", system.byte_code),
        ("S20", system.journal_clean),
        ("S11.end", system.no_failed_unit),
        ("crashes", system.no_crash),
    ),
    "disk": (
        ("late.credentials", failures.credentials_late),
        ("S19", system.services_up),
        ("S5", system.user_files),
        ("S6", system.init_data),
        ("S16", storage.scratch),
        ("full", failures.disk_full),
        ("S9.again", services.volume_found_again),
        ("S9.edited", services.volume_edited),
        ("S20", system.journal_clean),
        ("S11", system.no_failed_unit),
        ("crashes", system.no_crash),
    ),
    "plain": (
        ("S19", system.services_up),
        ("S19.answer", services.first_answer),
        ("S3", system.registers),
        ("S4", system.init_data),
        ("S8", services.rest_answers),
        ("chart", system.boot_chart),
        ("S12.starts", costs.starts),
        ("load", failures.killed_under_load),
        ("S7", timing.accepts_at_once),
        ("S11", system.no_failed_unit),
        ("crashes", system.no_crash),
        ("bad.data", userdata.broken_refused),
    ),
}


def main() -> None:
    """Run the scenario that the host asks for."""
    name = str(expected()["scenario"])
    say(f"SMOKE-START {name}")
    for identifier, work in SCENARIOS[name]:
        probe(identifier, work)
