"""The extension's manifest: read strictly, written the same, launched as the built-in plan."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podvm.errors import ImageError
from podvm.extension import (
    FILE,
    MAX_LENGTH,
    VARIABLES,
    Launch,
    Manifest,
    OptionalArguments,
    Process,
    Variant,
    decode,
    substitute,
)

COCO = """\
schema_version = 1

[paths]
ocicrypt-config = "etc/ocicrypt_config.json"
"pause-bundle" = "pause_bundle"

[[process]]
id = "attestation-agent"
level = 1
select = "${attester_variant}"
args = ["--attestation_sock", "${aa_attestation_uri}"]
optional_args = [
  { when = "initdata_toml_path", args = ["--initdata-toml", "${initdata_toml_path}"] },
]
config = "${aa_config_path}"
wait_socket = "${aa_attestation_socket}"
timeout_secs = "${launch_process_timeout}"

[process.variants.default]
path = "usr/local/bin/attestation-agent"

[process.variants.nvidia]
path = "/usr/local/bin/attestation-agent-nv"
args = ["--more"]
env = { LD_LIBRARY_PATH = "${extension_root}/usr/local/lib" }

[[process]]
id = "confidential-data-hub"
level = 2
path = "usr/local/bin/confidential-data-hub"
config = "${cdh_config_path}"
wait_socket = "${cdh_socket}"
timeout_secs = "${launch_process_timeout}"
env.PATH = "${extension_root}/usr/sbin:/bin"
env.OCICRYPT_KEYPROVIDER_CONFIG = "${ocicrypt_config_path}"

