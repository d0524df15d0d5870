"""Stand-ins for the programs that the operators' guides run: they refuse what the real ones refuse.

Run as `python guide_programs.py STATE PROGRAM ARGUMENT...`; STATE is a JSON file that holds what
the cluster has. What is refused was seen with an API server of Kubernetes 1.34 and Helm 3.19:
a file or namespace that is not there, an object that Helm did not make, a webhook without a
certificate; and words that the guide should have filled in.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

UNFILLED: Final = re.compile(r"(?:^|[/@])[A-Z]{2,}(?:_[A-Z]+)+(?:$|/)")
ANSWERS: Final = {
    "ImportImage": {"ImageId": "m-1"},
    "DescribeImages": {"Images": {"Image": [{"Status": "Available", "Progress": "100%"}]}},
    "DescribeClusterDetail": {
        "security_group_id": "sg-1",
        "parameters": {"WorkerVSwitchIds": "vsw-1,vsw-2"},
        "rrsa_config": {"issuer": "https://issuer.example/c1", "oidc_arn": "acs:ram::1:oidc/c1"},
    },
    "DescribeClusterUserKubeconfig": {"config": "apiVersion: v1\nkind: Config\n"},
    "GetRole": {"Role": {"Arn": "acs:ram::1:role/peer-pods"}},
    "DescribeInstances": {"TotalCount": 0, "Instances": {"Instance": []}},
}


class RefusedError(Exception):
    """What the real program would have said no to."""


def need(holds: object, why: str) -> None:
    """Refuse unless something holds.

    Raises:
        RefusedError: it does not.
    """
    if not holds:
        raise RefusedError(why)


def option(words: list[str], *names: str) -> list[str]:
    """The values of an option, given as `--name value` or `--name=value`."""
    after = [words[i + 1] for i, word in enumerate(words[:-1]) if word in names]
    return after + [w.partition("=")[2] for w in words if w.partition("=")[0] in names and "=" in w]


def text(path: str) -> str:
    """What a file holds, or the standard input.

    Raises:
        RefusedError: there is no such file, or nothing in it.
    """
    found = sys.stdin.read() if path == "-" else ""
    if path != "-":
        need(Path(path).is_file(), f"no file {path}")
        found = Path(path).read_bytes().decode("utf-8", "replace")
    need(found.strip(), f"nothing in {path}")
    return found


def filled(value: Any) -> None:
    """Refuse a value that is still a word in capitals.

    Raises:
        RefusedError: one is.
    """
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            filled(item)
    elif isinstance(value, str):
        need(not UNFILLED.search(value), f"{value} was to be filled in")


def documents(paths: list[str], state: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and content of every object in files; of cert-manager's manifest, its namespace."""
    for path in paths:
        if path.startswith("https://"):
            need("cert-manager" in path, path)
            yield "Namespace//cert-manager", {}
            continue
        for document in yaml.safe_load_all(text(path)):
            filled(document)
            space = document["metadata"].get("namespace", "default")
            if document["kind"] == "RuntimeClass":
                space = ""
            need(not space or f"Namespace//{space}" in state, f"no namespace {space}")
            yield f"{document['kind']}/{space}/{document['metadata']['name']}", document


def kubectl(words: list[str], state: dict[str, str]) -> None:
    """`apply`, `delete` and `create` change the state; the rest needs its namespace and object."""
    spaces = option(words, "--namespace", "-n")
    for space in spaces:
        need(f"Namespace//{space}" in state, f"no namespace {space}")
    files = option(words, "-f")
    match words[:2]:
        case ["create", "namespace"]:
            need(f"Namespace//{words[2]}" not in state, f"{words[2]} exists")
            state[f"Namespace//{words[2]}"] = "kubectl"
        case ["create", "secret"]:
            for given in option(words, "--from-file"):
                text(given.rpartition("=")[2])
            state[f"Secret/{spaces[0]}/{words[3]}"] = "kubectl"
        case ["apply", _]:
            need(files, "nothing to apply")
            for key, document in documents(files, state):
                kind = document.get("spec", {}).get("runtimeClassName")
                need(not kind or f"RuntimeClass//{kind}" in state, f"no class {kind}")
                state.setdefault(key, "kubectl")
        case ["delete", "-f"]:
            for key, _document in documents(files, state):
                need(state.pop(key, None), f"no {key}")
        case ["delete", "namespace"]:
            need(state.pop(f"Namespace//{words[2]}", None), f"no namespace {words[2]}")
        case ["get", "runtimeclass"]:
            need(f"RuntimeClass//{words[2]}" in state, f"no class {words[2]}")


def helm(words: list[str], state: dict[str, str]) -> None:
    """`install` of the adaptor's chart, and `uninstall`."""
    (space,) = option(words, "--namespace")
    need(f"Namespace//{space}" in state, f"no namespace {space}")
    if words[0] == "uninstall":
        need(state.pop(f"Release/{space}/{words[1]}", None), f"no release {words[1]}")
        state.pop("RuntimeClass//kata-remote", None)
        return
    need(Path(words[2], "Chart.yaml").is_file(), f"no chart in {words[2]}")
    values: dict[str, Any] = {}
    for path in option(words, "-f"):
        values |= yaml.safe_load(text(path))
    filled(values)
    need("Namespace//cert-manager" in state, "no cert-manager for the webhook's certificate")
    need("RuntimeClass//kata-remote" not in state, "the class is not Helm's")
    secret = values.get("secrets", {}).get("existingSecretName")
    secret = "ssh-key-secret" if values["provider"] == "libvirt" else secret
    need(f"Secret/{space}/{secret}" in state, f"no secret {secret}")
    state[f"Release/{space}/{words[1]}"] = "helm"
    state["RuntimeClass//kata-remote"] = "helm"


def aliyun(words: list[str], _state: dict[str, str]) -> None:
    """Answers as the cloud would; documents must be JSON, files exist and no value be missing."""
    for word in words:
        need(word not in {"", "null"}, f"no value in {words}")
    if words[:2] == ["oss", "cp"]:
        text(words[2])
    for document in option(words, "--AssumeRolePolicyDocument", "--PolicyDocument"):
        json.loads(document)
    sys.stdout.write(json.dumps(ANSWERS.get(words[1], {"RequestId": "1"})) + "\n")


def others(program: str, words: list[str]) -> None:
    """The programs of the libvirt host: files that they read exist, those that they write do."""
    for path in option(words, "--file", "-i"):
        text(path)
    if program == "ssh-keygen":
        (path,) = option(words, "-f")
        Path(path).write_text("private\n", "utf-8")
        Path(f"{path}.pub").write_text("public\n", "utf-8")
    if program == "ssh-keyscan":
        sys.stdout.write(f"{words[-1]} ssh-ed25519 AAAA\n")
    if program == "qemu-img":
        text(words[-1])


def main() -> None:
    """One run of one program."""
    store, program, *words = sys.argv[1:]
    state = json.loads(Path(store).read_text("utf-8"))
    try:
        known = {"kubectl": kubectl, "helm": helm, "aliyun": aliyun}.get(program)
        known(words, state) if known else others(program, words)
    except RefusedError as error:
        sys.exit(f"{program} {' '.join(words)}: {error}")
    Path(store).write_text(json.dumps(state), "utf-8")


if __name__ == "__main__":
    main()
