"""What key management services share: pools of connections, and one object of a kind."""

from pathlib import Path

import msgspec
import pytest

from cdh.config import CdhConfig
from cdh.keyprovider.packet import AnnotationPacket
from cdh.kms import open_decrypter, open_encrypter, open_getter
from cdh.kms.site import MAX_IDLE_CLIENTS, KmsSite
from guest.deadline import Deadline
from guest.errors import ConfigError, UnavailableError, UnsupportedError
from guest_simulator.cert import CertificateAuthority
from support.hub_world import Resources


def make_site(folder: Path, **tables: object) -> KmsSite:
    document = {"kbc": {"name": "offline_fs_kbc"}} | tables
    return KmsSite(msgspec.convert(document, CdhConfig), folder)


async def test_equal_clients_are_one_and_a_proxy_makes_no_difference_to_a_direct_one(
    tmp_path: Path,
) -> None:
    site = make_site(tmp_path)
    deadline = Deadline.after(30)
    async with site.http(deadline) as first, site.http(deadline) as second:
        assert first is second
        async with site.http(deadline, connect_limit=1.0) as quicker:
            assert quicker is not first
        async with site.http(deadline, direct=True) as other:
            assert other is not first
    async with site.http(deadline) as again:
        assert again is first
    await site.close()
    await site.close()
    with pytest.raises(UnavailableError, match="closing"):
        async with site.http(deadline):
            pass


@pytest.mark.blocks_loop
async def test_idle_clients_are_few_and_a_used_one_is_never_closed(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    deadline = Deadline.after(60)
    texts = [CertificateAuthority.create(str(n)).pem.decode() for n in range(MAX_IDLE_CLIENTS + 3)]
    async with site.http(deadline, roots=(texts[0],)) as used:
        for text in texts[1:]:
            async with site.http(deadline, roots=(text,)):
                pass
        async with site.http(deadline, roots=(texts[0],)) as again:
            assert again is used
        await used.prepare(deadline)
    async with site.http(deadline, roots=(texts[-1],)) as kept:
        await kept.prepare(deadline)
    await site.close()


async def test_a_proxy_that_is_none_is_told(tmp_path: Path) -> None:
    site = make_site(tmp_path, proxy={"https_proxy": "ftp://x"})
    with pytest.raises(ConfigError, match="proxy"):
        async with site.http(Deadline.after(5)):
            pass
    async with site.http(Deadline.after(30), direct=True):
        pass
    await site.close()


def test_there_is_one_object_of_a_kind(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    assert site.keep(dict, dict) is site.keep(dict, dict)
    assert site.keep(list, list) == []


def test_without_a_site_only_services_that_need_none_are_opened() -> None:
    packet = AnnotationPacket(kid="k", wrapped_data=b"x", provider="Aliyun")
    for opened in (
        lambda: open_decrypter(packet),
        lambda: open_getter("ALIYUN", {}, Resources()),
        lambda: open_encrypter("aliyun", {}),
    ):
        with pytest.raises(UnsupportedError, match="Unsupported provider: aliyun"):
            opened()
    assert open_getter("KBS", {}, Resources())
    with pytest.raises(UnsupportedError, match="Unsupported provider: vault"):
        open_decrypter(AnnotationPacket(kid="k", wrapped_data=b"x", provider="vault"))
