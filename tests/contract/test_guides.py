"""The guides say what is so: manifests, commands, links; and the owner's page is walked."""

import base64
import functools
import gzip
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from support.source_tree import ROOT

GUIDES: Final = ROOT / "docs/guides"
PAGES: Final = tuple(sorted(GUIDES.glob("*.md")))
VALUES: Final = "-values.yaml"
MANIFESTS: Final = tuple(
    path for path in sorted((GUIDES / "manifests").glob("*.yaml")) if not path.name.endswith(VALUES)
)
BLOCK: Final = re.compile(r"^```(sh[^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK: Final = re.compile(r"\]\(([^)]+)\)")
HEADING: Final = re.compile(r"^#+ (.+)$", re.MULTILINE)
SCRIPTS: Final = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
OURS: Final = {*SCRIPTS, "guest-simulator"}
BIN: Final = Path(sys.executable).parent
SECONDS: Final = 240.0
PRODUCTION: Final = ROOT / "podvm-image/build/production"
PLACEHOLDERS: Final = {
    "IMAGE_ID", "VSWITCH_ID", "SECURITY_GROUP_ID", "ROLE_ARN", "OIDC_PROVIDER_ARN",
}  # fmt: skip
# What an API server of Kubernetes 1.34 took with `--validate=strict`: it refuses any other field.
TEXTS: Final = {"*": None}
META: Final = {"name": None, "namespace": None, "annotations": TEXTS, "labels": TEXTS}
TOP: Final = {"apiVersion": None, "kind": None, "metadata": META}
KEY_OF_SECRET: Final = {"secretKeyRef": {"name": None, "key": None, "optional": None}}
CONTAINER: Final = {
    "name": None, "image": None, "command": None, "args": None,
    "env": {"name": None, "value": None, "valueFrom": KEY_OF_SECRET},
}  # fmt: skip
FIELDS: Final[dict[str, dict[str, Any]]] = {
    "Secret": {**TOP, "type": None, "data": TEXTS, "stringData": TEXTS, "immutable": None},
    "RuntimeClass": {**TOP, "handler": None, "scheduling": {"nodeSelector": TEXTS}},
    "Pod": {
        **TOP,
        "spec": {"runtimeClassName": None, "restartPolicy": None, "containers": CONTAINER},
    },
}
STAND_INS: Final = (
    "aliyun", "helm", "kubectl", "qemu-img", "ssh-copy-id", "ssh-keygen", "ssh-keyscan", "virsh",
)  # fmt: skip


def blocks(page: Path, mark: str | None = None) -> list[str]:
    """The shell blocks of a page; those with this mark, or all."""
    found = BLOCK.findall(page.read_text("utf-8"))
    return [body for info, body in found if mark is None or info == mark]


def documents(path: Path) -> list[dict[str, Any]]:
    """The documents of a manifest."""
    return [doc for doc in yaml.safe_load_all(path.read_text("utf-8")) if doc is not None]


def of_kind(name: str, kind: str) -> dict[str, Any]:
    """The only document of a kind in a manifest."""
    (found,) = [doc for doc in documents(GUIDES / "manifests" / name) if doc["kind"] == kind]
    return found


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_manifest_is_of_kubernetes_and_named(path: Path) -> None:
    versions = {"Pod": "v1", "Secret": "v1", "RuntimeClass": "node.k8s.io/v1"}
    for document in documents(path):
        assert document["apiVersion"] == versions[document["kind"]]
        assert re.fullmatch(r"[a-z0-9-]+", document["metadata"]["name"])


