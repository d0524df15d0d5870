"""The cloud-config document: one shape, everything else refused."""

import base64
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import DecodeError
from guest.userdata.parse import (
    MAX_FILES,
    MAX_USER_DATA,
    UserFile,
    decode_encoded,
    parse_user_data,
)

USUAL = b"""#cloud-config

write_files:
  - path: /run/peerpod/apf.json
    content: |
      {
        "pod-network": {}
      }
  - path: /run/peerpod/initdata
    content: |
      H4sIAAAA
  - path: /run/peerpod/scratch-space.marker
"""


def test_a_usual_document_gives_its_files_in_order() -> None:
    assert parse_user_data(USUAL) == (
        UserFile(path="/run/peerpod/apf.json", content='{\n  "pod-network": {}\n}\n'),
        UserFile(path="/run/peerpod/initdata", content="H4sIAAAA\n"),
        UserFile(path="/run/peerpod/scratch-space.marker", content=""),
    )


@pytest.mark.parametrize(
    "text", ["", "\n", "# nothing\n", "---\n", "null\n", "write_files: []", "write_files:\n", "{}"]
)
def test_a_document_without_files_is_valid(text: str) -> None:
    assert parse_user_data(text.encode()) == ()


REFUSED = {
    "an extra key of a file": 'write_files:\n- path: a\n  permissions: "0600"\n',
    "an extra key of the document": "users: []\n",
    "no YAML": "%$#",
    "a duplicate key": "write_files: []\nwrite_files: []\n",
    "a duplicate key of a file": "write_files:\n- path: a\n  path: b\n",
    "a merge key": "write_files:\n- path: a\n  <<: {content: b}\n",
    "an alias": "write_files:\n- &x {path: a}\n- *x\n",
    "an anchor": "write_files: &x []\n",
    "a tag": "write_files:\n- path: !!python/object/apply:os.system [id]\n",
    "a tagged text": "write_files:\n- path: !!str a\n",
    "a number for a path": "write_files:\n- path: 12\n",
    "a number for a content": "write_files:\n- path: a\n  content: 12\n",
    "a truth for a content": "write_files:\n- path: a\n  content: yes\n",
    "a list for a content": "write_files:\n- path: a\n  content: [b]\n",
    "no path": "write_files:\n- content: a\n",
    "a null path": "write_files:\n- path:\n",
    "an empty entry": "write_files:\n-\n",
    "a text for a list": "write_files: a\n",
    "a mapping for a list": "write_files: {path: a}\n",
    "a list for a document": "- a\n",
    "a text for a document": "a\n",
    "two documents": "write_files: []\n---\nwrite_files: []\n",
    "deep nesting": "[" * 5000,
    "deep nesting of mappings": "{a: " * 5000,
    "an open quote": 'write_files:\n- path: "a\n',
    "a control character": "write_files: \x07\n",
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(DecodeError) as caught:
        parse_user_data(text.encode())
    assert caught.value.__cause__ is None


def test_an_error_names_the_line_and_never_the_content() -> None:
    text = "write_files:\n- path: a\n  content: {hunter2: [\n"
    with pytest.raises(DecodeError) as caught:
        parse_user_data(text.encode())
    assert "hunter2" not in "".join(caught.value.causes())
    assert str(caught.value) == "user data, line 3: nested too deep"


def test_limits_and_encoding_are_kept() -> None:
    entry = "- {path: a}\n"
    files = "write_files:\n" + entry * MAX_FILES
    assert len(parse_user_data(files.encode())) == MAX_FILES
    with pytest.raises(DecodeError, match="more than"):
        parse_user_data((files + entry).encode())
    with pytest.raises(DecodeError, match="longer"):
        parse_user_data(b"#" * (MAX_USER_DATA + 1))
    with pytest.raises(DecodeError, match="UTF-8"):
        parse_user_data(b"\xff")


def test_encoded_user_data_is_strict_base64_with_line_ends() -> None:
    text = base64.encodebytes(USUAL)
    assert decode_encoded(text.replace(b"\n", b"\r\n")) == USUAL
    for wrong in (text + b" ", text.strip() + b"=", b"_-==", b"A"):
        with pytest.raises(DecodeError):
            decode_encoded(wrong)


LINE = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Cn", "Zl", "Zp"), exclude_characters="\ufeff"),
    min_size=1,
    max_size=30,
).filter(lambda line: line[0] != " ")


@given(st.lists(LINE, min_size=1, max_size=5))
def test_a_block_gives_its_lines_back(lines: list[str]) -> None:
    content = "".join(f"{line}\n" for line in lines)
    document = "write_files:\n- path: p\n  content: |\n" + textwrap.indent(
        content, "    ", lambda line: True
    )
    assert parse_user_data(document.encode())[0].content == content


@given(st.binary(max_size=300))
def test_any_bytes_give_files_or_a_decode_error(data: bytes) -> None:
    for document in (data, b"write_files:\n- path: " + data):
        try:
            assert len(parse_user_data(document)) <= MAX_FILES
        except DecodeError:
            pass


def test_every_truncation_gives_files_or_a_decode_error() -> None:
    for length in range(len(USUAL)):
        try:
            parse_user_data(USUAL[:length])
        except DecodeError:
            pass
