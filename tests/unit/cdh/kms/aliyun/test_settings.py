"""Provider settings and annotations of Alibaba Cloud KMS."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdh.kms.aliyun.settings import (
    ClientKeySettings,
    EcsRamRoleSettings,
    OidcRamSettings,
    SecretVersion,
    StsTokenSettings,
    parse_iv,
    parse_settings,
    parse_version,
)
from cdh.kms.members import verify_id
from guest.errors import DecodeError

CLIENT = {"client_type": "client_key", "client_key_id": "KAAP.0-t", "kms_instance_id": "kst-1"}
STS = {"client_type": "sts_token", "token_path": "/run/x", "region_id": "cn-beijing"}
OIDC = {
    "client_type": "oidc_ram",
    "id_token": "e.y.J",
    "oidc_provider_arn": "acs:ram::1:oidc-provider/p",
    "role_arn": "acs:ram::1:role/r",
    "region_id": "cn-beijing",
}


def test_every_client_type_is_read_into_its_own_settings() -> None:
    assert parse_settings(CLIENT | {"other": 1}) == ClientKeySettings(
        client_key_id="KAAP.0-t", kms_instance_id="kst-1"
    )
    assert parse_settings(STS) == StsTokenSettings(token_path="/run/x", region_id="cn-beijing")
    assert parse_settings({"client_type": "ecs_ram_role"}) == EcsRamRoleSettings()
    found = parse_settings(OIDC)
    assert isinstance(found, OidcRamSettings)
    assert found.id_token is not None
    assert found.id_token.reveal() == b"e.y.J"
    assert (found.role_arn, found.region_id) == (OIDC["role_arn"], "cn-beijing")


def test_without_an_identity_token_the_role_may_come_from_the_guest() -> None:
    settings = {"client_type": "oidc_ram", "region_id": "cn-beijing"}
    assert parse_settings(settings) == OidcRamSettings(region_id="cn-beijing")
    assert parse_settings(settings | {"role_arn": "r"}) == OidcRamSettings(
        region_id="cn-beijing", role_arn="r"
    )


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "client type not exist."),
        ({"client_type": 1}, "client type value is not str."),
        ({"client_type": None}, "client type value is not str."),
        ({"client_type": "x"}, "client type invalid."),
        ({"client_type": "Attestation"}, "client type invalid."),
    ],
)
def test_a_wrong_client_type_has_its_own_text(settings: dict[str, object], text: str) -> None:
    with pytest.raises(DecodeError) as caught:
        parse_settings(settings)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    "name",
    ["../x", "a/b", "a..b", "", ".a", "a.", "-a", "a\n", "a@b", "a:1", "kst-1.evil.com/", "é"],
)
@pytest.mark.parametrize("member", ["client_key_id", "kms_instance_id"])
def test_what_becomes_a_host_or_a_file_name_has_a_fixed_alphabet(name: str, member: str) -> None:
    with pytest.raises(DecodeError, match=member):
        parse_settings(CLIENT | {member: name})
    with pytest.raises(DecodeError, match="region_id"):
        parse_settings(STS | {"region_id": name})
    with pytest.raises(DecodeError):
        verify_id("a" * 129, "x")


@pytest.mark.parametrize("base", [CLIENT, STS, OIDC])
def test_a_missing_member_or_one_of_another_type_is_refused(base: dict[str, Any]) -> None:
    for name in base:
        if name == "client_type":
            continue
        broken: tuple[object, ...] = (1, None, "", [])
        for value in broken:
            with pytest.raises(DecodeError, match=name):
                parse_settings(base | {name: value})
    with pytest.raises(DecodeError):
        parse_settings(OIDC | {"id_token": "é"})
    if base is not OIDC:
        with pytest.raises(DecodeError):
            parse_settings({"client_type": base["client_type"]})


def test_annotations_have_an_iv_and_versions_are_empty_by_default() -> None:
    assert parse_iv({"iv": "ICEiIyQlJicoKSor"}) == bytes(range(0x20, 0x2C))
    for wrong in ({}, {"iv": 1}, {"iv": ""}, {"iv": "ICEi\n"}, {"iv": "A" * 88}):
        with pytest.raises(DecodeError):
            parse_iv(wrong)
    assert parse_version({}) == SecretVersion()
    assert parse_version({"version_stage": "s", "version_id": "v"}) == SecretVersion(
        stage="s", version_id="v"
    )
    for text in ("version_stage", "version_id"):
        with pytest.raises(DecodeError, match=text):
            parse_version({text: None})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=3),
)


@given(
    st.dictionaries(
        st.sampled_from([*CLIENT, *STS, *OIDC, "iv", "version_id", "version_stage"]),
        JSON | st.sampled_from(["client_key", "sts_token", "ecs_ram_role", "oidc_ram", "a-1"]),
    )
)
def test_any_settings_give_a_value_or_a_decode_error(settings: dict[str, object]) -> None:
    for parse in (parse_settings, parse_iv, parse_version):
        with suppress(DecodeError):
            assert parse(settings) is not None
    with suppress(DecodeError, UnicodeEncodeError):
        parse_settings(json.loads(json.dumps(settings)))
