"""The `image-pull` command: flags, configuration, exit statuses."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from guest.errors import ConfigError
from guest_simulator.faults import Fault
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Layer, build_image
from guest_simulator.registry.server import Registry
from image_pull.config import CREDENTIALS_VARIABLE, ImageConfig
from image_pull.main import Shown, config_of, parser
from support.agents import agent_command

SECONDS = 60


def config(*arguments: str, **environment: str) -> ImageConfig:
    return config_of(parser().parse_args([*arguments, "IMAGE", "BUNDLE"]), environment)


def command(repository: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        agent_command(*arguments, module="image_pull.main"),
        cwd=repository,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def test_flags_say_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "pull.toml"
    file.write_text(
        "[image]\nwork_dir = '/file'\nimage_security_policy_uri = '/file.json'\n"
        "[[image.registry_config.registry]]\nlocation = 'q.io'\n"
    )
    found = config("-c", str(file))
    assert (found.work_dir, found.image_security_policy_uri) == ("/file", "/file.json")
    found = config(
        "--config", str(file), "--work-dir", "/flag", "--policy", "/flag.json",
        "--auth-file", "/auth.json", "--insecure", "a:1", "--insecure", "b",
    )  # fmt: skip
    assert (found.work_dir, found.image_security_policy_uri) == ("/flag", "/flag.json")
    assert found.authenticated_registry_credentials_uri == "/auth.json"
    assert found.registry_config is not None
    assert [each.location for each in found.registry_config.registry] == ["q.io", "a:1", "b"]
    assert [each.insecure for each in found.registry_config.registry] == [False, True, True]


def test_certificates_are_read_at_once(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("pem")
    assert config("--ca", str(tmp_path / "ca.pem")).extra_root_certificates == ("pem",)
    with pytest.raises(ConfigError, match=r"ca2.pem cannot be read"):
        config("--ca", str(tmp_path / "ca2.pem"))


def test_the_environment_counts_as_for_the_daemon() -> None:
    found = config(**{CREDENTIALS_VARIABLE: "/env.json", "HTTPS_PROXY": "p:1"})
    assert found.authenticated_registry_credentials_uri == "/env.json"
    assert found.image_pull_proxy is not None


def test_rules_by_uri_and_by_flag_do_not_go_together(tmp_path: Path) -> None:
    file = tmp_path / "pull.toml"
    file.write_text("[image]\nregistry_configuration_uri = '/rules.toml'\n")
    with pytest.raises(ConfigError, match="does not go together"):
        config("-c", str(file), "--insecure", "a")


def test_a_wrong_command_line_is_status_2_and_help_is_0(repository: Path) -> None:
    assert command(repository).returncode == 2
    assert command(repository, "--timeout", "-1", "a", "b").returncode == 2
    helped = command(repository, "--help")
    assert helped.returncode == 0
    assert "IMAGE" in helped.stdout
    assert "exit status" in helped.stdout


def test_a_failure_is_status_1_and_one_line_that_says_why(repository: Path, tmp_path: Path) -> None:
    options = ("--work-dir", str(tmp_path / "work"), "--insecure", "127.0.0.1:1")
    done = command(repository, *options, "127.0.0.1:1/a", str(tmp_path / "bundle"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("image-pull: Image Pull error: Failed to pull image")
    done = command(repository, "-c", str(tmp_path / "missing.toml"), "a", str(tmp_path / "b"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "missing.toml" in done.stderr


async def test_a_pull_that_was_killed_does_not_stand_in_the_way_of_the_next(
    repository: Path, tmp_path: Path
) -> None:
    entries = [Entry(kind=Kind.FILE, path=path, data=os.urandom(90_000)) for path in ("a", "b")]
    image = build_image([Layer(entries=(entry,)) for entry in entries])
    async with Registry() as registry:
        digest = registry.push_image("demo/app:v1", image)
        last = str(image.layers[1].descriptor["digest"])
        stall = registry.faults.add(Fault(path=last, stall_after=50_000))
        bundle, work = tmp_path / "bundle", tmp_path / "work"
        options = ("--work-dir", str(work), "--insecure", registry.host)
        reference = f"{registry.host}/demo/app:v1"
        argv = agent_command(*options, reference, str(bundle), module="image_pull.main")
        process = await asyncio.create_subprocess_exec(*argv, cwd=repository)
        while not stall.hits or not list((work / "unpacked").iterdir()):
            await asyncio.sleep(0.02)
        process.kill()
        await process.wait()
        assert list((work / "staging").iterdir()) != []
        registry.faults.clear()
        before = len(registry.requests)
        done = await asyncio.to_thread(command, repository, *options, reference, str(bundle))
        assert (done.returncode, done.stdout) == (0, f"{digest}\n"), done.stderr
        later = [each.path for each in list(registry.requests)[before:]]
        assert not any(str(image.layers[0].descriptor["digest"]) in path for path in later)
        assert list((work / "staging").iterdir()) == []
        assert (bundle / "rootfs" / "b").read_bytes() == entries[1].data
        undo = await asyncio.to_thread(command, repository, *options, "--undo", "-", str(bundle))
        assert undo.returncode == 0


class Bars:
    """What of `rich.progress.Progress` is used."""

    def __init__(self) -> None:
        self.shown: dict[int, dict[str, object]] = {}

    def add_task(self, description: str, total: float | None) -> int:
        number = len(self.shown)
        self.shown[number] = {"description": description, "total": total}
        return number

    def update(self, number: int, **changes: object) -> None:
        self.shown[number] |= changes


def test_progress_names_each_layer_once() -> None:
    bars = Bars()
    shown = Shown(bars)
    digest = "sha256:" + "ab" * 32
    shown.layer_bytes(digest, 1, 10)
    shown.layer_state(digest, "waiting")
    shown.layer_bytes(digest, 5, 10)
    assert bars.shown == {
        0: {"description": "0 of 1 layers", "total": None},
        1: {"description": f"{'ab' * 6} waiting", "total": 10, "completed": 5},
    }
    shown.layer_state(digest, "stored")
    assert bars.shown[1]["description"] == f"{'ab' * 6} stored"
    assert bars.shown[0]["description"] == "1 of 1 layers"
