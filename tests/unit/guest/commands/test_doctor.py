"""`guest doctor` and `guest config check` say what is there and what is wrong."""

import asyncio
import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from guest.cli import main
from guest.commands import doctor
from support.agents import agent_process
from support.kbs_hub import hub_world


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch: pytest.MonkeyPatch, short_tmp: Path) -> None:
    monkeypatch.setattr(doctor, "FOLDERS", (short_tmp,))
    monkeypatch.setattr(doctor, "harden", lambda: None)
    monkeypatch.setenv("AA_TPM_DEVICE", "/dev/no-tpm")
    for name in ("AA_KBC_PARAMS", "AA_SOCKET", "RUST_LOG"):
        monkeypatch.delenv(name, raising=False)


def examine(
    capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, dict[str, tuple[str, str]]]:
    """Exit status, and what was found: name to state and text."""
    status = main(["doctor", "--json", *words])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return status, {line["what"]: (line["state"], line["text"]) for line in lines}


def test_where_nothing_is_everything_missing_is_named(
    short_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (short_tmp / "cdh.toml").write_text(
        f'socket = "unix://{short_tmp}/cdh.sock"\n'
        '[kbc]\nname = "cc_kbc"\nurl = "http://user:pass@127.0.0.1:1"\n'
    )
    (short_tmp / "aa.toml").write_text('[attester]\ntee = "wrong"\n')
    status, found = examine(capsys, "--attestation-sock", f"unix://{short_tmp}/aa.sock")
    assert status == 1
    assert found["configuration aa.toml"][0] == "wrong"
    assert "attester.tee" in found["configuration aa.toml"][1]
    assert found["configuration cdh.toml"] == ("ok", f"{short_tmp}/cdh.toml is valid")
    for what in ("attestation agent at", "data hub at", "KBS at 127.0.0.1:1"):
        (state,) = [state for name, (state, _) in found.items() if name.startswith(what)]
        assert state == "wrong"
    assert "pass" not in str(found)


async def test_a_guest_that_works_has_nothing_wrong(
    short_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    socket = short_tmp / "aa.sock"
    (short_tmp / "aa.toml").write_text('[attester]\ntee = "sample"\n')
    async with hub_world(short_tmp) as world:
        (short_tmp / "cdh.toml").write_text(
            f'socket = "unix://{world.socket}"\n[kbc]\nname = "cc_kbc"\nurl = "{world.kbs.url}"\n'
        )
        with ExitStack() as stack:
            arguments = ("-c", f"{short_tmp}/aa.toml")
            await asyncio.to_thread(stack.enter_context, agent_process(socket, arguments))
            status, found = await asyncio.to_thread(
                examine, capsys, "--attestation-sock", f"unix://{socket}"
            )
    assert status == 0, found
    assert found["TEE"] == ("note", "none; sample evidence proves nothing")
    assert found[f"attestation agent at unix://{socket}"] == ("ok", "answers, its TEE is sample")
    assert found[f"data hub at unix://{world.socket}"] == ("ok", "answers")
    assert found[f"KBS at {world.kbs.url}"][0] == "ok"


def test_lines_are_for_people_without_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--attestation-sock", "unix:///nowhere"]) == 1
    assert "wrong  attestation agent at unix:///nowhere: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text", "words", "status"),
    [
        ("aa.toml", '[attester]\ntee = "sample"\n', [], 0),
        ("cdh.json", '{"kbc": {"name": "offline_fs_kbc"}}', [], 0),
        ("cdh.toml", "[aa]\n", [], 1),
        ("cdh.toml", '[kbc]\nname = "x"\nnmae = 1\n', [], 1),
        ("cdh.toml", '[kbc]\nname = "x"\nnmae = 1\n', ["--lenient"], 0),
        ("other.toml", "", [], 2),
        ("other.toml", "", ["--for", "aa"], 0),
    ],
)
def test_a_configuration_is_checked_as_its_service_reads_it(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    text: str,
    words: list[str],
    status: int,
) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert main(["config", "check", str(path), *words]) == status
    said = capsys.readouterr()
    assert (str(path) in said.out) is (status == 0)
    assert bool(said.err) is (status != 0 or bool(words and words[0] == "--lenient"))


def guest(*words: str) -> tuple[int, str]:
    """Exit status and standard error of the command as a process."""
    done = subprocess.run(
        [sys.executable, "-I", "-m", "guest", *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    return done.returncode, done.stderr


def test_other_commands_of_ours_are_here_too(tmp_path: Path) -> None:
    assert guest("secret", "keygen", "--kid", "k", "--output-dir", str(tmp_path))[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"k-private.json", "k-public.json"}
    status, said = guest("kbs", "--url", "http://127.0.0.1:1", "get-resource", "--path", "")
    assert status == 1
    assert "--path is empty" in said
