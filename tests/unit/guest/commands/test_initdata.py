"""`guest initdata`: build, inspect, digest, diff."""

import base64
import gzip
import hashlib
import json
import os
import random
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from guest.cli import main
from guest.commands.initdata import FIELDS

AA = '[token_configs.kbs]\nurl = "http://127.0.0.1:8080"\n'
CDH = '[kbc]\nname = "cc_kbc"\nurl = "http://127.0.0.1:8080"\n'
POLICY = "package agent_policy\n\ndefault CreateContainerRequest := true\n"


class Owner:
    """A person in a directory.

    Attributes:
        folder: where the files are.
    """

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        for name, text in (("aa", AA), ("cdh", CDH), ("policy", POLICY)):
            (folder / name).write_text(text)

    def put(self, name: str, content: str | bytes) -> str:
        """A file; gives its path."""
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    def path(self, name: str) -> str:
        """Of a file."""
        return str(self.folder / name)

    def guest(self, *words: str, status: int = 0) -> str:
        """What `guest initdata` prints; its errors where the status is not 0."""
        assert main(["initdata", *words]) == status
        said = self._capsys.readouterr()
        return said.out if status == 0 else said.out + said.err

    def build(self, name: str, *words: str) -> str:
        """A document of the three usual files; gives its path."""
        files = [f"--{kind}={self.path(kind)}" for kind in ("aa", "cdh", "policy")]
        self.guest("build", *files, "-o", self.path(name), *words)
        return self.path(name)


@pytest.fixture
def owner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Owner:
    return Owner(tmp_path, capsys)


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_a_document_holds_the_files_and_its_digest_is_that_of_its_bytes(
    owner: Owner, algorithm: str
) -> None:
    path = owner.build("out.toml", "-a", algorithm)
    content = Path(path).read_bytes()
    assert tomllib.loads(content.decode()) == {
        "version": "0.1.0",
        "algorithm": algorithm,
        "data": {"aa.toml": AA, "cdh.toml": CDH, "policy.rego": POLICY},
    }
    assert owner.guest("digest", path) == f"{hashlib.new(algorithm, content).hexdigest()}\n"


def test_every_form_holds_the_same_document(owner: Owner) -> None:
    toml = owner.build("a.toml")
    annotation = owner.build("a.txt", "--form", "annotation")
    device = owner.build("a.img", "--form", "device")
    digests = {owner.guest("digest", path) for path in (toml, annotation, device)}
    assert len(digests) == 1
    content = Path(toml).read_bytes()
    text = Path(annotation).read_text()
    assert gzip.decompress(base64.b64decode(text.strip(), validate=True)) == content
    assert text.count("\n") == 1
    image = Path(device).read_bytes()
    length = int.from_bytes(image[8:16], "little")
    assert (image[:8], len(image) % 512) == (b"initdata", 0)
    assert gzip.decompress(image[16 : 16 + length]) == content


def test_the_published_documents_have_the_published_values(owner: Owner, vectors: Path) -> None:
    found: list[dict[str, Any]] = json.loads((vectors / "guest/initdata_packed.json").read_text())[
        "vectors"
    ]
    for number, vector in enumerate(found):
        path = owner.put(f"v{number}", vector["packed"])
        assert owner.guest("digest", path) == vector["digest"] + "\n"
        for field in ("pcr8", "rtmr3"):
            if field in vector:
                assert owner.guest("digest", path, "--as", field) == vector[field] + "\n"
    plain = json.loads((vectors / "guest/initdata.json").read_text())["vectors"]
    for number, vector in enumerate(plain):
        path = owner.put(f"p{number}", vector["document"])
        assert owner.guest("digest", path, "--as", "tdx") == vector["mrconfigid"] + "\n"
    assert owner.guest("digest", owner.path("p0"), "--as", "base64") == (
        "/eT2MBOijO3U/mEIL8Y00lLJN0QNhZ3PAIzfrVwJprzcFL9PhiaDlSvLF3DYOJfx\n"
    )
    assert owner.guest("digest", owner.path("p0"), "--as", "snp") == (
        "fde4f63013a28cedd4fe61082fc634d252c937440d859dcf008cdfad5c09a6bc\n"
    )
    assert owner.guest("digest", owner.path("p1"), "--as", "pcr8") == (
        "d5958e1a5c45ca630e823e9a5e42eb447b211fdaf65682bd239994d087714dce\n"
    )


