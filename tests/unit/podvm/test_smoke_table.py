"""The verdict of the smoke test."""

from podvm.smoke.rows import ROWS
from podvm.smoke.table import Assertion, Result, Status, judge, parse, render

GOOD = Result(good=True, detail="")
BAD = Result(good=False, detail="why")
ROW = Assertion(number="S1", what="it holds", needs=("a.S1", "b.S1"))


def test_lines_are_found_between_what_others_write() -> None:
    console = "[ OK ] Started\r\nSMOKE S1 ok fine [1.0 s]\r\nxSMOKE S2 fail bad\r\nSMOKE-DONE"

    found = parse(console)

    assert found["S1"] == Result(good=True, detail="fine [1.0 s]")
    assert not found["S2"].good


def test_a_failure_is_not_overwritten_by_a_later_success() -> None:
    assert not parse("SMOKE S1 fail x\nSMOKE S1 ok y\n")["S1"].good


def test_a_result_that_did_not_come_is_a_failure() -> None:
    assert judge(ROW, {"a.S1": GOOD}) == (Status.FAILED, "b.S1: no result")
    assert judge(ROW, {"a.S1": GOOD, "b.S1": BAD})[0] is Status.FAILED
    assert judge(ROW, {"a.S1": GOOD, "b.S1": GOOD})[0] is Status.PASSED


def test_a_boot_that_nobody_asked_for_is_named_but_hides_no_failure() -> None:
    assert judge(ROW, {"a.S1": GOOD}, {"b"}) == (Status.NOT_RUN, "b.S1")
    assert judge(ROW, {"a.S1": BAD}, {"b"})[0] is Status.FAILED


def test_a_result_that_no_row_needs_must_be_good_too() -> None:
    both = {"a.S1": GOOD, "b.S1": GOOD}

    assert render((ROW,), both)[1]
    lines, good = render((ROW,), {**both, "b.off": BAD})
    assert not good
    assert any("b.off: why" in line for line in lines)


def test_the_rows_are_those_of_the_specification() -> None:
    assert [row.number for row in ROWS] == [f"S{number}" for number in range(1, 21)]
    assert all(row.needs for row in ROWS)
