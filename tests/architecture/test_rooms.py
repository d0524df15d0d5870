"""Who may import whom: layers, packages, doors, roots. The tables are the architecture page's."""

import ast
import sys
from typing import Final

import pytest

from support.source_tree import (
    PRODUCT,
    ROOT,
    SIMULATOR,
    Module,
    imported_names,
    imports,
    is_within,
    module_names,
    modules,
)

ROOF: Final = 9

LAYERS: Final = {
    "guest.errors": 0,
    "guest.secret": 0,
    "guest.deadline": 0,
    "guest.tee": 0,
    "guest.version": 0,
    "guest.correlation": 0,
    "guest.prepared": 0,
    "guest.wire": 1,
    "guest.jsonio": 1,
    "guest.base_url": 1,
    "guest.resource_uri": 1,
    "guest.initdata": 1,
    "guest.initdata_budget": 1,
    "guest.initdata_build": 1,
    "guest.initdata_form": 1,
    "guest.crypto": 1,
    "guest.ttrpc.frame": 1,
    "guest.ttrpc.connection": 1,
    "guest.rpc.method": 2,
    "guest.rpc.status": 2,
    "guest.protos": 2,
    "guest.rpc": 3,
    "guest.ttrpc": 3,
    "guest.aiohttp_import": 3,
    "guest.http": 3,
    "guest.http_idle": 3,
    "guest.http_roots": 3,
    "guest.process": 3,
    "guest.proxies": 3,
    "guest.retry": 3,
    "guest.single_flight": 3,
    "guest.kbs": 4,
    "guest.config": 5,
    "guest.config_tree": 5,
    "guest.cmdline": 5,
    "guest.help_text": 5,
    "guest.log": 5,
    "guest.metrics": 5,
    "guest.supervisor": 5,
    "guest.tool": 5,
    "guest.userdata": 5,
    "guest.warmup": 5,
    "guest.userdata.main": ROOF,
    "guest.cli": ROOF,
    "guest.commands": ROOF,
    "guest.__main__": ROOF,
}
"""Module or folder of `guest` to its layer; the longest prefix rules. An import never goes up."""

MAY_IMPORT: Final = {
    "guest": {"guest"},
    "attestation_agent": {"guest", "attestation_agent"},
    "cdh": {"guest", "cdh", "image_pull"},
    "image_pull": {"guest", "image_pull"},
    "api_server_rest": {"guest", "api_server_rest"},
}
"""Package to the packages of ours that it may import; the roof (`guest/cli.py`) imports all."""

SIMULATOR_MAY_IMPORT: Final = ("guest.protos", "guest.ttrpc")

DOORS: Final = {
    "Crypto": ("guest.crypto.kmac",),
    "aiohttp": (
        "guest.aiohttp_import",
        "guest.http",
        "guest.http_idle",
        "guest.metrics",
        "api_server_rest.app",
    ),
    "cryptography.x509": ("guest.crypto.x509", "image_pull.signature.fulcio"),
    "grpc": ("guest.rpc.grpc",),
    "isal": ("image_pull.layers.decompress",),
    "joserfc": ("guest.crypto.jose", "guest.crypto.recipients"),
    "oras": ("image_pull.registry.oras",),
    "prometheus_client": ("guest.metrics",),
    "pynvml": ("attestation_agent.hardware.nvml",),
    "pysequoia": ("guest.crypto.openpgp",),
    "rfc8785": ("guest.jsonio",),
    "requests": ("image_pull.registry.oras",),
    "rich": ("guest.cli", "guest.commands", "image_pull.main", "image_pull.tools", "cdh.tools"),
    "sigstore": ("image_pull.signature.requirements.keyless",),
    "tpm2_pytss": ("attestation_agent.hardware.tpm2",),
    "uvloop": ("guest.supervisor",),
    "yaml": ("guest.config", "guest.userdata.parse", "image_pull.signature"),
    "yarl": ("guest.http", "guest.http_idle", "api_server_rest.app"),
    "zstandard": ("image_pull.layers.decompress",),
}
"""Library to the only modules that import it; `rich` never reaches a daemon."""

NO_DOOR_NEEDED: Final = {"msgspec", "google", "cryptography"}

ROOTS: Final = (
    "guest.cli",
    "guest.__main__",
    "guest.userdata.main",
    "attestation_agent.main",
    "attestation_agent.tools",
    "cdh.main",
    "cdh.tools",
    "cdh.keyprovider.main",
    "image_pull.main",
    "image_pull.tools",
    "image_pull.layers.server",
    "api_server_rest.main",
)
"""Modules that read flags and environment. Only `guest.cli` imports other roots."""

ENVIRONMENT: Final = {
    "os.environ",
    "os.environb",
    "os.getenv",
    "os.getenvb",
    "sys.argv",
    "sys.orig_argv",
}


def _layer(name: str) -> int | None:
    fitting = [prefix for prefix in LAYERS if is_within(name, prefix)]
    return LAYERS[max(fitting, key=len)] if fitting else None


