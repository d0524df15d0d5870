"""Signature policies and registry rules, as a resource gives them."""

from guest.errors import DecodeError
from image_pull.reference import ImageReference
from image_pull.registry.mirrors import check_rules, pull_tasks
from image_pull.settings import parse_rules
from image_pull.signature.policy import Policy

SEEDS = (
    (
        b'{"default":[{"type":"reject"}],"transports":{"docker":{"q.io":[{"type":'
        b'"insecureAcceptAnything"}],"":[{"type":"sigstoreSigned","keyPath":"/k"}]}}}'
    ),
    (
        b'unqualified-search-registries = ["a.io"]\n[[registry]]\nprefix = "*.q.io"\n'
        b'location = "r.io"\n[[registry.mirror]]\nlocation="m.io"\npull-from-mirror = "tag-only"\n'
    ),
)
REFERENCE = ImageReference.parse("a.q.io/b/c:t")


def one_input(data: bytes) -> None:
    """A policy and rules that decide about an image, or DecodeErrors."""
    try:
        assert Policy.parse(data).requirements_for(REFERENCE)
    except DecodeError:
        pass
    try:
        table = parse_rules(data)
        check_rules(table)
        pull_tasks(REFERENCE, table)
    except DecodeError:
        pass
