"""guest/kbs/lease.py: when a token is replaced and when it is over."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.deadline import boot_seconds
from guest.kbs.lease import Lease


@given(st.floats(0, 1e6))
def test_a_life_is_renewed_between_seven_and_nine_tenths_and_30_s_before_its_end(
    life: float,
) -> None:
    before = boot_seconds()
    lease = Lease.begin("token", life)
    after = boot_seconds()
    assert before + life <= lease.ends <= after + life
    waits = lease.refresh_at - (lease.ends - life)
    assert waits <= 0.9 * life + 1e-6
    if life >= 300:
        assert waits >= 0.7 * life - 1e-6 or waits >= life - 30 - 1e-6
    if life >= 60:
        assert waits <= life - 30 + 1e-6
    assert waits >= life / 2 - 1e-6


def test_a_token_without_an_end_is_never_over_and_never_renewed() -> None:
    lease = Lease.begin("token", None)
    assert not lease.is_over()
    assert lease.until_refresh() == math.inf


@pytest.mark.parametrize(("life", "is_over"), [(0.0, True), (1000.0, False)])
def test_doubt_does_not_outlive_a_life_that_is_over(life: float, is_over: bool) -> None:
    lease = Lease.begin("token", life, is_doubted=True)
    assert lease.is_over() is is_over
    assert lease.is_doubted is not is_over
