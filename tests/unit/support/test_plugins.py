"""The gates and the checklist recorder, seen from outside: a pytest run of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = """
import pytest

@pytest.mark.spec("page", 1, 2)
def test_passes(): pass

@pytest.mark.spec("page", 2)
def test_fails(): assert False

@pytest.mark.spec("page", 3)
@pytest.mark.umoci
def test_gives_up(): pytest.skip("no mood")
"""

CONFIG = "[pytest]\nmarkers =\n    spec: x\n    umoci: x\n"


def run_pytest(folder: Path, repository: Path, *, ci: bool, tools: bool) -> dict[str, object]:
    """Run the source above; give the record."""
    (folder / "pytest.ini").write_text(CONFIG)
    (folder / "test_source.py").write_text(SOURCE)
    programs = folder / "bin"
    programs.mkdir()
    if tools:
        (programs / "umoci").write_text("#!/bin/sh\n")
        (programs / "umoci").chmod(0o755)
    environment = {"PYTHONPATH": str(repository / "tests"), "PATH": str(programs)}
    if ci:
        environment["CI"] = "true"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "support.gates", "-p", "no:xdist"]
    command += ["-p", "support.checklist", "-p", "no:cacheprovider", "--checklist", "record.json"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1, done.stdout + done.stderr
    record: dict[str, object] = json.loads((folder / "record.json").read_text())
    return record


def checks(record: dict[str, object]) -> dict[str, list[str]]:
    """Number to the outcomes noted for it."""
    noted = record["checks"]
    assert isinstance(noted, dict)
    return {number: sorted(outcomes) for number, outcomes in noted["page"].items()}


def test_the_record_tells_passed_failed_and_skipped(tmp_path: Path, repository: Path) -> None:
    record = run_pytest(tmp_path, repository, ci=False, tools=True)
    assert checks(record) == {"1": ["passed"], "2": ["failed", "passed"], "3": ["skipped"]}
    assert record["skipped"] == {"no mood": 1}


def test_a_closed_gate_is_a_skip_with_its_reason(tmp_path: Path, repository: Path) -> None:
    record = run_pytest(tmp_path, repository, ci=True, tools=False)
    assert checks(record)["3"] == ["skipped"]
    assert record["skipped"] == {"[umoci] no umoci (Debian package umoci)": 1}


def test_in_ci_a_skip_behind_an_open_gate_is_a_failure(tmp_path: Path, repository: Path) -> None:
    record = run_pytest(tmp_path, repository, ci=True, tools=True)
    assert checks(record)["3"] == ["failed"]
    assert record["skipped"] == {}


DOCUMENTS_SOURCE = """
import pytest

@pytest.mark.spec("page", 1, built=True)
def test_reads(documents):
    expected = b"real" if documents.are_real else b"built"
    assert documents.get("folder/a.bin", lambda: b"built") == expected

@pytest.mark.spec("page", 2, built=True)
def test_reads_another(documents):
    documents.get("b.bin", lambda: b"built")

@pytest.mark.spec("page", 3)
def test_reads_none(): pass
"""


@pytest.mark.parametrize("has_files", [False, True])
def test_the_record_tells_what_was_proven_on_built_data(
    tmp_path: Path, repository: Path, has_files: bool
) -> None:
    (tmp_path / "pytest.ini").write_text(CONFIG)
    (tmp_path / "test_source.py").write_text(DOCUMENTS_SOURCE)
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "real" / "deep" / "a.bin").write_bytes(b"real")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "support.documents", "-p", "no:xdist"]
    command += ["-p", "support.checklist", "-p", "no:cacheprovider", "--checklist", "record.json"]
    if has_files:
        command += ["--real-documents", "real"]
    environment = {"PYTHONPATH": str(repository / "tests"), "PATH": os.defpath}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["built"] == ({} if has_files else {"page": [1, 2]})
    second = ["skipped"] if has_files else ["passed"]
    assert checks(record) == {"1": ["passed"], "2": second, "3": ["passed"]}


def test_a_short_directory_is_short(short_tmp: Path) -> None:
    assert len(os.fsencode(short_tmp)) <= 30
    assert short_tmp.is_dir()


@pytest.mark.parametrize("name", ["default"])
def test_hypothesis_has_no_deadline_on_busy_cores(name: str) -> None:
    from hypothesis import settings

    assert settings.get_profile(name).deadline is None
