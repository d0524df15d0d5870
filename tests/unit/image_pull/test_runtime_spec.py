"""The bundle's `config.json` against the published document."""

import json
from pathlib import Path

import pytest

from image_pull.image_config import parse_image_config
from image_pull.runtime_spec import User, runtime_spec

PREFIX = "org.opencontainers.image."


def spec(config: object, **top: object) -> dict[str, object]:
    document = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": []},
        **top,
    }
    if config is not None:
        document["config"] = config
    parsed = parse_image_config(json.dumps(document).encode())
    found: dict[str, object] = json.loads(runtime_spec(parsed))
    return found


def normal(document: dict[str, object]) -> dict[str, object]:
    process = document["process"]
    assert isinstance(process, dict)
    process["capabilities"] = {name: sorted(each) for name, each in process["capabilities"].items()}
    return document


@pytest.mark.spec("image-pull", 45)
def test_the_document_is_the_published_one(vectors: Path) -> None:
    image = json.loads((vectors / "image_pull" / "image.json").read_text())
    expected = json.loads((vectors / "image_pull" / "runtime_spec.json").read_text())
    found = json.loads(runtime_spec(parse_image_config(image["config"].encode())))
    assert normal(found) == normal(expected["config.json"])
    without = spec(None)["process"]
    assert isinstance(without, dict)
    assert without["args"] == ["sh"]
    assert without["env"] == [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "TERM=xterm",
    ]
    assert without["cwd"] == "/"
    empty = spec({"WorkingDir": ""})["process"]
    assert isinstance(empty, dict)
    assert empty["cwd"] == "/"
    labelled = spec({"Labels": {f"{PREFIX}os": "mine", "a": "b"}})["annotations"]
    assert labelled == {f"{PREFIX}os": "mine", f"{PREFIX}architecture": "amd64", "a": "b"}


def test_optional_members_become_annotations() -> None:
    found = spec(
        {
            "StopSignal": "SIGINT",
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
            "Labels": {f"{PREFIX}exposedPorts": "no"},
        },
        variant="v8",
        author="me",
        created="2024-01-01T00:00:00Z",
        **{"os.version": "1", "os.features": ["a", "b"]},
    )
    assert found["annotations"] == {
        f"{PREFIX}os": "linux",
        f"{PREFIX}architecture": "amd64",
        f"{PREFIX}variant": "v8",
        f"{PREFIX}author": "me",
        f"{PREFIX}created": "2024-01-01T00:00:00Z",
        f"{PREFIX}os.version": "1",
        f"{PREFIX}os.features": '["a","b"]',
        f"{PREFIX}stopSignal": "SIGINT",
        f"{PREFIX}exposedPorts": "53/udp,80/tcp",
    }


def test_volumes_are_mounted_before_all_else() -> None:
    mounts = spec({"Volumes": {"/data": {}}})["mounts"]
    assert isinstance(mounts, list)
    assert mounts[0] == {
        "destination": "/data",
        "type": "tmpfs",
        "options": ["nosuid", "noexec", "nodev", "relatime", "rw"],
    }
    assert mounts[1]["destination"] == "/proc"


def test_the_user_is_the_one_that_was_resolved() -> None:
    parsed = parse_image_config(
        b'{"architecture":"a","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
    )
    found = json.loads(runtime_spec(parsed, User(uid=1, gid=2, additional_gids=(3,))))
    assert found["process"]["user"] == {"uid": 1, "gid": 2, "additionalGids": [3]}
