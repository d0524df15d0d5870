"""Start and stop of the agent: what refuses to start, and that nothing appears then."""

import asyncio
from pathlib import Path

import pytest

from attestation_agent.agent import Agent
from attestation_agent.launch import LaunchData
from guest.deadline import Deadline
from guest.errors import ConfigError, GuestError, IntegrityError, PlatformError
from support.agents import NoServer, config_of, make_agent, running


def chain(error: GuestError) -> str:
    return ": ".join(error.causes())


def test_a_guest_with_a_tee_does_not_start_as_a_sample(short_tmp: Path) -> None:
    (short_tmp / "dev").mkdir()
    (short_tmp / "dev" / "csv-guest").touch()
    with pytest.raises(GuestError) as caught:
        make_agent(short_tmp, config_of(attester={"tee": "sample"}))
    assert chain(caught.value).startswith("start AA: ")
    assert "this guest has csv" in chain(caught.value)


async def test_the_server_appears_after_the_init_data_and_is_drained_at_the_end(
    short_tmp: Path,
) -> None:
    server = NoServer()
    launch = LaunchData(digest=bytes(48))
    async with running(make_agent(short_tmp, launch=launch, server=server)):
        assert server.notes == ["bind", "publish"]
    assert server.notes == ["bind", "publish", "drain"]


async def test_init_data_of_another_guest_refuses_the_start(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def mismatch(self: Agent, digest: bytes, deadline: Deadline) -> bool:
        raise IntegrityError("Init data does not match!")

    monkeypatch.setattr(Agent, "bind_init_data", mismatch)
    server = NoServer()
    agent = make_agent(short_tmp, launch=LaunchData(digest=bytes(48)), server=server)
    with pytest.raises(PlatformError) as caught:
        await agent.run(ready=lambda: None, stop=asyncio.Event())
    assert chain(caught.value) == (
        "The initdata supplied by the parameter is inconsistent with that of the current "
        "platform.: Init data does not match!"
    )
    assert server.notes == ["bind", "drain"], "listened unseen, never appeared"


@pytest.mark.parametrize(
    ("tables", "key"),
    [
        ({"token_configs": {"kbs": {"url": "nope"}}}, "token_configs.kbs.url 'nope'"),
        (
            {"token_configs": {"kbs": {"url": "http://h", "fallback_urls": ["ftp://i"]}}},
            "token_configs.kbs.fallback_urls\\[0\\] 'ftp://i'",
        ),
        ({"token_configs": {"coco_as": {"url": "/as"}}}, "token_configs.coco_as.url '/as'"),
        (
            {"aa_instance": {"heartbeat": {"trustee_url": "h:1"}}},
            "aa_instance.heartbeat.trustee_url 'h:1'",
        ),
    ],
)
def test_an_address_that_can_never_be_reached_refuses_the_start(
    short_tmp: Path, tables: dict[str, object], key: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{key} is not an http or https URL$"):
        make_agent(short_tmp, config_of(**tables))


async def test_an_address_that_cannot_be_served_refuses_the_start(short_tmp: Path) -> None:
    class Refusing(NoServer):
        async def publish(self) -> None:
            raise PlatformError("cannot listen")

    agent = make_agent(short_tmp, server=Refusing())
    with pytest.raises(PlatformError) as caught:
        await agent.run(ready=lambda: None, stop=asyncio.Event())
    assert chain(caught.value) == "cannot bind attestation ttrpc service: cannot listen"
