"""The TPM library is built from a hashed lock, once, where this machine can."""

from pathlib import Path

import pytest

from tools import tpm_library


def test_the_lock_is_split_into_the_library_and_what_builds_it() -> None:
    text = tpm_library.LOCK.read_text()
    others, library = tpm_library.split_lock(text)
    assert library.startswith("tpm2-pytss==")
    assert library.count("==") == 1
    assert "--hash=sha256:" in library
    assert "tpm2-pytss==" not in others
    assert {"setuptools==", "setuptools-scm==", "cffi==", "pkgconfig==", "pycparser=="} <= {
        f"{line.partition('==')[0]}==" for line in others.splitlines() if "==" in line
    }


def test_what_both_locks_name_has_one_version(repository: Path) -> None:
    def pins(path: Path) -> dict[str, str]:
        lines = path.read_text().splitlines()
        return dict(line.rstrip(" \\").split("==") for line in lines if line[:1].isalnum())

    tpm = pins(tpm_library.LOCK)
    for lock in sorted((repository / "requirements").glob("py3*.txt")):
        main = pins(lock)
        assert {n: v for n, v in tpm.items() if main.get(n, v) != v} == {}, lock.name


@pytest.mark.parametrize(("ci", "status"), [(None, 0), ("true", 1)])
def test_a_machine_that_cannot_build_it_says_so_and_only_ci_fails(
    ci: str | None,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tpm_library, "why_not", lambda: "no C compiler")
    monkeypatch.setattr(tpm_library, "build_wheel", lambda: pytest.fail("must not build"))
    monkeypatch.delenv("CI", raising=False)
    if ci is not None:
        monkeypatch.setenv("CI", ci)
    assert tpm_library.install() == status
    assert "no tpm2-pytss: no C compiler" in capsys.readouterr().err


def test_nothing_is_done_when_nothing_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tpm_library, "why_not", lambda: None)
    monkeypatch.setattr(tpm_library, "STAMP", tmp_path / "stamp")
    monkeypatch.setattr(tpm_library, "WHEELHOUSE", tmp_path / "wheelhouse")
    built: list[Path] = []
    monkeypatch.setattr(tpm_library, "build_wheel", lambda: tmp_path / "a.whl")
    monkeypatch.setattr(tpm_library, "install_wheel", built.append)
    assert [tpm_library.install(), tpm_library.install()] == [0, 0]
    assert built == [tmp_path / "a.whl"]
    monkeypatch.setattr(tpm_library, "stack_version", lambda: "another")
    assert tpm_library.install() == 0
    assert len(built) == 2
