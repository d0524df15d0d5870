"""What a daemon imports before its socket has its name: the heavy libraries are not among it."""

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


@pytest.mark.parametrize("root", ROOTS)
def test_importing_a_root_loads_no_heavy_library(root: str) -> None:
    if root not in module_names():
        pytest.skip(f"{root} is not built yet")
    done = subprocess.run(
        [sys.executable, "-I", "-c", SCRIPT, root],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert sorted(loaded & set(HEAVY)) == []