def test_all_fields_are_listed_with_their_meaning(owner: Owner) -> None:
    lines = owner.guest("digest", owner.build("a.toml"), "--as", "all").splitlines()
    assert [line.split()[0] for line in lines] == list(FIELDS)


def test_inspect_says_what_is_in_a_document_and_what_room_it_takes(owner: Owner) -> None:
    path = owner.build("a.txt", "--form", "annotation")
    said = owner.guest("inspect", path)
    assert f"file       policy.rego, {len(POLICY)} bytes" in said
    assert said.count("fits") == 5
    summary = json.loads(owner.guest("inspect", path, "--json"))
    assert summary["files"] == {
        "aa.toml": len(AA),
        "cdh.toml": len(CDH),
        "policy.rego": len(POLICY),
    }
    assert summary["packed"] == len(Path(path).read_text().strip())
    assert summary["budget"]["aws"]["fits"] is True
    assert summary["digest"]["hex"] == owner.guest("digest", path).strip()


def test_a_file_of_a_document_is_extracted_as_it_is(owner: Owner) -> None:
    path = owner.build("a.toml")
    assert owner.guest("inspect", path, "--extract", "policy.rego") == POLICY
    assert "holds no x" in owner.guest("inspect", path, "--extract", "x", status=1)


def test_standard_input_and_output_are_taken(owner: Owner) -> None:
    def pipe(stdin: bytes, *words: str) -> bytes:
        command = [sys.executable, "-I", "-m", "guest", "initdata", *words]
        return subprocess.run(command, input=stdin, capture_output=True, timeout=60).stdout

    printed = pipe(AA.encode(), "build", "--aa", "-")
    assert tomllib.loads(printed.decode())["data"] == {"aa.toml": AA}
    expected = hashlib.sha384(printed).hexdigest()
    assert pipe(printed, "digest", "-") == f"{expected}\n".encode()


def test_a_document_over_its_budget_is_refused_and_not_written(owner: Owner) -> None:
    big = owner.put("big", random.Random(2).randbytes(12_000).hex())
    words = ["build", "--file", f"policy.rego={big}", "-o", owner.path("out")]
    assert "does not fit: aws" in owner.guest(*words, "--for", "aws", status=1)
    assert not os.path.exists(owner.path("out"))
    owner.guest(*words, "--for", "alibaba", "--for", "annotation")
    assert "does not fit" in owner.guest("inspect", owner.path("out"), "--for", "aws", status=1)
    assert "DOES NOT FIT" in owner.guest("inspect", owner.path("out"))


BAD = {
    "no file": [],
    "a file that is not there": ["--aa", "{}/absent"],
    "a file that is no TOML": ["--aa", "{}/policy"],
    "a file without a name": ["--file", "{}/aa"],
    "a name twice": ["--aa", "{}/aa", "--file", "aa.toml={}/aa"],
    "a directory": ["--aa", "{}"],
    "no UTF-8": ["--policy", "{}/binary"],
    "a place that is not there": ["--aa", "{}/aa", "-o", "{}/no/such"],
    "too long": ["--policy", "{}/long"],
}


