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
from pymesh_controlplane.citadel.secret_store import SecretStore
from pymesh_controlplane.kube import asking
from pymesh_controlplane.kube.asking import KubernetesError
from pymesh_controlplane.metrics import Metrics
from tests.support.certificates import Authority as Root
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

    def new_pair(trust_domain: str, *, now: datetime) -> tuple[bytes, bytes]:
        all_have_looked.wait()
        return make(trust_domain, now=now)

    monkeypatch.setattr(pem, "new_pair", new_pair)
    stores = [SecretStore(client, namespace, "cluster.local") for _ in range(3)]
    found = await asyncio.gather(*(store.load_or_create(now=NOW) for store in stores))
    assert len({authority.certificate.serial_number for authority in found}) == 1
    again = await SecretStore(client, namespace, "cluster.local").load(lambda: NOW)
    assert again.root_pem == found[0].root_pem


async def test_an_authority_of_ones_own_comes_first(client: AsyncClient, namespace: str) -> None:
    await SecretStore(client, namespace, "cluster.local").load(lambda: NOW)
    certificate, key = pem.new_pair("cluster.local", now=NOW)
    await keep(client, namespace, "cacerts", ca_cert_pem=certificate, ca_key_pem=key, root_cert_pem=certificate)
    assert (await SecretStore(client, namespace, "cluster.local").load(lambda: NOW)).root_pem.encode() == certificate


@pytest.mark.parametrize(
    "damage",
    [
        ("cacerts", {"ca_cert_pem": b"x"}, r"cacerts, ca-key\.pem: is missing, while ca-cert\.pem is there"),
        ("cacerts", {"tls_crt": b"x"}, r"cacerts, ca-cert\.pem: is missing"),
        ("pymesh-ca", {"ca_cert_pem": b"x", "ca_key_pem": b"y"}, "pymesh-ca: holds no private key"),
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


async def test_a_change_is_told_and_counted_once(
    client: AsyncClient, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    metrics, store = Metrics(), SecretStore(client, namespace, "cluster.local")
    await store.load(lambda: NOW)
    await store.look(metrics)
    assert metrics.counted("citadel_server_ca_changes") == 0
    root = Root("new")
    await keep(client, namespace, "cacerts", root_cert_pem=root.root)
    await store.look(metrics)
    await store.look(metrics)
    assert metrics.counted("citadel_server_ca_changes") == 1
    assert f"now it is in Secret {namespace}/cacerts. This process goes on with what it read from Secret" in caplog.text
    await client.delete(Secret, "cacerts", namespace=namespace)
    await store.look(metrics)
    await client.delete(Secret, "pymesh-ca", namespace=namespace)
    await store.look(metrics)
    assert metrics.counted("citadel_server_ca_changes") == 2
    assert "now it is in no Secret" in caplog.text


async def test_an_api_server_that_is_away_is_waited_for(
    api: ApiServer, client: AsyncClient, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is waited for is said."""
    monkeypatch.setattr(asking, "FIRST_PAUSE", 0.01)
    store = SecretStore(client, namespace, "cluster.local")
    assert store.waiting == "waiting for the CA to be read"
    api.stop()
    with pytest.raises(KubernetesError):
        await store.load_or_create(now=NOW)
    loading = asyncio.get_running_loop().create_task(store.load(lambda: NOW))
    while "cannot be asked" not in store.waiting:
        await asyncio.sleep(0.01)
    assert f"Secret {namespace}/cacerts or pymesh-ca" in store.waiting
    api.start()
    assert (await loading).trust_domain == "cluster.local"
    assert store.waiting == ""
