"""Access keys are kept while they last, few of them, and asked for once for all who wait."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from cdh.kms.aliyun.openapi import AccessKey
from cdh.kms.aliyun.sessions import MAX_KEPT, AccessKeys
from guest.deadline import Deadline
from guest.errors import DeadlineError, DeniedError
from guest.secret import Secret


class Issuer:
    """Gives a new key each time, with a life of some seconds; None says nothing of its end."""

    def __init__(self, seconds: float | None = 3600) -> None:
        self.seconds = seconds
        self.issued = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def issue(self, deadline: Deadline) -> AccessKey:
        await self.gate.wait()
        self.issued += 1
        life = None if self.seconds is None else timedelta(seconds=self.seconds)
        expires = None if life is None else datetime.now(UTC) + life
        number = str(self.issued)
        return AccessKey(key_id=number, secret=Secret(b"s"), token=Secret(b"t"), expires=expires)


async def test_a_key_is_kept_while_more_than_five_minutes_are_left() -> None:
    for seconds, asked in ((3600.0, 1), (301.0, 1), (300.0, 2), (-1.0, 2), (None, 2)):
        keys, issuer = AccessKeys(), Issuer(seconds)
        for _ in range(2):
            await keys.get("a", issuer.issue, Deadline.after(10))
        assert issuer.issued == asked, seconds


async def test_a_refused_key_is_forgotten_once_and_another_one_never() -> None:
    keys, issuer = AccessKeys(), Issuer()
    key = await keys.get("a", issuer.issue, Deadline.after(10))
    other = await keys.get("b", issuer.issue, Deadline.after(10))
    assert not keys.forget("a", other)
    assert keys.forget("a", key)
    assert not keys.forget("a", key)
    assert (await keys.get("a", issuer.issue, Deadline.after(10))) is not key
    assert (await keys.get("b", issuer.issue, Deadline.after(10))) is other


async def test_the_oldest_key_gives_way_when_there_are_many() -> None:
    keys, issuer = AccessKeys(), Issuer()
    for number in range(MAX_KEPT + 1):
        await keys.get(str(number), issuer.issue, Deadline.after(10))
    await keys.get("1", issuer.issue, Deadline.after(10))
    assert issuer.issued == MAX_KEPT + 1
    await keys.get("0", issuer.issue, Deadline.after(10))
    assert issuer.issued == MAX_KEPT + 2


async def test_all_who_wait_get_one_key_and_one_who_gives_up_disturbs_nobody() -> None:
    keys, issuer = AccessKeys(), Issuer()
    issuer.gate.clear()

    async def give_up() -> None:
        with pytest.raises(DeadlineError):
            await keys.get("a", issuer.issue, Deadline.after(0.05))
        issuer.gate.set()

    async with asyncio.TaskGroup() as tasks:
        waiting = [
            tasks.create_task(keys.get("a", issuer.issue, Deadline.after(30)), name=str(number))
            for number in range(10)
        ]
        tasks.create_task(give_up(), name="impatient")
    assert len({id(task.result()) for task in waiting}) == 1
    assert issuer.issued == 1


async def test_a_refusal_is_not_kept() -> None:
    keys, issuer = AccessKeys(), Issuer()

    async def refuse(deadline: Deadline) -> AccessKey:
        raise DeniedError("no")

    with pytest.raises(DeniedError):
        await keys.get("a", refuse, Deadline.after(10))
    assert await keys.get("a", issuer.issue, Deadline.after(10))
