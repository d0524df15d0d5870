"""The documents of resource injection: what is read, what is refused, what an answer says."""

import base64
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_server_rest.injection import (
    MAX_NONCE_DOCUMENT,
    NonceDocument,
    ResourceDocument,
    encode_prepared,
)
from guest.errors import DecodeError
from guest.protos import cdh_pb2


def test_the_documents_limit_counts_bytes_and_the_longest_nonce_fits_escaped() -> None:
    longest = "\U0001f600" * 4096
    document = json.dumps({"nonce": longest}).encode()
    assert NonceDocument.decode(document).nonce == longest
    with pytest.raises(DecodeError):
        NonceDocument.decode(b'{"nonce":"a"}' + b" " * MAX_NONCE_DOCUMENT)


@given(st.binary(max_size=100))
def test_any_body_gives_documents_or_a_decode_error(data: bytes) -> None:
    for kind in (NonceDocument, ResourceDocument):
        with suppress(DecodeError):
            kind.decode(data)


@given(st.text(max_size=20), st.dictionaries(st.text(max_size=5), st.text(max_size=5)))
def test_an_encoded_resource_comes_through_as_it_was_written(
    session: str, members: dict[str, str]
) -> None:
    resource = json.dumps(members, indent=1).encode()
    body = b'{"encrypted_resource":\n%s ,"session_id":%s}' % (
        resource, json.dumps(session).encode()
    )  # fmt: skip
    with suppress(DecodeError):  # a lone surrogate has no UTF-8
        document = ResourceDocument.decode(body)
        assert document.session_id == session
        assert bytes(document.encrypted_resource) == resource


@given(
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), st.integers(0, 9)),
    st.binary(max_size=20),
)
def test_an_answer_says_what_the_hub_said(nonce: str, key: dict[str, int], data: bytes) -> None:
    prepared = cdh_pb2.PrepareResourceInjectionResponse(
        SessionId="s", Nonce=nonce, TeePubKey=json.dumps(key), Evidence=data
    )
    assert json.loads(encode_prepared(prepared)) == {
        "session_id": "s",
        "nonce": nonce,
        "tee_pubkey": key,
        "evidence": base64.b64encode(data).decode(),
    }