def refused(value: Any, shape: dict[str, Any] | None, at: str) -> Iterator[str]:
    """Where a document has a field that a server would not know, or text that is no string."""
    for item in value if isinstance(value, list) else [value]:
        if shape is None:
            continue
        if not isinstance(item, dict):
            yield at
            continue
        for key, inner in item.items():
            if shape == TEXTS:
                yield from [] if isinstance(inner, str) else [f"{at}.{key}"]
            elif key in shape:
                yield from refused(inner, shape[key], f"{at}.{key}")
            else:
                yield f"{at}.{key}"


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_no_manifest_has_a_field_that_a_strict_server_refuses(path: Path) -> None:
    for document in documents(path):
        assert not list(refused(document, FIELDS[document["kind"]], document["kind"]))


def test_the_pods_class_is_the_one_that_is_made() -> None:
    made = of_kind("runtime-class.yaml", "RuntimeClass")
    pod = of_kind("app-pod.yaml", "Pod")
    assert pod["spec"]["runtimeClassName"] == made["metadata"]["name"] == made["handler"]
    notes = pod["metadata"]["annotations"]
    assert "io.katacontainers.config.hypervisor.cc_init_data" in notes
    assert notes["io.containerd.cri.runtime-handler"] == made["handler"]


def test_the_pods_secret_is_the_sealed_one() -> None:
    secret = of_kind("app-secret.yaml", "Secret")
    (container,) = of_kind("app-pod.yaml", "Pod")["spec"]["containers"]
    (variable,) = container["env"]
    asked = variable["valueFrom"]["secretKeyRef"]
    assert asked["name"] == secret["metadata"]["name"]
    assert asked["key"] in secret["stringData"]


@pytest.mark.parametrize(
    ("name", "provider", "keys"),
    [
        ("peer-pods-ack-values.yaml", "alibabacloud",
         {"REGION", "IMAGEID", "VSWITCH_ID", "SECURITY_GROUP_IDS", "PODVM_INSTANCE_TYPE"}),
        ("peer-pods-libvirt-values.yaml", "libvirt",
         {"LIBVIRT_URI", "LIBVIRT_VOL_NAME", "LIBVIRT_EFI_FIRMWARE", "LIBVIRT_POOL"}),
    ],
)  # fmt: skip
def test_the_adaptors_values_name_provider_and_tunnel(
    name: str, provider: str, keys: set[str]
) -> None:
    values = yaml.safe_load((GUIDES / "manifests" / name).read_text("utf-8"))
    assert values["provider"] == provider
    assert list(values["providerConfigs"]) == [provider]
    config = values["providerConfigs"][provider]
    assert config["VXLAN_PORT"] == "4789"
    assert keys <= set(config)
    assert "CLOUD_PROVIDER" not in config, "the chart writes it: it would be there twice"
    assert all(isinstance(value, str) for value in config.values())


def test_the_role_comes_without_any_access_key() -> None:
    secret = of_kind("peer-pods-ack-secret.yaml", "Secret")
    assert set(secret["stringData"]) == {
        "ALIBABA_CLOUD_ROLE_ARN", "ALIBABA_CLOUD_OIDC_PROVIDER_ARN",
        "ALIBABA_CLOUD_OIDC_TOKEN_FILE",
    }  # fmt: skip
    values = yaml.safe_load((GUIDES / "manifests/peer-pods-ack-values.yaml").read_text("utf-8"))
    assert values["secrets"] == {
        "mode": "reference", "existingSecretName": secret["metadata"]["name"],
    }  # fmt: skip
    assert values["alibabacloud"]["rrsa"]["enable"] is True


def test_the_page_fills_in_every_placeholder_of_the_clouds_manifests() -> None:
    files = sorted((GUIDES / "manifests").glob("peer-pods-ack-*.yaml"))
    text = "".join(path.read_text("utf-8") for path in files)
    used = set(re.findall(r": ([A-Z_]+)$", text, re.MULTILINE))
    filled = set(re.findall(r"s\|: ([A-Z_]+)\|", (GUIDES / "ack.md").read_text("utf-8")))
    assert used == filled == PLACEHOLDERS


