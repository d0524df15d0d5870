"""What a daemon imports before its socket has its name: no heavy library, no class made slowly."""

import json
import subprocess
import sys
from typing import Final

import pytest

from support.source_tree import ROOT, module_names

HEAVY: Final = (
    "aiohttp",
    "cryptography.x509",
    "google.protobuf.json_format",
    "grpc",
    "isal",
    "joserfc",
    "prometheus_client",
    "rich",
    "tpm2_pytss",
    "uvloop",
    "yaml",
    "zstandard",
)

ROOTS: Final = (
    "attestation_agent.main",
    "api_server_rest.main",
    "cdh.main",
    "guest.cli",
)

SCRIPT: Final = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
print(json.dumps(sorted(sys.modules)))
"""

STARTS: Final = (
    ("attestation_agent.main", "attestation_agent.attesters.tpm"),
    ("attestation_agent.main", "attestation_agent.attesters.tdx"),
    ("attestation_agent.main", "attestation_agent.attesters.snp"),
    ("attestation_agent.main", "attestation_agent.attesters.az_snp_vtpm"),
    ("attestation_agent.main", "attestation_agent.attesters.az_tdx_vtpm"),
    ("cdh.main", "cdh.kms.cache", "cdh.kms.late", "cdh.kms.offline_fs"),
    ("api_server_rest.main",),
)
"""A root, and what else it imports before it listens, as the guest or the configuration is."""

DATACLASSES: Final = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
found = [
    f"{name}.{kind.__name__}"
    for name, module in sys.modules.items()
    if name.split(".")[0] in ("attestation_agent", "cdh", "guest", "image_pull")
    for kind in vars(module).values()
    if isinstance(kind, type) and kind.__module__ == name
    if "__dataclass_fields__" in vars(kind)
]
print(json.dumps(found))
"""


def _output(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("modules", STARTS)
def test_values_that_a_start_needs_are_structs_not_dataclasses(modules: tuple[str, ...]) -> None:
    """Making a dataclass compiles code: as much time as 15 structs take."""
    assert json.loads(_output(DATACLASSES, *modules)) == []


@pytest.mark.parametrize("root", ROOTS)
def test_importing_a_root_loads_no_heavy_library(root: str) -> None:
    if root not in module_names():
        pytest.skip(f"{root} is not built yet")
    loaded = set(json.loads(_output(SCRIPT, root).splitlines()[-1]))
    assert sorted(loaded & set(HEAVY)) == []