def _is_ours(name: str) -> bool:
    return name.split(".")[0] in PRODUCT


def _at(module: Module, line: int) -> str:
    return f"{module.path.relative_to(ROOT)}:{line}"


def test_every_module_of_guest_has_a_layer() -> None:
    packages = {m.name for m in modules("guest") if m.path.name == "__init__.py"}
    homeless = [m.name for m in modules("guest") if _layer(m.name) is None]
    assert [name for name in homeless if name not in packages] == []


def test_an_import_inside_guest_goes_down_never_up() -> None:
    wrong = []
    for module in modules("guest"):
        own = _layer(module.name)
        for target, line in imports(module.tree):
            other = _layer(target)
            if own is not None and other is not None and other > own:
                wrong.append(f"{_at(module, line)}: layer {own} imports {target} of {other}")
    assert wrong == []


def test_a_package_imports_only_the_packages_below_it() -> None:
    wrong = []
    for module in modules():
        if _layer(module.name) == ROOF and module.name.split(".")[0] == "guest":
            continue
        allowed = MAY_IMPORT[module.name.split(".")[0]]
        for target, line in imports(module.tree):
            if _is_ours(target) and target.split(".")[0] not in allowed:
                wrong.append(f"{_at(module, line)}: imports {target}")
    assert wrong == []


def test_the_product_never_imports_simulator_tests_or_tools() -> None:
    outside = {SIMULATOR, "tests", "support", "tools", "pytest", "hypothesis"}
    wrong = [
        f"{_at(module, line)}: imports {target}"
        for module in modules()
        for target, line in imports(module.tree)
        if target.split(".")[0] in outside
    ]
    assert wrong == []


def test_the_simulator_imports_only_contracts_and_ttrpc_of_ours() -> None:
    wrong = [
        f"{_at(module, line)}: imports {target}"
        for module in modules(SIMULATOR)
        for target, line in imports(module.tree)
        if _is_ours(target)
        and not any(is_within(target, allowed) for allowed in SIMULATOR_MAY_IMPORT)
    ]
    assert wrong == []


def test_conformance_tests_import_nothing_of_ours() -> None:
    wrong = []
    for path in sorted((ROOT / "tests" / "conformance").rglob("*.py")):
        module = Module(name=path.stem, path=path)
        wrong += [
            f"{_at(module, line)}: imports {target}"
            for target, line in imports(module.tree)
            if _is_ours(target) or target.split(".")[0] == SIMULATOR
        ]
    assert wrong == []


@pytest.mark.parametrize("library", sorted(DOORS))
def test_a_library_is_imported_by_its_door_alone(library: str) -> None:
    doors = DOORS[library]
    wrong = [
        f"{_at(module, line)}: imports {target}"
        for module in modules()
        if not any(is_within(module.name, door) for door in doors)
        for target, line in imported_names(module.tree)
        if is_within(target, library)
    ]
    assert sorted(set(wrong)) == []


def test_every_third_party_library_has_a_door() -> None:

    known = {library.split(".")[0] for library in DOORS} | NO_DOOR_NEEDED
    wrong = []
    for module in modules():
        for target, line in imports(module.tree):
            top = target.split(".")[0]
            if top in sys.stdlib_module_names or _is_ours(target) or top in known:
                continue
            wrong.append(f"{_at(module, line)}: imports {target}")
    assert wrong == []


def test_only_roots_read_the_environment_and_the_command_line() -> None:
    wrong = []
    for module in modules():
        if module.name in ROOTS or is_within(module.name, "guest.commands"):
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ENVIRONMENT:
                wrong.append(f"{_at(module, node.lineno)}: {ast.unparse(node)}")
        for target, line in imported_names(module.tree):
            if target in ENVIRONMENT:
                wrong.append(f"{_at(module, line)}: {target}")
    assert wrong == []


def test_only_guest_cli_imports_roots() -> None:
    wrong = [
        f"{_at(module, line)}: imports the root {target}"
        for module in modules()
        if _layer(module.name) != ROOF or not module.name.startswith("guest.")
        for target, line in imports(module.tree)
        if target in ROOTS and target != module.name
    ]
    assert wrong == []


def test_the_tables_name_what_exists_or_will() -> None:
    """A row whose module moved away is a rule that rules nothing."""
    tops = {name.split(".")[0] for name in module_names()}
    rows = [*LAYERS, *ROOTS, *(door for doors in DOORS.values() for door in doors)]
    assert [row for row in rows if row.split(".")[0] not in tops] == []


def test_no_import_is_only_for_the_type_checker() -> None:
    wrong = [
        _at(module, node.lineno)
        for module in modules(*PRODUCT, SIMULATOR)
        for node in ast.walk(module.tree)
        if (isinstance(node, ast.Name) and node.id == "TYPE_CHECKING")
        or (isinstance(node, ast.Attribute) and node.attr == "TYPE_CHECKING")
    ]
    assert wrong == []