def test_both_ports_are_opened_and_closed_again_and_nothing_else() -> None:
    page = (GUIDES / "ack.md").read_text("utf-8")
    assert re.findall(r"(?:tcp|udp):\d+", page) == ["tcp:15150", "udp:4789"] * 2


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"(?:^|`|\n)make ([a-z-]+)", page.read_text("utf-8")))
        assert named <= targets, page.name


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command of ours in shell text."""
    for line in text.replace("\\\n", " ").splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        current: list[str] = []
        for word in [*words, ";"]:
            if word in {";", "|", ">", ">>", "&", "&&"}:
                if current and current[0] in OURS:
                    yield current
                current = []
            else:
                current.append(word)


@functools.cache
def usage(words: tuple[str, ...]) -> str:
    """What a command prints with `--help`; empty where it has no such subcommand."""
    done = subprocess.run(
        [str(BIN / words[0]), *words[1:], "--help"], capture_output=True, text=True, timeout=60
    )
    return done.stdout if done.returncode == 0 else ""


def test_every_flag_of_our_commands_exists() -> None:
    if not (BIN / "guest").exists():
        pytest.skip("the commands are not installed beside this Python")
    seen = 0
    for page in PAGES:
        inline = re.findall(r"`([^`\n]+)`", page.read_text("utf-8"))
        for words in commands("\n".join([*blocks(page), *inline])):
            chain: tuple[str, ...] = (words[0],)
            known = usage(chain)
            assert known, words
            for word in words[1:]:
                listed = rf"^ +{re.escape(word)} "
                if word[:1].isalpha() and re.search(listed, usage(chain), re.MULTILINE):
                    chain = (*chain, word)
                    known += usage(chain)
            for flag in (word for word in words if re.fullmatch(r"--[a-z-]+", word)):
                assert re.search(rf"{flag}\b", known), f"{page.name}: {' '.join(words)}: {flag}"
                seen += 1
    assert seen > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text("utf-8")):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if anchor:
            titles = HEADING.findall(target.read_text("utf-8"))
            assert anchor in {
                re.sub(r"[^a-z0-9 -]", "", t.lower()).replace(" ", "-") for t in titles
            }


def walk(directory: Path, script: str, programs: str = "") -> str:
    """Run blocks as a user would, in one shell at the top of a tree; what they print."""
    for name in ("docs", "podvm-image"):
        if not (directory / name).exists():
            (directory / name).symlink_to(ROOT / name)
    (directory / ".venv").symlink_to(BIN.parent)
    program = re.sub(r"^make [a-z-]+$", ":", script, flags=re.MULTILINE)
    path = programs + os.environ["PATH"]
    trap = "trap 'kill $(jobs -p) 2>/dev/null || :' EXIT"
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", f"{trap}\n{program}"],
        cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS,
        env={"PATH": path, "HOME": str(directory), "LC_ALL": "C.UTF-8"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.skipif(
    not all(map(shutil.which, ("bash", "curl", "jq"))) or not (BIN / "guest").exists(),
    reason="needs bash, curl, jq and the installed commands",
)
def test_the_owners_page_can_be_followed_line_by_line(tmp_path: Path) -> None:
    said = walk(tmp_path, "\n".join(blocks(GUIDES / "workload.md", "sh")))

    assert "correct horse battery staple" in said
    made = tmp_path / "build/guide"
    pod = yaml.safe_load((made / "app-pod.yaml").read_text())
    (note,) = [v for k, v in pod["metadata"]["annotations"].items() if k.endswith("init_data")]
    init_data = gzip.decompress(base64.b64decode(note)).decode()
    assert init_data == (made / "initdata.toml").read_text()
    assert 'authenticated_registry_credentials_uri = "kbs:///default/' in init_data
    assert pod["spec"]["containers"][0]["image"].endswith("/team/app:encrypted")
    secret = yaml.safe_load((made / "app-secret.yaml").read_text())
    assert secret["stringData"]["password"].startswith("sealed.")
    everything = (made / "app-pod.yaml").read_text() + (made / "app-secret.yaml").read_text()
    assert "staple" not in everything
    assert not [name for name in ("password", "image.kek", "header") if (made / name).exists()]


@pytest.mark.skipif(
    not (PRODUCTION / "sha256sums").exists()
    or not all(map(shutil.which, ("bash", "jq", "qemu-img", "sha256sum"))),
    reason="the image is not built here, or no qemu-img, jq",
)
@pytest.mark.parametrize("name", ["ack.md", "libvirt.md"])
def test_what_the_operators_pages_do_with_the_image_works_on_the_built_one(
    name: str, tmp_path: Path
) -> None:
    said = walk(tmp_path, "\n".join(blocks(GUIDES / name, "sh")))

    assert "podvm.qcow2: OK" in said
    assert "file format: qcow2" in said


def stand_ins(directory: Path) -> tuple[str, Path]:
    """Programs of a cloud and a cluster for the front of PATH, and the file that they keep."""
    state = directory / "state.json"
    state.write_text('{"Namespace//default": "kubectl"}', "utf-8")
    command = shlex.join(
        [sys.executable, str(ROOT / "tests/support/guide_programs.py"), str(state)]
    )
    for name in STAND_INS:
        (directory / name).write_text(f'#!/bin/sh\nexec {command} {name} "$@"\n', "utf-8")
        (directory / name).chmod(0o755)
    return f"{directory}:", state


def operators_tree(top: Path) -> Path:
    """What an operator has before the first block: image, chart, the owner's files; the chart."""
    image = top / "podvm-image/build/production"
    image.mkdir(parents=True)
    for name, text in {"podvm.qcow2": "QFI", "roothash": "0" * 64, "manifest.json": "{}"}.items():
        (image / name).write_text(text, "utf-8")
    digest = hashlib.sha256(b"QFI").hexdigest()
    (image / "sha256sums").write_text(f"{digest}  podvm.qcow2\n", "utf-8")
    chart = top / "cloud-api-adaptor/src/cloud-api-adaptor/install/charts/peerpods"
    (chart / "providers").mkdir(parents=True)
    for name in ("Chart.yaml", "values.yaml", "providers/alibabacloud.yaml",
                 "providers/libvirt.yaml"):  # fmt: skip
        (chart / name).write_text("webhook: {enabled: true}\n", "utf-8")
    owner = top / "build/guide"
    owner.mkdir(parents=True)
    for name in ("app-pod.yaml", "app-secret.yaml"):
        text = (GUIDES / "manifests" / name).read_text("utf-8")
        (owner / name).write_text(re.sub(r": [A-Z_]{5,}$", ": made", text, flags=re.M), "utf-8")
    return chart


@pytest.mark.skipif(
    not all(map(shutil.which, ("bash", "jq", "sha256sum"))), reason="needs bash, jq, sha256sum"
)
@pytest.mark.parametrize("name", ["ack.md", "libvirt.md"])
def test_the_operators_page_can_be_followed_line_by_line_with_stand_ins(
    name: str, tmp_path: Path
) -> None:
    top, bin_directory = tmp_path / "top", tmp_path / "bin"
    top.mkdir()
    bin_directory.mkdir()
    chart = operators_tree(top)
    before = {path: path.read_bytes() for path in chart.rglob("*") if path.is_file()}
    programs, state = stand_ins(bin_directory)

    walk(top, "\n".join(blocks(GUIDES / name)), programs)

    assert {path: path.read_bytes() for path in chart.rglob("*") if path.is_file()} == before
    assert {path.name for path in top.iterdir()} == {
        ".venv", "build", "cloud-api-adaptor", "docs", "podvm-image",
    }  # fmt: skip
    left = set(json.loads(state.read_text("utf-8")))
    assert left <= {"Namespace//default", "Namespace//cert-manager"} | {
        key for key in left if "/confidential-containers-system/" in key
    }, "the last section takes away what the others made"
