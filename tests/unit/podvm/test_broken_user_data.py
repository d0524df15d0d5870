"""The broken user data of the smoke test, given to the command itself."""

from pathlib import Path

import pytest

from guest.userdata.main import run
from podvm.probes.userdata import cases
from support.pod_vm import PodVm

WORDS = ["provision-files", "-t", "5", "--root"]


@pytest.mark.parametrize("name", cases())
def test_broken_user_data_is_refused_with_its_cause_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    data, cause = cases()[name]
    machine = PodVm(tmp_path)
    assert run([*WORDS, str(tmp_path)], {}) == 0
    before = machine.written()
    capsys.readouterr()

    machine.put_cidata(data)

    assert run([*WORDS, str(tmp_path)], {"RUST_LOG": "error"}) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("process-user-data: ")
    assert cause in said
    assert machine.written() == before


def test_init_data_of_another_digest_is_refused_for_its_digest_alone(tmp_path: Path) -> None:
    machine = PodVm(tmp_path)
    machine.put_cidata(cases()["digest"][0])

    assert run([*WORDS, str(tmp_path)], {}) == 0
    assert machine.written()["aa.toml"] == b"a = 1"
