"""What stands behind every door of CDH, built from its configuration: the daemon's and the tools'.

Source: docs/spec/confidential-data-hub.md 3.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cdh.agent import AgentClient
from cdh.config import CdhConfig
from cdh.hub import DataHub
from cdh.keyprovider.unwrap import LayerKeys
from cdh.kms import open_decrypter, open_resource_client
from cdh.kms.base import ResourceClient
from cdh.kms.site import KmsSite
from cdh.pulling import LatePuller
from cdh.secrets import keys as secret_keys
from cdh.secrets.unseal import SecretUnsealer
from guest.rpc.method import Channel
from image_pull.config import ImageConfig
from image_pull.observer import PullObserver, Unobserved


@dataclass(frozen=True, slots=True)
class Assembly:
    """The parts of one hub.

    Attributes:
        hub: the use cases.
        unsealer: opens sealed secrets; part of `hub`.
        resources: where resources come from; its `run` is for whoever serves long.
        site: what the key management services share.
        puller: made at the first pull.
        aa: leads to the attestation agent.
    """

    hub: DataHub
    unsealer: SecretUnsealer
    resources: ResourceClient
    site: KmsSite
    puller: LatePuller
    aa: Channel

    async def close(self) -> None:
        """Stop pulls, let go of connections."""
        await self.puller.close()
        await self.site.close()
        await self.resources.close()
        await self.aa.close()


def assemble(
    config: CdhConfig,
    aa: Channel,
    runtime_dir: Path,
    pulls: PullObserver = Unobserved(),  # noqa: B008  # has no state
) -> Assembly:
    """Construct everything; connect to nothing, import nothing heavy.

    Args:
        config: what `cdh.config.effective` gave.
        aa: leads to the attestation agent; the assembly closes it.
        runtime_dir: the keys of sealed secrets and the credentials of services lie below it.
        pulls: told of image pulls.

    Raises:
        ConfigError: there is no source of resources of that name.
    """
    agent = AgentClient(aa)
    resources = open_resource_client(config, agent)
    site = KmsSite(config, runtime_dir)
    opener = partial(open_decrypter, site=site)
    keys = LayerKeys(resources, opener)
    puller = LatePuller(config.image or ImageConfig(), resources, keys, pulls)
    unsealer = SecretUnsealer(
        resources,
        secret_keys.VerificationKeys(resources, runtime_dir / secret_keys.FOLDER),
        opener,
        site=site,
        skip_verification=config.skip_sealed_secret_verification,
    )
    hub = DataHub(
        resources=resources,
        keys=keys,
        unsealer=unsealer,
        open_puller=puller.get,
        measurer=agent,
    )
    return Assembly(hub, unsealer, resources, site, puller, aa)
