"""Who answered before, and is gone, is waited for."""

import pytest

from guest.deadline import Deadline
from guest.errors import PeerError, UnreachableError
from guest.protos import aa_pb2
from guest.protos.methods import GET_TEE_TYPE
from guest.rpc.method import Metadata, Method, Q, R
from guest.rpc.patience import PatientChannel

REQUEST = aa_pb2.GetTeeTypeRequest()


class Scripted:
    """A channel whose calls end as they were told, the last one for ever."""

    address = "unix:///nowhere"

    def __init__(self, *ends: Exception | None) -> None:
        self.ends = list(ends)
        self.calls = 0

    async def call(
        self, method: Method[Q, R], request: Q, *, deadline: Deadline, metadata: Metadata = ()
    ) -> R:
        """End as told."""
        end = self.ends[min(self.calls, len(self.ends) - 1)]
        self.calls += 1
        if end is not None:
            raise end
        return method.response()

    async def close(self) -> None:
        """Nothing."""


async def ask(channel: PatientChannel, seconds: float = 20.0) -> None:
    await channel.call(GET_TEE_TYPE, REQUEST, deadline=Deadline.after(seconds))


async def test_a_restart_of_who_answered_before_is_waited_for() -> None:
    gone = UnreachableError("gone")
    inner = Scripted(None, gone, gone, None)
    channel = PatientChannel(inner)

    await ask(channel)
    await ask(channel)

    assert inner.calls == 4


async def test_who_never_answered_is_not_waited_for() -> None:
    inner = Scripted(UnreachableError("gone"))

    with pytest.raises(UnreachableError):
        await ask(PatientChannel(inner))
    assert inner.calls == 1


async def test_the_wait_ends_with_the_time_of_the_caller_or_of_a_restart() -> None:
    for limit, seconds in ((0.3, 20.0), (30.0, 0.3)):
        channel = PatientChannel(Scripted(None, UnreachableError("gone")), seconds=limit)
        await ask(channel)
        with pytest.raises(UnreachableError):
            await ask(channel, seconds)


async def test_another_failure_is_not_repeated() -> None:
    inner = Scripted(None, PeerError("no"))
    channel = PatientChannel(inner)
    await ask(channel)

    with pytest.raises(PeerError):
        await ask(channel)
    assert inner.calls == 2