[[process]]
id = "api-server-rest"
level = 3
path = "usr/local/bin/api-server-rest"
args = ["--features", "${rest_api_features}"]
timeout_secs = "0"
"""

ROOT = "/run/kata-extensions/coco"
FOLDER = "/run/confidential-containers"
AA_SOCKET = f"{FOLDER}/attestation-agent/attestation-agent.sock"

VALUES = {
    "aa_attestation_socket": AA_SOCKET,
    "aa_attestation_uri": f"unix://{AA_SOCKET}",
    "aa_config_path": f"{FOLDER}/initdata/aa.toml",
    "attester_variant": "default",
    "cdh_config_path": f"{FOLDER}/initdata/cdh.toml",
    "cdh_socket": f"{FOLDER}/cdh.sock",
    "extension_root": ROOT,
    "initdata_toml_path": f"{FOLDER}/initdata/initdata.toml",
    "launch_process_timeout": "6",
    "ocicrypt_config_path": f"{ROOT}/etc/ocicrypt_config.json",
    "rest_api_features": "all",
}


def with_process(**members: object) -> str:
    """A manifest of one process with these members besides id and level, all of them strings."""
    rows = "".join(f"{key} = {value}\n" for key, value in members.items())
    return f'schema_version = 1\n[[process]]\nid = "a"\nlevel = 1\n{rows}'


@pytest.mark.spec("podvm-image", 38)
def test_the_published_manifest_launches_what_kata_launches_without_an_extension() -> None:
    assert set(VALUES) == VARIABLES
    manifest = decode(COCO)
    assert manifest.find_path("pause-bundle", ROOT) == f"{ROOT}/pause_bundle"
    agent, hub, rest = manifest.launches(3, VALUES, lambda path: path.endswith("aa.toml"))
    assert agent == Launch(
        id="attestation-agent",
        path=f"{ROOT}/usr/local/bin/attestation-agent",
        args=(
            "--attestation_sock", f"unix://{AA_SOCKET}",
            "--initdata-toml", f"{FOLDER}/initdata/initdata.toml",
            "-c", f"{FOLDER}/initdata/aa.toml",
        ),
        env=(),
        wait_socket=AA_SOCKET,
        timeout=6,
    )  # fmt: skip
    assert hub.args == ()
    assert hub.env == (
        ("OCICRYPT_KEYPROVIDER_CONFIG", f"{ROOT}/etc/ocicrypt_config.json"),
        ("PATH", f"{ROOT}/usr/sbin:/bin"),
    )
    assert (rest.args, rest.wait_socket, rest.timeout) == (("--features", "all"), "", 0)


def test_a_level_launches_what_is_below_and_zero_nothing() -> None:
    manifest = decode(COCO)
    assert [len(manifest.launches(n, VALUES, lambda _: False)) for n in range(5)] == [0, 1, 2, 3, 3]


def test_a_variant_adds_its_arguments_and_variables_and_an_empty_choice_is_the_default() -> None:
    manifest = decode(COCO)

    def agent(**changed: str) -> Launch:
        return manifest.launches(1, VALUES | changed, lambda _: False)[0]

    other = agent(attester_variant="nvidia", initdata_toml_path="")
    assert other.path == f"{ROOT}/usr/local/bin/attestation-agent-nv"
    assert other.args == ("--attestation_sock", f"unix://{AA_SOCKET}", "--more")
    assert other.env == (("LD_LIBRARY_PATH", f"{ROOT}/usr/local/lib"),)
    assert agent(attester_variant="").path == f"{ROOT}/usr/local/bin/attestation-agent"
    missing = r"^process 'attestation-agent' has no variant 'x' \(available: default, nvidia\)$"
    with pytest.raises(ImageError, match=missing):
        agent(attester_variant="x")
    with pytest.raises(ImageError, match="is no number"):
        agent(launch_process_timeout="six")


def test_another_schema_version_has_its_published_text() -> None:
    for version in ("0", "2", '"1"', "true", "1.0"):
        text = COCO.replace("schema_version = 1", f"schema_version = {version}")
        with pytest.raises(ImageError, match=r"^unsupported extension manifest schema_version "):
            decode(text)
    with pytest.raises(ImageError, match=f"schema_version 2 in {FILE}$"):
        decode("schema_version = 2")
    with pytest.raises(ImageError, match="schema_version"):
        decode('[paths]\na = "b"')


@pytest.mark.parametrize(
    "text",
    [
        "schema_version = ",
        "schema_version = 1\nother = 1",
        "schema_version = 1\n[paths]\na = 1",
        'schema_version = 1\n[paths]\na = "../b"',
        'schema_version = 1\n[paths]\na = "b/.."',
        'schema_version = 1\n[paths]\na = "/"',
        'schema_version = 1\n[paths]\na = ""',
        'schema_version = 1\n[paths]\na = "b"\na = "c"',
        "schema_version = 1\nprocess = 1",
        with_process(),
        with_process(path='""'),
        with_process(path='"x/../../y"'),
        with_process(path='"x"', unknown='"y"'),
        with_process(path='"x"', level='"1"'),
        with_process(path='"x"', args='"y"'),
        with_process(path='"x"', args='["${HOME}"]'),
        with_process(path='"x"', args='["${cdh_socket"]'),
        with_process(path='"x"', args='["${ cdh_socket }"]'),
        with_process(path='"x"', config='"${}"'),
        with_process(path='"x"', timeout_secs="6"),
        with_process(path='"x"', env='{ "A=B" = "c" }'),
        with_process(path='"x"', env='{ A = "${b}" }'),
        with_process(path='"x"', optional_args='[{ when = "home", args = [] }]'),
        with_process(path='"x"', optional_args="[{ args = [] }]"),
        with_process(path='"x"', variants='{ v = { path = "y" } }'),
        with_process(variants="{ v = {} }"),
        with_process(variants='{ v = { path = "../y" } }'),
        with_process(path='"x"') + '[[process]]\nid = "a"\nlevel = 1\npath = "y"',
        "#" * (MAX_LENGTH + 1),
    ],
)
def test_what_is_not_as_specified_is_refused(text: str) -> None:
    with pytest.raises(ImageError, match="manifest"):
        decode(text)


def test_a_path_that_an_extension_lacks_is_an_error() -> None:
    with pytest.raises(ImageError, match="has no path 'other'"):
        decode(COCO).find_path("other", ROOT)


def test_a_value_is_not_looked_at_again() -> None:
    values = {"cdh_socket": "${aa_config_path}", "extension_root": "}"}
    assert substitute("a$b{${cdh_socket}${extension_root}$", values) == "a$b{${aa_config_path}}$"
    with pytest.raises(ImageError, match="unknown variable 'aa_config_path'"):
        substitute("${aa_config_path}", values)


def test_a_written_manifest_is_one_that_would_be_read() -> None:
    assert decode(decode(COCO).encode()) == decode(COCO)
    with pytest.raises(ImageError):
        Manifest(schema_version=1, paths={"a": ".."}).encode()
    with pytest.raises(ImageError):
        Manifest(schema_version=2).encode()


PLAIN = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
TEXTS = st.one_of(
    PLAIN.filter(lambda text: "${" not in text),
    st.sampled_from(sorted(VARIABLES)).map(lambda name: f"a${{{name}}}"),
)
PATHS = st.sampled_from(["a", "/b/c", "usr/./local", "…/x y", 'q"\\'])
ENV = st.dictionaries(st.sampled_from(["PATH", "A B", "Ä"]), TEXTS, max_size=2)
ARGS = st.lists(TEXTS, max_size=3).map(tuple)
VARIANTS = st.dictionaries(
    PLAIN, st.builds(Variant, path=PATHS, args=ARGS, env=ENV), min_size=1, max_size=3
)
OPTIONAL = st.builds(OptionalArguments, when=st.sampled_from(sorted(VARIABLES)), args=ARGS)


@st.composite
def processes(draw: st.DrawFn) -> Process:
    where: dict[str, Any] = (
        {"path": draw(PATHS)} if draw(st.booleans()) else {"variants": draw(VARIANTS)}
    )
    return Process(
        id=draw(PLAIN.filter(bool)), level=draw(st.integers(0, 255)), select=draw(TEXTS),
        args=draw(ARGS), optional_args=tuple(draw(st.lists(OPTIONAL, max_size=2))),
        config=draw(TEXTS), env=draw(ENV), wait_socket=draw(TEXTS), timeout_secs=draw(TEXTS),
        **where,
    )  # fmt: skip


@given(
    st.dictionaries(PLAIN, PATHS, max_size=3),
    st.lists(processes(), max_size=3, unique_by=lambda process: process.id),
)
def test_every_manifest_survives_its_text(paths: dict[str, str], items: list[Process]) -> None:
    manifest = Manifest(schema_version=1, paths=paths, process=tuple(items))
    again = decode(manifest.encode())
    assert again == manifest
    assert msgspec.to_builtins(again) == msgspec.to_builtins(manifest)


@given(st.text(max_size=200))
def test_any_text_is_a_manifest_or_an_error(text: str) -> None:
    for candidate in (text, f"schema_version = 1\n{text}", with_process(path='"x"') + text):
        try:
            decode(candidate).encode()
        except ImageError:
            continue
