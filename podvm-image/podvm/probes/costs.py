"""Probe of processor time: imports, and starts of the three services.

Source: docs/spec/podvm-image.md 17, S12; docs/ARCHITECTURE.md 5.
"""

import contextlib
import resource
import subprocess
from collections.abc import Callable
from typing import Final

from guest.errors import GuestError
from guest.protos.aa_pb2 import GetTeeTypeRequest
from guest.protos.cdh_pb2 import GetResourceRequest
from guest.protos.methods import GET_RESOURCE, GET_TEE_TYPE
from podvm.probes.report import (
    SOCKETS,
    cpu_seconds,
    demand,
    listens,
    process,
    run,
    wait_active,
    wait_for,
)
from podvm.probes.services import call, fetch

IMPORTS: Final = 20.0
"""Times the processor time of `python3 -I -c pass`: the budget of imports. Measured are 8 to 13."""

LISTENS: Final = 15.0
"""The same, of a start up to its socket."""

ANSWERS: Final = 40.0
"""The same, up to a first answer."""

ROUNDS: Final = 5
"""Runs of either program, in turn, of which the least counts."""

PYTHON: Final = "/opt/coco/bin/python3"


def _agent_answers() -> None:
    call(GET_TEE_TYPE, GetTeeTypeRequest(), socket=SOCKETS["attestation-agent"])


def _hub_answers() -> None:
    with contextlib.suppress(GuestError):  # no such resource: an answer all the same
        call(GET_RESOURCE, GetResourceRequest(ResourcePath="kbs:///default/key/1"))


def _shim_answers() -> None:
    status, body = fetch("/info")
    demand(status == 200, f"/info: {status} {body[:200]}")


SERVICES: Final[dict[str, tuple[str, Callable[[], None]]]] = {
    "attestation-agent": ("attestation_agent.main", _agent_answers),
    "confidential-data-hub": ("cdh.main", _hub_answers),
    "api-server-rest": ("api_server_rest.main", _shim_answers),
}
"""By unit: its main module, and a first question."""


def compare(work: str) -> tuple[float, float]:
    """Processor seconds of the empty Python program, and of another one."""
    runs = [(python_seconds("pass"), python_seconds(work)) for _ in range(ROUNDS)]
    return min(base for base, _ in runs), min(other for _, other in runs)


def python_seconds(work: str) -> float:
    """Processor seconds of a Python program."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([PYTHON, "-I", "-c", work], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def starts() -> str:
    """Imports are within their budget.

    What a start takes is told, not judged: it has systemd's own work in it, and in an emulated
    guest the translation of code that runs for the first time.
    """
    parts = []
    for name, (module, ask) in SERVICES.items():
        base, importing = compare(f"import {module}")
        imports = importing / base
        demand(imports <= IMPORTS, f"imports of {module}: {imports:.1f}x of {base:.2f} s")
        listening, answered = _start(name, ask)
        times = f"{imports:.1f}x {listening / base:.1f}x {answered / base:.1f}x of {base:.2f} s"
        parts.append(f"{name} {times}")
    bars = f"imports, listens, answers; bars {LISTENS:.0f}x/{ANSWERS:.0f}x of starts told only"
    return f"{', '.join(parts)}: {bars}"


def _start(name: str, ask: Callable[[], None]) -> tuple[float, float]:
    """Processor seconds of a new start up to its socket, and up to an answer."""
    before = process(name)
    run(["systemctl", "restart", "--no-block", name])
    wait_for(name, lambda: process(name) not in ("", before) and listens(name), 200, poll=0.05)
    listening = cpu_seconds(process(name))
    wait_active(name, 200)
    ask()
    return listening, cpu_seconds(process(name))
