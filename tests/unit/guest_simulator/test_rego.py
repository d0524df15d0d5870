"""The small part of Rego: what it understands, and that it refuses the rest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest_simulator.kbs.policy import Access
from guest_simulator.kbs.rego import compile_policy
from guest_simulator.kbs.rego_syntax import RegoError

SAMPLE = {"cpu0": {"ear.status": "affirming", "ear.veraison.annotated-evidence": {"sample": {}}}}
MIXED = {**SAMPLE, "gpu0": {"ear.status": "warning"}}

SPECIFIED = """
package policy
import rego.v1
default allow := false
allow if {
    data.plugin == "resource"
    data["resource-path"][0] == "default"
    input.submods.cpu0["ear.veraison.annotated-evidence"].sample
}
"""
AFFIRMING = """
package policy
import rego.v1

default allow = false

allow if {
    not any_not_affirming
    count(input.submods) > 0
}

any_not_affirming if {
    some _, submod in input.submods
    submod["ear.status"] != "affirming"
}
"""


def access(submods: object = SAMPLE, path: str = "default/key/1", **query: str) -> Access:
    segments = tuple(path.split("/"))
    return Access(claims={"submods": submods}, plugin="resource", path=segments, query=query)


def body(text: str) -> str:
    return f"package policy\ndefault allow := false\nallow if {{\n{text}\n}}\n"


@pytest.mark.parametrize(
    ("text", "request_", "allowed"),
    [
        (SPECIFIED, access(), True),
        (SPECIFIED, access(path="other/key/1"), False),
        (SPECIFIED, access({"cpu0": {}}), False),
        (SPECIFIED, access({}), False),
        (AFFIRMING, access(), True),
        (AFFIRMING, access(MIXED), False),
        (AFFIRMING, access({}), False),
        ("package policy\ndefault allow = true", access(), True),
        ("package policy\ndefault allow = false\nallow {\n data.plugin == `resource`\n}", access(),
         True),
        ("package policy\nallow if data.query.a == \"1\"", access(a="1"), True),
        ("package policy\nallow if data.query.a == \"1\"", access(), False),
        ("package policy\nallow := 1", access(), False),
        ("package policy\nallow = true if { 1 < 2 }", access(), True),
        (body('every _, s in input.submods { s["ear.status"] == "affirming" }'), access(), True),
        (body('every s in input.submods { s["ear.status"] == "affirming" }'), access(MIXED), False),
        (body('every s in input.missing { s }'), access(), False),
        (body('"key" in data["resource-path"]; not "x" in data["resource-path"]'), access(), True),
        (body('p := data["resource-path"]\n count(p) == 3\n startswith(p[1], "k")'), access(),
         True),
        (body('some i, s in data["resource-path"]\n i == 2\n s == "1"'), access(), True),
        (body('data["resource-path"] == ["default", "key", "1"] # all of it'), access(), True),
        (body('x := split("a/b", "/")\nx[1] == "b"'),
         access(), True),
        (body("1 == true"), access(), False),
        (body("input.submods < 1"), access(), False),
        (body("false"), access(), False),
        (body("null"), access(), True),
    ],
)  # fmt: skip
def test_a_policy_decides(text: str, request_: Access, allowed: bool) -> None:
    assert compile_policy(text)(request_) is allowed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "package policy",
        "package kbs\nallow = true",
        "package policy\nallow",
        "package policy\nallow if {}",
        "package policy\nallow if { http.send({}) }",
        "package policy\nallow if { unknown(1) }",
        "package policy\nallow if { a = 1 }",
        "package policy\nallow if { input.x == 1",
        "package policy\nimport data.other\nallow = true",
        "package policy\ndefault allow",
        "package policy\nallow if { \"a\\q\" }",
        "package policy\nallow if { a | b }",
        "package policy\nallow if " + "(" * 100 + "1" + ")" * 100,
        "package policy\nallow if { a b }",
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(RegoError):
        compile_policy(text)


def test_a_rule_that_needs_itself_denies() -> None:
    assert not compile_policy("package policy\nallow if { allow }")(access())


@given(st.text(alphabet='alowif{}[]().=:<>!, \n"1_', max_size=60))
def test_any_text_is_a_policy_or_an_error(text: str) -> None:
    try:
        policy = compile_policy("package policy\nallow if {" + text)
    except RegoError:
        return
    assert policy(access()) in (True, False)
