"""Manifests, indexes and configurations: what is read, chosen and refused."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import DecodeError, UnsupportedError
from image_pull.image_config import check_runs_here, parse_image_config
from image_pull.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Index,
    Manifest,
    choose_platform,
    parse_document,
)
from image_pull.plan import plan_layers

GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def blob(number: int, media_type: str = GZIP, size: int = 5) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest(number), "size": size}


def manifest(*layers: dict[str, object], **more: object) -> bytes:
    return json.dumps(
        {"schemaVersion": 2, "config": blob(0), "layers": list(layers), **more}
    ).encode()


def index(*entries: dict[str, object], **more: object) -> bytes:
    return json.dumps({"schemaVersion": 2, "manifests": list(entries), **more}).encode()


def entry(number: int, architecture: str | None, variant: str | None = None) -> dict[str, object]:
    made = blob(number, OCI_MANIFEST)
    if architecture is not None:
        made["platform"] = {"os": "linux", "architecture": architecture, "variant": variant}
    return made


def test_the_published_vectors_are_read(vectors: Path) -> None:
    vector = json.loads((vectors / "image_pull" / "image.json").read_text())
    found = parse_document(vector["manifest"].encode(), OCI_MANIFEST)
    assert isinstance(found, Manifest)
    assert [str(each.digest) for each in found.layers] == vector["layers"]
    document = parse_image_config(vector["config"].encode())
    assert [str(each) for each in check_runs_here(document, found, "amd64")] == vector["diff_ids"]
    listed = parse_document(vector["index"].encode(), OCI_INDEX)
    assert isinstance(listed, Index)
    assert str(choose_platform(listed, "amd64").digest) == vector["manifest_digest"]


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        (manifest(schemaVersion=1), None, "^Unsupported schema version: 1$"),
        (manifest(schemaVersion=True), None, "^Unsupported schema version"),
        (manifest(mediaType="a/b"), None, "^Unsupported media type: a/b$"),
        (manifest(mediaType=[{"": 2}]), None, r"^Unsupported media type: \[{'': 2}\]$"),
        (manifest(manifests=[]), None, "neither an image manifest nor an index, or both"),
        (b'{"schemaVersion": 2}', None, "neither an image manifest nor an index, or both"),
        (manifest(mediaType=OCI_INDEX), None, "does not have the shape of"),
        (manifest(), OCI_INDEX, "does not have the shape of"),
        (index(), DOCKER_MANIFEST, "does not have the shape of"),
        (manifest(mediaType=OCI_MANIFEST), DOCKER_MANIFEST, "was sent as"),
        (b'{"schemaVersion": 2, "config": {}, "layers": []}', None, "bad descriptor"),
        (b'{"schemaVersion": 2, "schemaVersion": 2}', None, "two members"),
        (b"[]", None, "not a JSON object"),
        (b"\xff", None, "UTF-8"),
        (manifest(*[blob(n) for n in range(128)]), None, "128 layers, more than 127"),
        (manifest({"mediaType": "a", "digest": "md5:00", "size": 1}), None, "not a digest"),
        (manifest({"mediaType": "a", "digest": "sm3:" + "0" * 64, "size": 1}), None, "sm3"),
        (manifest({"mediaType": "a", "digest": digest(1), "size": -1}), None, "bad descriptor"),
    ],
)
def test_what_is_no_single_kind_of_manifest_is_refused(
    body: bytes, content_type: str | None, text: str
) -> None:
    with pytest.raises(DecodeError, match=text):
        parse_document(body, content_type)


def test_a_content_type_that_names_no_manifest_does_not_matter() -> None:
    for content_type in ("application/json", "text/plain; charset=utf-8", "", None):
        assert isinstance(parse_document(manifest(), content_type), Manifest)


def test_docker_types_are_read() -> None:
    assert isinstance(parse_document(manifest(mediaType=DOCKER_MANIFEST)), Manifest)
    assert isinstance(parse_document(index(mediaType=DOCKER_LIST), DOCKER_LIST), Index)


def chosen(architecture: str, *entries: dict[str, object]) -> str:
    found = parse_document(index(*entries))
    assert isinstance(found, Index)
    return str(choose_platform(found, architecture).digest)


def test_the_first_entry_of_the_platform_is_chosen() -> None:
    entries = (entry(1, "arm64"), entry(2, None), entry(3, "amd64"), entry(4, "amd64"))
    assert chosen("amd64", *entries) == digest(3)


def test_on_arm64_the_general_variant_is_chosen() -> None:
    assert chosen("arm64", entry(1, "arm64", "v9"), entry(2, "arm64", "v8")) == digest(2)
    assert chosen("arm64", entry(1, "arm64", "v9")) == digest(1)


def test_an_index_without_the_platform_is_refused_with_the_peers_text() -> None:
    with pytest.raises(
        DecodeError, match=r"^Image manifest not found: no entry found in image ind"
    ):
        chosen("s390x", entry(1, "amd64"), entry(2, "unknown"))


CONFIG = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}


@pytest.mark.parametrize(
    "change",
    [
        {"rootfs": {"type": "layers", "diff_ids": None}},
        {"rootfs": {"type": "layers"}},
        {"os": None},
        {"architecture": 5},
        {"config": {"Env": "A=b"}},
        {"config": {"Labels": {"a": 1}}},
    ],
)
def test_a_malformed_configuration_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(DecodeError):
        parse_image_config(json.dumps(CONFIG | change).encode())


def test_null_is_nothing_where_a_member_is_optional() -> None:
    document = parse_image_config(
        json.dumps(
            CONFIG
            | {"config": {"Env": None, "Cmd": None, "Labels": None}, "author": None}
            | {"os.version": None, "os.features": ["a"]}
        ).encode()
    )
    assert document.config is not None
    assert document.config.env is None
    assert document.os_features == ("a",)


def planned(*layers: dict[str, object], diff_ids: tuple[int, ...]) -> list[str]:
    parsed = parse_document(manifest(*layers))
    assert isinstance(parsed, Manifest)
    config = json.loads(json.dumps(CONFIG))
    config["rootfs"]["diff_ids"] = [digest(each) for each in diff_ids]
    document = parse_image_config(json.dumps(config).encode())
    return [
        str(each.descriptor.digest)
        for each in plan_layers(parsed, check_runs_here(document, parsed, "amd64"))
    ]


def test_a_repeated_layer_is_kept_where_it_occurs_last() -> None:
    layers = (blob(1), blob(2), blob(1))
    assert planned(*layers, diff_ids=(7, 8, 7)) == [digest(2), digest(1)]


def test_a_repeated_layer_with_two_contents_is_refused() -> None:
    with pytest.raises(DecodeError, match=r"listed twice"):
        planned(blob(1), blob(1), diff_ids=(7, 8))


def test_a_layer_of_unknown_type_is_refused_with_the_peers_text() -> None:
    with pytest.raises(
        UnsupportedError, match=r"^Failed to decode layer: unhandled media type: x$"
    ):
        planned(blob(1, "x"), diff_ids=(7,))


def test_a_diff_id_of_another_algorithm_is_refused_with_the_peers_text() -> None:
    config = CONFIG | {"rootfs": {"type": "layers", "diff_ids": ["md5:00"]}}
    parsed = parse_document(manifest(blob(1)))
    assert isinstance(parsed, Manifest)
    with pytest.raises(DecodeError, match=r"^Unsupported uncompressed digest format: md5:00$"):
        check_runs_here(parse_image_config(json.dumps(config).encode()), parsed, "amd64")


@given(st.binary(max_size=80))
def test_any_bytes_give_a_document_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        parse_document(data)
    with suppress(DecodeError):
        parse_image_config(data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["mediaType", "config", "layers", "manifests", "size", "digest"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_gives_a_document_or_a_decode_error(value: object) -> None:
    members = value if isinstance(value, dict) else {"config": value}
    with suppress(DecodeError):
        parse_document(json.dumps(members | {"schemaVersion": 2}).encode())
