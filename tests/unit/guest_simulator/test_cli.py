"""The command: what it prints, leaves on disk and answers."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from guest_simulator.cli import main
from guest_simulator.state import StateError, open_state, read_resources


@contextmanager
def running(repository: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    command = [sys.executable, "-m", "guest_simulator.cli", "up", "--json", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(repository / "simulator")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def test_up_serves_until_it_is_told_to_stop(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "default" / "key").mkdir(parents=True)
    (tmp_path / "in" / "default" / "key" / "1").write_bytes(b"secret")
    state = tmp_path / "state"
    arguments = ("--state", str(state), "--resources", str(tmp_path / "in"))
    with running(repository, *arguments) as (process, described):
        assert described["ca"] is None
        token = Path(described["admin_token"]).read_text()
        request = urllib.request.Request(
            f"{described['kbs']}/kbs/v0/resource/default/key/2",
            data=b"two",
            headers={"Authorization": f"Bearer {token}"},
        )
        with urllib.request.urlopen(request, timeout=20) as response:
            assert response.status == 200
        with urllib.request.urlopen(described["registry_url"] + "/v2/", timeout=20) as response:
            assert response.status == 200
        stats = described["kbs"] + "/_simulator/stats"
        with urllib.request.urlopen(stats, timeout=20) as response:
            assert json.load(response)["requests"] == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    stored = sorted(path.name for path in (state / "repository").iterdir())
    assert stored == ["default\\x2Fkey\\x2F1", "default\\x2Fkey\\x2F2"]
    assert (state / "admin-key.pem").stat().st_mode & 0o777 == 0o600
    assert (state / "admin-token").stat().st_mode & 0o777 == 0o600


def test_up_with_tls_names_its_authority(repository: Path) -> None:
    with running(repository, "--tls") as (process, described):
        assert described["kbs"].startswith("https://")
        assert Path(described["ca"]).read_text().startswith("-----BEGIN CERTIFICATE")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert not Path(described["state"]).exists()


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["up", "--kbs-port", "65536"], ["up", "--kbs-port", "x"], ["up", "--unknown"],
     ["up", "--admin", "nobody"], ["up", "--hash-algorithm", "md5"]],
)  # fmt: skip
def test_a_wrong_command_line_is_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_help_tells_of_everything(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["up", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for word in ("--state", "--policy", "--registry-auth", "_simulator/faults", "Exit status"):
        assert word in text


@pytest.mark.parametrize(
    ("option", "name", "content"),
    [
        ("--policy", "policy.rego", "nonsense"),
        ("--policy", "missing", None),
        ("--registry-users", "users", "no colon"),
        ("--registry-users", "missing", None),
        ("--resources", "missing", None),
        ("--state", "file", "not a directory"),
        ("--trust", "nothing", None),
    ],
)
def test_what_cannot_start_says_why_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    name: str,
    content: str | None,
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    assert main(["up", option, str(path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("guest-simulator: ")
    assert (error.count("\n"), str(path) in error) == (1, True)


def test_a_resource_with_a_bad_name_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "only-one-segment").write_bytes(b"")
    assert main(["up", "--resources", str(tmp_path)]) == 1
    assert "repository/type/tag" in capsys.readouterr().err
    assert read_resources(tmp_path) == {"only-one-segment": b""}


def test_a_port_in_use_is_an_error(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(repository) as (_, described):
        port = described["kbs"].rpartition(":")[2]
        assert main(["up", "--kbs-port", port]) == 1
    assert "cannot listen" in capsys.readouterr().err


def test_the_image_command_writes_a_layout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "layout"
    assert main(["image", str(out), "--tag", "demo", "--files", "3"]) == 0
    digest = capsys.readouterr().out.strip()
    listed = json.loads((out / "index.json").read_bytes())["manifests"]
    assert [entry["digest"] for entry in listed] == [digest]


def test_state_is_kept_and_a_wrong_key_refused(tmp_path: Path) -> None:
    first, second = open_state(tmp_path), open_state(tmp_path)
    assert first.admin_key.private_bytes_raw() == second.admin_key.private_bytes_raw()
    (tmp_path / "admin-key.pem").write_bytes((tmp_path / "token-signer.pem").read_bytes())
    with pytest.raises(StateError):
        open_state(tmp_path)
