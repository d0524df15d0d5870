"""Every key management service of the tables opens, refuses and closes alike."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from cdh.config import CdhConfig
from cdh.keyprovider.packet import AnnotationPacket
from cdh.kms import (
    DECRYPTERS,
    ENCRYPTERS,
    GETTERS,
    RESOURCE_CLIENTS,
    DecrypterEntry,
    GetterEntry,
    open_decrypter,
    open_getter,
)
from cdh.kms.site import KmsSite
from guest.deadline import Deadline
from guest.errors import GuestError, InvalidInputError, NotFoundError, UnsupportedError
from support.hub_world import Resources

SETTINGS: Mapping[str, tuple[Mapping[str, object], ...]] = {
    "kbs": ({},),
    "aliyun": (
        {"client_type": "client_key", "client_key_id": "k", "kms_instance_id": "i"},
        {"client_type": "ecs_ram_role"},
    ),
    "aws": ({"region": "us-east-1"},),
    "ehsm": ({"app_id": "a", "endpoint": "https://h:9000"},),
}
"""Settings that a service of this name can be opened with; a new row needs one here."""

WITHOUT_SITE = frozenset({"kbs"})


def make_site(folder: Path) -> KmsSite:
    return KmsSite(msgspec.convert({"kbc": {"name": "offline_fs_kbc"}}, CdhConfig), folder)


def packet_of(provider: str, settings: Mapping[str, object]) -> AnnotationPacket:
    return AnnotationPacket(
        kid="k", wrapped_data=b"x", provider=provider, provider_settings=settings
    )


@pytest.mark.parametrize("table", [RESOURCE_CLIENTS, DECRYPTERS, GETTERS, ENCRYPTERS])
def test_a_table_names_each_service_once_in_lower_case(table: tuple[DecrypterEntry, ...]) -> None:
    names = [entry.name for entry in table]
    assert len(set(names)) == len(names)
    assert all(name == name.lower() for name in names)


@pytest.mark.parametrize("entry", [*DECRYPTERS, *GETTERS], ids=lambda entry: entry.name)
def test_a_service_of_a_kms_has_published_vectors(
    entry: DecrypterEntry | GetterEntry, vectors: Path
) -> None:
    if entry.name != "kbs":
        assert (vectors / "cdh" / f"{entry.name}.json").exists()


@pytest.mark.parametrize("entry", DECRYPTERS, ids=lambda entry: entry.name)
async def test_a_decrypter_opens_in_any_case_and_fails_with_an_error_of_the_taxonomy(
    entry: DecrypterEntry, tmp_path: Path
) -> None:
    site = make_site(tmp_path)
    for settings in SETTINGS[entry.name]:
        for name in (entry.name, entry.name.upper()):
            kms = open_decrypter(packet_of(name, settings), site)
            with pytest.raises((NotFoundError, InvalidInputError, UnsupportedError)):
                await kms.decrypt(b"x", "k", {"iv": "AAAA"}, Deadline.after(10))
    with pytest.raises(UnsupportedError):
        open_decrypter(packet_of(entry.name, SETTINGS[entry.name][0]))
    with pytest.raises(InvalidInputError):
        open_decrypter(packet_of(entry.name, {}), site)
    await site.close()


@pytest.mark.parametrize("entry", GETTERS, ids=lambda entry: entry.name)
async def test_a_getter_opens_in_any_case_and_fails_with_an_error_of_the_taxonomy(
    entry: GetterEntry, tmp_path: Path
) -> None:
    site = make_site(tmp_path)
    for settings in SETTINGS[entry.name]:
        for name in (entry.name, entry.name.upper()):
            kms = open_getter(name, settings, Resources(), site)
            with pytest.raises((NotFoundError, InvalidInputError)):
                await kms.get_secret("kbs:///a/b/none", {}, Deadline.after(10))
    await site.close()


@pytest.mark.parametrize("entry", GETTERS, ids=lambda entry: entry.name)
def test_a_getter_that_needs_credentials_is_not_opened_where_there_are_none(
    entry: GetterEntry,
) -> None:
    settings = SETTINGS[entry.name][0]
    if entry.name in WITHOUT_SITE:
        assert open_getter(entry.name, settings, Resources())
        return
    with pytest.raises(UnsupportedError):
        open_getter(entry.name, settings, Resources())


@pytest.mark.parametrize("provider", ["kbs", "nobody", ""])
def test_a_provider_of_no_row_decrypts_nothing(provider: str, tmp_path: Path) -> None:
    with pytest.raises(GuestError) as caught:
        open_decrypter(packet_of(provider, {}), make_site(tmp_path))
    assert str(caught.value) == f"Unsupported provider: {provider}"
