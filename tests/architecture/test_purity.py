"""Sans-I/O modules do no I/O, know no clock and no chance, and say what they are."""

import ast
from typing import Final

import pytest

from support.source_tree import (
    ROOT,
    Module,
    imported_names,
    imports,
    is_within,
    module_names,
    modules,
)

FORBIDDEN: Final = (
    "asyncio",
    "concurrent",
    "ctypes",
    "fcntl",
    "http",
    "logging",
    "mmap",
    "multiprocessing",
    "os",
    "random",
    "secrets",
    "select",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "sys",
    "tempfile",
    "threading",
    "time",
    "urllib.request",
    "pathlib.Path",
    "uuid.uuid1",
    "uuid.uuid4",
    "aiohttp",
    "grpc",
)

FORBIDDEN_CALLS: Final = {"open", "print", "input", "datetime.now", "datetime.utcnow", "date.today"}

PURE_ENOUGH: Final = (
    "guest.crypto",
    "guest.deadline",
    "guest.errors",
    "guest.prepared",
    "guest.protos",
    "guest.secret",
    "guest.tee",
)
"""What sans-I/O modules of ours may import although it does not say "Sans-I/O." itself."""

MUST_SAY_SO: Final = (
    "guest.wire",
    "guest.jsonio",
    "guest.resource_uri",
    "guest.initdata",
    "guest.rpc.status",
    "guest.rpc.address",
    "guest.ttrpc.frame",
    "guest.ttrpc.connection",
    "guest.kbs.messages",
    "guest.kbs.handshake",
    "guest.kbs.token",
    "guest.userdata.parse",
    "attestation_agent.evidence",
    "attestation_agent.eventlog.entry",
    "attestation_agent.eventlog.tcg2",
    "attestation_agent.eventlog.replay",
    "attestation_agent.tokens.as_messages",
    "attestation_agent.reports.tdx",
    "attestation_agent.reports.snp",
    "attestation_agent.reports.csv",
    "attestation_agent.reports.hygon_dcu",
    "attestation_agent.reports.sgx",
    "attestation_agent.reports.hcl",
    "attestation_agent.reports.tpm",
    "attestation_agent.reports.azure",
    "attestation_agent.eventlog.pcr_log",
    "attestation_agent.default_register",
    "cdh.secrets.sealed",
    "cdh.keyprovider.packet",
    "cdh.kms.members",
    "cdh.kms.answers",
    "cdh.kms.aws.api",
    "cdh.kms.aws.settings",
    "cdh.kms.aws.sigv4",
    "cdh.kms.ehsm.protocol",
    "cdh.kms.ehsm.settings",
    "cdh.kms.aliyun.documents",
    "cdh.kms.aliyun.instance",
    "cdh.kms.aliyun.openapi",
    "cdh.kms.aliyun.recipient",
    "cdh.kms.aliyun.refusals",
    "cdh.kms.aliyun.settings",
    "image_pull.reference",
    "image_pull.manifest",
    "image_pull.registry.auth",
    "image_pull.registry.mirrors",
    "image_pull.layers.verify",
    "image_pull.layers.tar",
    "image_pull.layers.rules",
    "image_pull.ocicrypt.annotations",
    "image_pull.ocicrypt.protocol",
    "image_pull.signature.policy",
    "image_pull.signature.payload",
    "api_server_rest.injection",
    "api_server_rest.query",
)
"""The modules that the architecture page marks S; each is checked once it exists."""

SANS_IO: Final = tuple(module for module in modules() if module.is_sans_io)


def _is_declaration(node: ast.AST) -> bool:
    """A contract's method: `async def` with a docstring or `...` for a body."""
    return isinstance(node, ast.AsyncFunctionDef) and all(
        isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) for part in node.body
    )


def test_the_modules_that_must_be_sans_io_say_so() -> None:
    existing = [module for module in modules() if module.name in MUST_SAY_SO]
    assert [module.name for module in existing if not module.is_sans_io] == []


@pytest.mark.parametrize("module", SANS_IO, ids=lambda module: module.name)
def test_a_sans_io_module_imports_and_calls_nothing_that_does_io(module: Module) -> None:
    where = module.path.relative_to(ROOT)
    wrong = [
        f"{where}:{line}: {target}"
        for target, line in imported_names(module.tree)
        if any(is_within(target, name) for name in FORBIDDEN)
    ]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in FORBIDDEN_CALLS:
            wrong.append(f"{where}:{node.lineno}: calls {ast.unparse(node.func)}")
        if isinstance(node, ast.AsyncFunctionDef | ast.Await) and not _is_declaration(node):
            wrong.append(f"{where}:{node.lineno}: is asynchronous")
    assert wrong == []


@pytest.mark.parametrize("module", SANS_IO, ids=lambda module: module.name)
def test_a_sans_io_module_imports_only_such_modules_of_ours(module: Module) -> None:
    pure = {m.name for m in SANS_IO}
    wrong = [
        f"{module.path.relative_to(ROOT)}:{line}: {target} is not sans-I/O"
        for target, line in imports(module.tree)
        if target in module_names()
        and target not in pure
        and not any(is_within(target, name) for name in PURE_ENOUGH)
    ]
    assert wrong == []
