import asyncio

from hypothesis import given
from hypothesis import strategies as st

from guest.rpc.budget import Budget


def test_who_comes_later_waits_behind_who_waits() -> None:
    budget = Budget(10)
    served: list[str] = []

    def serve_first() -> None:
        served.append("first")

    def serve_second() -> None:
        served.append("second")

    assert budget.take(6)
    assert not budget.take(5)
    budget.wait(5, serve_first)
    assert not budget.take(1)
    budget.wait(1, serve_second)
    budget.give(6)
    assert served == ["first", "second"]
    assert budget.left == 4
    assert budget.take(4)


def test_who_leaves_the_line_lets_the_next_one_in() -> None:
    budget = Budget(10)
    served: list[int] = []

    def big() -> None:
        served.append(10)

    def small() -> None:
        served.append(2)

    assert budget.take(8)
    budget.wait(10, big)
    budget.wait(2, small)
    assert served == []
    budget.withdraw(big)
    assert served == [2]
    assert budget.left == 0


async def test_a_cancelled_wait_holds_nothing() -> None:
    budget = Budget(10)
    await budget.hold(10)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(budget.hold(3))
        late = group.create_task(budget.hold(4))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
        budget.give(10)
        late.cancel()  # its bytes are its own already
    assert budget.left == 10


@given(st.lists(st.integers(0, 12), max_size=30))
def test_never_more_is_held_than_there_is(sizes: list[int]) -> None:
    budget = Budget(12)
    held = 0
    for size in sizes:
        if budget.take(size):
            held += size
        else:
            budget.give(held)
            held = 0
        assert budget.left == 12 - held >= 0