@pytest.mark.parametrize("words", BAD.values(), ids=BAD)
def test_what_cannot_be_built_is_status_1_and_nothing_is_written(
    owner: Owner, words: list[str]
) -> None:
    owner.put("binary", b"\xff\xfe")
    owner.put("long", "x" * 1_100_000)
    before = sorted(os.listdir(owner.folder))
    output = [] if "-o" in words else ["-o", owner.path("out")]
    filled = [word.replace("{}", str(owner.folder)) for word in words]
    said = owner.guest("build", *filled, *output, status=1)
    assert said.startswith("guest initdata build: ")
    assert sorted(os.listdir(owner.folder)) == before


def test_a_name_that_nobody_reads_is_warned_of(
    owner: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["build", "--file", f"a.toml={owner.path('aa')}", "-o", owner.path("out")]
    assert main(["initdata", *words]) == 0
    assert capsys.readouterr().err == "warning: a.toml: no guest reads a file of this name\n"


def test_diff_tells_same_different_and_trouble_apart(owner: Owner) -> None:
    first = owner.build("a.toml")
    packed = owner.build("b.txt", "--form", "annotation")
    assert owner.guest("diff", first, packed) == ""
    owner.put("cdh", CDH.replace("8080", "9090"))
    second = owner.build("c.toml", "-a", "sha256")
    said = owner.guest("diff", first, second, status=1)
    assert "algorithm: sha384 -> sha256\n" in said
    assert '-url = "http://127.0.0.1:8080"\n+url = "http://127.0.0.1:9090"\n' in said
    assert "--- a/cdh.toml\n+++ b/cdh.toml\n" in said
    assert "aa.toml" not in said
    assert "cannot be read" in owner.guest("diff", first, owner.path("absent"), status=2)
    assert "holds no init data" in owner.guest("diff", first, owner.path("policy"), status=2)


def test_diff_shows_files_of_one_side_and_spelling_alone(owner: Owner) -> None:
    head = 'version = "0.1.0"\nalgorithm = "sha256"\n[data]\n'
    one = owner.put("1", head + '"aa.toml" = "x"\n"empty" = ""\n')
    other = owner.put("2", head + "\"aa.toml\" = '''x'''\n\"empty\" = ''\n")
    assert "only their spelling" in owner.guest("diff", one, other, status=1)
    third = owner.put("3", head + '"aa.toml" = "x"\n"policy.rego" = "p"\n')
    said = owner.guest("diff", one, third, status=1)
    assert "only in the first: empty\n" in said
    assert "only in the second: policy.rego\n" in said
    assert "+p\n\\ No newline at end of file\n" in said


@pytest.mark.parametrize(
    "content", [b"", b"H4sI", b"H4sIAAAA", b"\xff", b"initdata\0\0\0\0\0\0\0\0"]
)
@pytest.mark.parametrize("action", ["inspect", "digest"])
def test_a_file_that_holds_no_init_data_is_status_1(
    owner: Owner, action: str, content: bytes
) -> None:
    said = owner.guest(action, owner.put("f", content), status=1)
    assert "holds no init data" in said


@pytest.mark.parametrize(
    "words",
    [[], ["nonsense"], ["build", "-a", "sm3"], ["digest"], ["diff", "a"], ["inspect", "a", "b"]],
)
def test_a_wrong_command_line_is_status_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["initdata", *words])
    assert ended.value.code == 2


@pytest.mark.parametrize("words", [[], ["build"], ["inspect"], ["digest"], ["diff"]])
def test_help_has_examples(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["initdata", *words, "--help"])
    assert ended.value.code == 0
    assert "guest initdata digest initdata.toml --as tdx" in capsys.readouterr().out


def test_a_document_s_words_do_not_steer_the_terminal(
    owner: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    head = 'version = "\\u001b[1m"\nalgorithm = "sm3"\n[data]\n"\\u001b[2J" = "x"\n'
    path, plain = owner.put("evil", head), owner.put("plain", head.replace("[2J", "[3J"))
    assert main(["initdata", "inspect", path]) == 0
    assert main(["initdata", "diff", path, plain]) == 1
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert "algorithm sm3: kata does not take it" in said.err
