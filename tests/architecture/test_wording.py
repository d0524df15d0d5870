"""What must not stand in a file of the repository: registry hosts, one machine's paths."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from support.source_tree import ROOT, parse, tracked_files
from tools import checklist

FORBIDDEN: Final = (
    re.compile(rb"py" + rb"pi\.org"),
    re.compile(rb"files\.python" + rb"hosted"),
    re.compile(rb"registry\.npm" + rb"js"),
    re.compile(rb"index" + rb"\.crates\.io|static" + rb"\.crates\.io"),
    re.compile(rb"proxy\.go" + rb"lang"),
    re.compile(rb"\.py" + rb"env\b"),
    re.compile(rb"\.\./sha" + rb"red\b"),
    re.compile(rb"(?:^|[\s\"'`(=:,<])/wo" + rb"rk(?:/|[\s\"'`)>,]|$)", re.MULTILINE),
    re.compile(rb"/ro" + rb"ot/\.(?:py|cache|local)"),
)

CONFLICT: Final = re.compile(rb"^(?:<{7} |>{7} )", re.MULTILINE)


def test_no_file_names_a_registry_host_or_a_machine_path() -> None:
    wrong = []
    for path in tracked_files():
        content = path.read_bytes()
        for pattern in FORBIDDEN:
            match = pattern.search(content)
            if match is not None:
                line = content.count(b"\n", 0, match.start() + 1) + 1
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {match[0]!r}")
    assert wrong == []


def test_no_file_holds_a_merge_conflict() -> None:
    assert [str(path) for path in tracked_files() if CONFLICT.search(path.read_bytes())] == []


def _spec_marks(path: Path) -> Iterator[tuple[object, list[object]]]:
    """The page and the numbers of every spec mark that is written out, not computed."""
    calls = [node for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]
    for call in calls:
        literal = all(isinstance(argument, ast.Constant) for argument in call.args)
        if literal and ast.unparse(call.func).endswith("mark.spec"):
            page, *numbers = (ast.literal_eval(argument) for argument in call.args)
            yield page, numbers


def test_spec_marks_name_checks_that_exist() -> None:
    pages: dict[object, set[int]] = {p.name: set(p.checks) for p in checklist.load_pages()}
    wrong = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for page, numbers in _spec_marks(path):
            if not numbers or not set(numbers) <= pages.get(page, set()):
                wrong.append(f"{path.relative_to(ROOT)}: {page} {numbers}")
    assert wrong == []
