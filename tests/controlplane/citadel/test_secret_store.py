"""The CA in a Secret: found, made once, never overwritten, and told of when it changes."""

import asyncio
import base64
from datetime import UTC, datetime
from secrets import token_hex
from threading import Barrier

import pytest
from lightkube import AsyncClient
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Namespace, Secret

from pymesh.errors import ConfigError
from pymesh_controlplane.citadel import pem
from pymesh_controlplane.citadel.report import RotationError, Step
from pymesh_controlplane.citadel.rotation import OwnRoots, Pair, advance, fingerprint
from pymesh_controlplane.citadel.secret_store import SecretStore
from pymesh_controlplane.kube import asking
from pymesh_controlplane.kube.asking import KubernetesError
from tests.support.kubernetes.server import ApiServer

NOW = datetime.now(UTC)


@pytest.fixture
async def namespace(client: AsyncClient) -> str:
    name = f"ca-{token_hex(4)}"
    await client.create(Namespace(metadata=ObjectMeta(name=name)))
    return name


async def keep(client: AsyncClient, namespace: str, name: str, **data: bytes) -> None:
    """Put a Secret there; `ca_cert_pem` stands for `ca-cert.pem`."""
    named = {key.replace("_", "-").replace("-pem", ".pem"): value for key, value in data.items()}
    encoded = {key: base64.b64encode(value).decode() for key, value in named.items()}
    await client.apply(
        Secret(metadata=ObjectMeta(name=name, namespace=namespace), data=encoded), field_manager="test", force=True
    )


async def test_replicas_that_start_at_once_agree_on_one_root(
    client: AsyncClient, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes second, after looking and before writing, takes what the first wrote."""
    all_have_looked, make = Barrier(3, timeout=10), pem.new_pair

    def new_pair(trust_domain: str, *, now: datetime) -> Pair:
        all_have_looked.wait()
        return make(trust_domain, now=now)

    monkeypatch.setattr(pem, "new_pair", new_pair)
    stores = [SecretStore(client, namespace, "cluster.local") for _ in range(3)]
    found = await asyncio.gather(*(store.read(now=NOW) for store in stores))
    assert len({stored.authority.certificate.serial_number for stored in found}) == 1
    again = await SecretStore(client, namespace, "cluster.local").load(lambda: NOW)
    assert again.authority.root_pem == found[0].authority.root_pem


async def test_an_authority_of_ones_own_comes_first(client: AsyncClient, namespace: str) -> None:
    await SecretStore(client, namespace, "cluster.local").load(lambda: NOW)
    documents = pem.documents_of(OwnRoots(pem.new_pair("cluster.local", now=NOW)))
    certificate, key = documents[pem.CERTIFICATE], documents[pem.KEY]
    await keep(client, namespace, "cacerts", ca_cert_pem=certificate, ca_key_pem=key, root_cert_pem=certificate)
    assert (
        await SecretStore(client, namespace, "cluster.local").load(lambda: NOW)
    ).authority.root_pem.encode() == certificate


@pytest.mark.parametrize(
    "damage",
    [
        ("cacerts", {"ca_cert_pem": b"x"}, r"cacerts, ca-key\.pem: is missing, while ca-cert\.pem is there"),
        ("cacerts", {"tls_crt": b"x"}, r"cacerts, ca-cert\.pem: is missing"),
        ("pymesh-ca", {"ca_cert_pem": b"x", "ca_key_pem": b"y"}, r"pymesh-ca, ca-key\.pem: holds no private key"),
        ("pymesh-ca", {"ca_cert_pem": b"x"}, r"pymesh-ca, ca-key\.pem: is missing: restore"),
    ],
)
async def test_a_damaged_one_is_refused_and_stays_as_it_is(
    api: ApiServer, client: AsyncClient, namespace: str, damage: tuple[str, dict[str, bytes], str]
) -> None:
    """In words that say which Secret, and which document of it."""
    name, data, sentence = damage
    await keep(client, namespace, name, **data)
    before = api.objects("", "secrets", namespace)
    with pytest.raises(ConfigError, match=f"Secret {namespace}/{sentence}"):
        await SecretStore(client, namespace, "cluster.local").load(lambda: NOW)
    assert api.objects("", "secrets", namespace) == before


async def test_steps_of_a_rotation_are_kept_and_read_by_others(client: AsyncClient, namespace: str) -> None:
    """Each replica reads what one has written; whoever has looked before somebody else wrote, writes nothing."""
    mine, other = (SecretStore(client, namespace, "cluster.local") for _ in range(2))
    first = await mine.read(now=NOW)
    assert first.own is not None
    new = pem.new_pair("cluster.local", now=NOW)
    await mine.write(advance(first.own, Step.DISTRIBUTE, NOW, new), first)
    second = await other.read(now=NOW)
    assert [fingerprint(root) for root in second.authority.roots] == [
        fingerprint(first.authority.certificate),
        fingerprint(new.certificate),
    ]
    with pytest.raises(RotationError, match="has changed meanwhile"):
        await other.write(advance(first.own, Step.DISTRIBUTE, NOW, new), first)
    assert second.own is not None
    await other.write(advance(second.own, Step.SIGN, NOW), second)
    third = await mine.read(now=NOW)
    assert third.authority.certificate == new.certificate
    assert third.own is not None
    assert third.own.since == NOW
    await mine.write(advance(third.own, Step.RETIRE, NOW), third)
    last = await other.read(now=NOW)
    assert last.authority.roots == (new.certificate,)
    secret = await client.get(Secret, "pymesh-ca", namespace=namespace)
    assert set(secret.data or {}) == {"ca-cert.pem", "ca-key.pem"}, "nothing of the old root is left"


async def test_an_api_server_that_is_away_is_waited_for(
    api: ApiServer, client: AsyncClient, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is waited for is said."""
    monkeypatch.setattr(asking, "FIRST_PAUSE", 0.01)
    store = SecretStore(client, namespace, "cluster.local")
    assert store.waiting == "waiting for the CA to be read"
    api.stop()
    with pytest.raises(KubernetesError):
        await store.read(now=NOW)
    loading = asyncio.get_running_loop().create_task(store.load(lambda: NOW))
    while "cannot be asked" not in store.waiting:
        await asyncio.sleep(0.01)
    assert f"Secret {namespace}/cacerts or pymesh-ca" in store.waiting
    api.start()
    assert (await loading).authority.trust_domain == "cluster.local"
    assert store.waiting == ""
