"""Sizes, docstrings and the forms of module level that every module keeps to."""

import ast
from collections.abc import Iterator
from typing import Final

from support.source_tree import PRODUCT, ROOT, SIMULATOR, Module, modules, parse

MODULE_LINES: Final = 400
FUNCTION_LINES: Final = 40
"""Lines of a function from `def` to its end, its docstring and blank lines not counted."""

OURS: Final = (*PRODUCT, SIMULATOR)
Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)


def _functions(module: Module) -> Iterator[Function]:
    for node in ast.walk(module.tree):
        if isinstance(node, FUNCTIONS):
            yield node


def _code_lines(node: Function, source: list[str]) -> int:
    lines = set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        lines -= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return sum(1 for line in lines if source[line - 1].strip())


def test_no_module_is_longer_than_four_hundred_lines() -> None:
    paths = [module.path for module in modules(*OURS)]
    for folder in ("tools", "tests"):
        paths += sorted((ROOT / folder).rglob("*.py"))
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in paths}
    assert {name: count for name, count in lengths.items() if count > MODULE_LINES} == {}


def test_no_function_is_longer_than_forty_lines() -> None:
    wrong = []
    for module in modules(*OURS):
        source = module.path.read_text("utf-8").splitlines()
        for node in _functions(module):
            count = _code_lines(node, source)
            if count > FUNCTION_LINES:
                where = f"{module.path.relative_to(ROOT)}:{node.lineno}"
                wrong.append(f"{where}: {node.name} has {count} lines")
    assert wrong == []


def _public(body: list[ast.stmt]) -> Iterator[Function | ast.ClassDef]:
    for node in body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_"):
            marks = {ast.unparse(decorator).split(".")[-1] for decorator in node.decorator_list}
            if not marks & {"overload", "setter", "override"}:
                yield node
            if isinstance(node, ast.ClassDef):
                yield from _public(node.body)


def test_every_module_and_public_name_has_a_docstring() -> None:
    wrong = []
    for module in modules(*OURS):
        where = module.path.relative_to(ROOT)
        if not module.docstring and module.path.read_text("utf-8").strip():
            wrong.append(f"{where}: the module")
        for node in _public(module.tree.body):
            if ast.get_docstring(node) is None:
                wrong.append(f"{where}:{node.lineno}: {node.name}")
    assert wrong == []


def _is_type_alias(node: ast.Assign) -> bool:
    makers = {"NewType", "ParamSpec", "TypeVar", "TypeVarTuple"}
    if isinstance(node.value, ast.Call) and ast.unparse(node.value.func) in makers:
        return True
    return not isinstance(node.value, ast.Call) and all(
        isinstance(target, ast.Name) and target.id[:1].isupper() and not target.id.isupper()
        for target in node.targets
    )


def test_nothing_mutable_lives_at_module_level() -> None:
    """Constants are `Final`; a logger, a type variable and a type alias need no annotation."""
    wrong = []
    for module in modules():
        for node in module.tree.body:
            where = f"{module.path.relative_to(ROOT)}:{node.lineno}"
            if isinstance(node, ast.AugAssign):
                wrong.append(f"{where}: changes a module's name")
            elif isinstance(node, ast.AnnAssign):
                kind = ast.unparse(node.annotation).split("[")[0].split(".")[-1]
                if kind not in {"Final", "TypeAlias"}:
                    wrong.append(f"{where}: {ast.unparse(node.target)} is not Final")
            elif isinstance(node, ast.Assign):
                names = [ast.unparse(target) for target in node.targets]
                if names != ["log"] and not _is_type_alias(node):
                    wrong.append(f"{where}: {', '.join(names)} is not Final")
    assert wrong == []


def test_no_function_rebinds_a_global_name() -> None:
    wrong = [
        f"{module.path.relative_to(ROOT)}:{node.lineno}"
        for module in modules(*OURS)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Global)
    ]
    assert wrong == []


def test_no_module_reexports() -> None:
    wrong = []
    for module in modules(*OURS):
        text = module.path.read_text("utf-8")
        if "__all__" in text:
            wrong.append(f"{module.path.relative_to(ROOT)}: __all__")
        if module.path.name != "__init__.py":
            continue
        used = {n.id for n in ast.walk(module.tree) if isinstance(n, ast.Name)}
        for node in module.tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    name = (alias.asname or alias.name).split(".")[0]
                    if name not in used:
                        wrong.append(f"{module.path.relative_to(ROOT)}:{node.lineno}: {name}")
    assert wrong == []


def test_tasks_are_born_in_a_task_group() -> None:
    """No `asyncio.create_task`, `ensure_future` or `gather`, and nothing forks behind a loop."""
    banned = {
        "asyncio.create_task",
        "asyncio.ensure_future",
        "asyncio.gather",
        "loop.create_task",
        "asyncio.get_event_loop",
        "multiprocessing.Process",
    }
    wrong = [
        f"{module.path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node.func)}"
        for module in modules(*OURS)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in banned
    ]
    assert wrong == []


def test_a_type_ignore_names_its_code_and_gives_a_reason() -> None:
    wrong = []
    for module in modules(*OURS):
        for number, line in enumerate(module.path.read_text("utf-8").splitlines(), 1):
            _, found, rest = line.partition("# type: " + "ignore")
            if found and not (rest.startswith("[") and "  # " in rest):
                wrong.append(f"{module.path.relative_to(ROOT)}:{number}")
    assert wrong == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    banned = {"utils", "helpers", "common", "misc", "manager"}
    names = [module.name for module in modules(*OURS)]
    assert [name for name in names if banned & set(name.split("."))] == []


def test_every_test_module_parses_and_has_unique_functions() -> None:
    wrong = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        names = [node.name for node in parse(path).body if isinstance(node, FUNCTIONS)]
        wrong += [f"{path}: {name}" for name in sorted(set(names)) if names.count(name) > 1]
    assert wrong == []
