"""Settings and the credential file of an eHSM-KMS."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdh.kms.ehsm.settings import EhsmSettings, decode_credentials, parse_settings
from guest.errors import DecodeError

SETTINGS = {"app_id": "4eb1e0f2-0000", "endpoint": "https://host:9000"}
DOCUMENT = {"AppId": "4eb1e0f2-0000", "ApiKey": "canary"}


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://host:9000",
        "https://h",
        "https://a-b.c:1/d/e",
        "https://[::1]:9000",
        "https://1.2.3.4",
    ],
)
def test_an_endpoint_is_an_https_url_with_or_without_a_slash_at_its_end(endpoint: str) -> None:
    for text in (endpoint, f"{endpoint}/"):
        found = parse_settings(SETTINGS | {"endpoint": text, "unknown": 1})
        assert found == EhsmSettings(app_id="4eb1e0f2-0000", endpoint=endpoint)


@pytest.mark.parametrize(
    "endpoint",
    [
        "", None, 1, "http://host:9000", "host:9000", "https://", "https://u@h", "https://h?x",
        "https://h#x", "https://h/../x", "https://h//x", "https://h:port", "https://h/a b",
        "https://h/%2e", "https://é", "HTTPS://h", "https://" + "h" * 300,
    ],
)  # fmt: skip
def test_anything_else_is_no_endpoint(endpoint: object) -> None:
    with pytest.raises(DecodeError, match="endpoint"):
        parse_settings(SETTINGS | {"endpoint": endpoint})


@pytest.mark.parametrize("app_id", ["", None, 1, "../x", "a/b", ".", "a" * 129, "é"])
def test_an_application_that_is_no_id_names_no_file(app_id: object) -> None:
    with pytest.raises(DecodeError, match="app_id"):
        parse_settings(SETTINGS | {"app_id": app_id})


def test_the_file_has_both_members() -> None:
    found = decode_credentials(json.dumps(DOCUMENT | {"unknown": 1}).encode())
    assert (found.app_id, found.api_key.reveal()) == ("4eb1e0f2-0000", b"canary")
    assert "canary" not in repr(found)


def test_a_file_that_is_cut_doubled_or_wrong_is_refused_without_its_secret() -> None:
    whole = json.dumps(DOCUMENT).encode()
    changes: tuple[dict[str, object], ...] = ({"ApiKey": ""}, {"ApiKey": 1}, {"AppId": "a b"})
    for data in (
        *(whole[:length] for length in range(len(whole))),
        whole[:-1] + b',"ApiKey":"canary"}',
        b" " * 70_000,
        *(json.dumps(DOCUMENT | change).encode() for change in changes),
    ):
        with pytest.raises(DecodeError) as caught:
            decode_credentials(data)
        assert "canary" not in " ".join(caught.value.causes())


@given(st.dictionaries(st.sampled_from(["app_id", "endpoint"]), st.none() | st.text(max_size=20)))
def test_any_members_give_a_value_or_a_decode_error(members: dict[str, object]) -> None:
    with suppress(DecodeError):
        parse_settings(members)
