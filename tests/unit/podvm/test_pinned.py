"""`binaries.toml` and the pause bundle: pinned by digest or refused."""

import json
from typing import Final

import pytest

from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Layer
from podvm import pause
from podvm.errors import ImageError
from podvm.pinned import NAMES, Pinned, decode
from podvm.places import IMAGE

HEX: Final = "ab" * 32
AGENT: Final = f"""\
[kata-agent]
repository = "registry.example:5000/kata/agent"
digest = "sha256:{HEX}"
file = "agent.tar.zst"
member = "usr/bin/kata-agent"
sha256 = "{HEX}"
"""
IMAGE_CONFIG: Final = json.dumps(
    {"config": {"Entrypoint": ["/pause"], "User": "65535:65535", "Env": ["PATH=/usr/bin"]}}
).encode()


def layer(*entries: Entry) -> bytes:
    """An uncompressed layer."""
    return Layer(entries=entries).tar


PROGRAM: Final = Entry(path="pause", data=b"\x7fELF", mode=0o755)


def test_an_entry_is_asked_for_by_digest() -> None:
    assert decode(AGENT) == (
        Pinned(
            name="kata-agent",
            repository="registry.example:5000/kata/agent",
            digest=f"sha256:{HEX}",
            sha256=HEX,
            file="agent.tar.zst",
            member="usr/bin/kata-agent",
        ),
    )
    assert decode(AGENT)[0].reference == f"registry.example:5000/kata/agent@sha256:{HEX}"


def test_the_list_in_the_tree_is_read_and_pins_nothing_by_tag() -> None:
    assert all(entry.name in NAMES for entry in decode((IMAGE / "binaries.toml").read_text()))


def test_the_example_in_the_list_is_one_that_would_be_read() -> None:
    lines = (IMAGE / "binaries.toml").read_text("utf-8").splitlines()
    inside = [line.removeprefix("#   ") for line in lines if line.startswith("#   ")]
    text = "\n".join(inside).replace("[kata-agent]  ", "[kata-agent]  #")
    text = text.replace("[pause]  ", "[pause]  #").replace('"sha256:..."', f'"sha256:{HEX}"  #')
    text = text.replace('"...', f'"{HEX}')
    for value in ('/agent"', '.zst"', 'kata-agent"', f'{HEX}"'):
        text = text.replace(f"{value} ", f"{value} #")
    assert [entry.name for entry in decode(text)] == ["kata-agent", "pause"]


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        AGENT.replace("[kata-agent]", "[kata]"),
        AGENT.replace("sha256:", "sha512:"),
        AGENT.replace(HEX, HEX.upper()),
        AGENT.replace(f'sha256 = "{HEX}"', ""),
        AGENT.replace(f'"sha256:{HEX}"', '"latest"'),
        AGENT.replace("kata/agent", "kata/agent:4.0.0"),
        AGENT.replace("kata/agent", f"kata/agent@sha256:{HEX}"),
        AGENT.replace("registry.example:5000/kata/agent", "agent"),
        AGENT.replace('file = "agent.tar.zst"\n', ""),
        AGENT.replace("[kata-agent]", "[pause]"),
        AGENT + 'tag = "4.0.0"\n',
    ],
)
def test_what_is_not_pinned_as_specified_is_refused(text: str) -> None:
    with pytest.raises(ImageError, match=r"^binaries\.toml: "):
        decode(text)


def test_an_image_becomes_a_bundle_with_its_program() -> None:
    found = pause.bundle(IMAGE_CONFIG, [layer(PROGRAM)])

    assert found["rootfs/pause"] == (b"\x7fELF", 0o755)
    process = json.loads(found["config.json"][0])["process"]
    assert process["args"] == ["/pause"]
    assert process["user"] == {"uid": 65535, "gid": 65535}


def test_an_upper_layer_replaces_what_is_below() -> None:
    upper = layer(Entry(path="pause", data=b"new", mode=0o755))

    assert pause.bundle(IMAGE_CONFIG, [layer(PROGRAM), upper])["rootfs/pause"][0] == b"new"


@pytest.mark.parametrize(
    ("config", "entries"),
    [
        (IMAGE_CONFIG, ()),
        (IMAGE_CONFIG, (Entry(path="pause", data=b"x", mode=0o644),)),
        (IMAGE_CONFIG, (PROGRAM, Entry(path="lib", kind=Kind.SYMLINK, target="/"))),
        (IMAGE_CONFIG, (PROGRAM, Entry(path="old", kind=Kind.WHITEOUT))),
        (IMAGE_CONFIG, (PROGRAM, Entry(path="../out", data=b"x"))),
        (IMAGE_CONFIG.replace(b"/pause", b"pause"), (PROGRAM,)),
        (IMAGE_CONFIG.replace(b"/pause", b"/../pause"), (PROGRAM,)),
        (IMAGE_CONFIG.replace(b"65535:65535", b"nobody"), (PROGRAM,)),
        (b'{"config": {}}', (PROGRAM,)),
        (b"[]", (PROGRAM,)),
        (b"", (PROGRAM,)),
    ],
)
def test_an_image_that_is_no_pause_image_is_refused(
    config: bytes, entries: tuple[Entry, ...]
) -> None:
    with pytest.raises(ImageError):
        pause.bundle(config, [layer(*entries)])


def test_a_layer_that_is_no_archive_is_refused() -> None:
    with pytest.raises(ImageError, match="no tar archive"):
        pause.bundle(IMAGE_CONFIG, [b"x" * 2000])
