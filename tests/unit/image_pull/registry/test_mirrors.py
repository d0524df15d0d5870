"""Registry rules against the vectors of the specification."""

import msgspec
import pytest

from guest.errors import DecodeError
from image_pull.reference import ImageReference
from image_pull.registry.mirrors import check_rules, pull_tasks
from image_pull.registry.rules import RegistriesTable

DIGEST = "sha256:" + "ab" * 32

VECTORS = {
    "unqualified-search-registries": ["docker.io", "example1.com"],
    "registry": [
        {"location": "example.com/banned", "blocked": True},
        {
            "prefix": "example.com/foo",
            "location": "internal-registry-for-example.com/bar",
            "mirror": [
                {"location": "example-mirror-0.local/mirror-for-foo"},
                {"location": "example-mirror-1.local/mirrors/foo", "insecure": True},
            ],
        },
        {"location": "docker.io", "mirror": [{"location": "123456.mirror.aliyuncs.com"}]},
        {"prefix": "*.wild.org", "location": "w.local"},
        {"location": "127.0.0.1:5000", "insecure": True},
    ],
}

INTERNAL = "internal-registry-for-example.com/bar"
EXPECTED = {
    "bar:tag": [
        "https 123456.mirror.aliyuncs.com/library/bar:tag mirror",
        "https docker.io/library/bar:tag unqualified",
        "https example1.com/bar:tag unqualified",
    ],
    "foo/bar:tag": [
        "https 123456.mirror.aliyuncs.com/foo/bar:tag mirror",
        "https docker.io/foo/bar:tag unqualified",
        "https example1.com/foo/bar:tag unqualified",
    ],
    "example.com/foo/image:tag": [
        "https example-mirror-0.local/mirror-for-foo/image:tag mirror",
        "http example-mirror-1.local/mirrors/foo/image:tag mirror",
        f"https {INTERNAL}/image:tag remapped",
    ],
    f"example.com/foo:t@{DIGEST}": [
        f"https example-mirror-0.local/mirror-for-foo:t@{DIGEST} mirror",
        f"http example-mirror-1.local/mirrors/foo:t@{DIGEST} mirror",
        f"https {INTERNAL}:t@{DIGEST} remapped",
    ],
    "example.com/banned-suffix/image:tag": ["https example.com/banned-suffix/image:tag original"],
    "a.b.wild.org/x/y": ["https w.local/x/y:latest remapped"],
    "wild.org/x": ["https wild.org/x:latest original"],
    "127.0.0.1:5000/some-image": ["http 127.0.0.1:5000/some-image:latest remapped"],
    f"bar:tag@{DIGEST}": [
        f"https 123456.mirror.aliyuncs.com/library/bar:tag@{DIGEST} mirror",
        f"https docker.io/library/bar:tag@{DIGEST} unqualified",
        f"https example1.com/bar:tag@{DIGEST} unqualified",
    ],
}


def table(document: object) -> RegistriesTable:
    return msgspec.convert(document, RegistriesTable)


def tasks(image: str, document: object = VECTORS) -> list[str]:
    found = pull_tasks(ImageReference.parse(image), table(document))
    return [f"{task.scheme} {task.reference} {task.kind}" for task in found]


@pytest.mark.parametrize("image", EXPECTED)
def test_an_image_is_looked_for_where_the_vectors_say(image: str) -> None:
    assert tasks(image) == EXPECTED[image]


@pytest.mark.spec("image-pull", 11)
def test_all_vectors_hold_in_order_and_with_their_schemes() -> None:
    assert {image: tasks(image) for image in EXPECTED} == EXPECTED
    with pytest.raises(DecodeError, match="is blocked by registry rule"):
        tasks("example.com/banned/image:tag")


@pytest.mark.spec("image-pull", 12)
def test_a_prefix_matches_at_the_start_only() -> None:
    image = "mirror.evil.net/example.com/foo/x"
    assert tasks(image) == [f"https {image}:latest original"]


def test_a_wildcard_does_not_reach_into_the_path() -> None:
    assert tasks("evil.net/a.wild.org/x") == ["https evil.net/a.wild.org/x:latest original"]


def test_insecure_holds_for_a_rule_with_a_prefix_alone() -> None:
    rules = {"registry": [{"prefix": "q.io", "insecure": True}]}
    assert tasks("q.io/a", rules) == ["http q.io/a:latest original"]


def test_of_equal_matches_the_later_rule_wins() -> None:
    rules = {
        "registry": [{"prefix": "q.io", "location": "one.io"}, {"prefix": "q.io", "blocked": True}]
    }
    with pytest.raises(DecodeError):
        tasks("q.io/a", rules)


def test_mirrors_for_digests_serve_only_digests() -> None:
    rules = {
        "registry": [
            {
                "location": "q.io",
                "mirror": [
                    {"location": "d.io", "pull-from-mirror": "digest-only"},
                    {"location": "t.io", "pull-from-mirror": "tag-only"},
                ],
            }
        ]
    }
    assert tasks("q.io/a:t", rules)[0] == "https t.io/a:t mirror"
    assert tasks(f"q.io/a@{DIGEST}", rules)[0] == f"https d.io/a@{DIGEST} mirror"


REFUSED = {
    "both location and prefix are empty": {"registry": [{"blocked": True}]},
    "location is unset and prefix is with wildcard": {"registry": [{"prefix": "*.a.b"}]},
    "mirror location is empty": {"registry": [{"prefix": "a", "mirror": [{"location": ""}]}]},
    "aliases are not supported": {"aliases": {"a": "b"}},
    "credential-helpers are not supported": {"credential-helpers": ["secretservice"]},
    "short-name-mode enforcing": {
        "short-name-mode": "enforcing",
        "unqualified-search-registries": ["a.io", "b.io"],
    },
    "contradicts": {
        "registry": [
            {
                "prefix": "a",
                "mirror-by-digest-only": True,
                "mirror": [{"location": "b", "pull-from-mirror": "all"}],
            }
        ]
    },
}


@pytest.mark.parametrize("text", REFUSED)
def test_rules_that_cannot_be_evaluated_are_refused(text: str) -> None:
    with pytest.raises(DecodeError, match=f"^illegal Registry Config: .*{text}"):
        check_rules(table(REFUSED[text]))


def test_no_rules_give_the_image_itself() -> None:
    assert tasks("q.io/a", {}) == ["https q.io/a:latest original"]
