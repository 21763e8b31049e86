"""`helm test`: it passes where copies arrive, fails where they do not, and leaves nothing of it behind."""

from collections.abc import Iterator

import pytest

from tests.cluster import install
from tests.cluster.install import NAMESPACE
from tests.cluster.lab import Cluster

COPIES = 24789
WAIT_S = 6


def left(cluster: Cluster) -> list[str]:
    """What there is of it."""
    kinds = ("Service", "Deployment", "Pod", "MirrorTarget", "ClusterTrafficMirror")
    cluster_wide = {"MirrorTarget", "ClusterTrafficMirror"}
    return [
        f"{kind} {one['metadata']['name']}"
        for kind in kinds
        for one in cluster.objects(kind, None if kind in cluster_wide else NAMESPACE)
        if one["metadata"].get("labels", {}).get("app.kubernetes.io/component") == "test"
        and not one["metadata"].get("deletionTimestamp")
    ]


def uids(cluster: Cluster) -> set[str]:
    """Of the pods that mirror."""
    selector = "app.kubernetes.io/component in (agent,controller)"
    return {pod["metadata"]["uid"] for pod in cluster.objects("Pod", NAMESPACE, labelSelector=selector)}


@pytest.fixture
def impatient(installed: Cluster, loaded: str) -> Iterator[Cluster]:
    """Installed so that its test waits for some seconds only; its pods are the same."""
    before = uids(installed)
    install.install(installed, loaded, "--set", f"helmTest.timeoutSeconds={WAIT_S}")
    yield installed
    install.install(installed, loaded)
    assert uids(installed) == before


@pytest.mark.parametrize("helm", ["helm3", "helm4"])
def test_copies_arrive(installed: Cluster, helm: str) -> None:
    status, said = install.probe(installed, helm)
    assert status == 0, said
    assert "100 probes, each copied to the analyzer once, 100 of them arrived" in said
    installed.wait(lambda: not left(installed), 10, "nothing left of the test")


def test_copies_are_dropped_on_the_way(impatient: Cluster) -> None:
    """The mirror is fine and says so; a firewall is not. Probes themselves go through."""
    drop = f"add rule inet probe come udp dport {COPIES} counter drop"
    table = f"add table inet probe; add chain inet probe come {{ type filter hook prerouting priority -300; }}; {drop}"
    for node in impatient.nodes:
        node.run("nft", table)
    try:
        status, said = install.probe(impatient)
    finally:
        for node in impatient.nodes:
            node.run("nft", "delete table inet probe")
    assert status, said
    assert f"no copy came in {WAIT_S} s, though " in said
    assert f"drop UDP to port {COPIES}?" in said
    impatient.wait(lambda: not left(impatient), 10, "nothing left of the test")
