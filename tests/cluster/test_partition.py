"""Who is alone stops by itself, neither before nor long after its time: agents without API server, nodes without agent.

With a lease of ten seconds and the least grace there is.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.cluster import install
from tests.cluster.lab import Cluster
from tests.cluster.mirrors import applied, assert_exact, copies, mirror, ready, stream, target, wait_for_copy
from tests.cluster.pod import Pod
from tests.numbered import datagrams, numbers
from tests.wire import Capture

LEASE_S, GRACE_S = 10, 90
LEAST_S = LEASE_S * 2 / 3
"""A lease is renewed when a third of it is over."""
LATE_S = 2.0
"""Of a busy machine, and the clock that programs read."""
RETURN_S = 5.0
AGENT = "app.kubernetes.io/component=agent"


@dataclass(frozen=True, slots=True)
class Bed:
    """`web` on node 2, which will be cut off, is mirrored; `client` on node 1 sends to it. Nobody is evicted."""

    namespace: str
    web: Pod
    client: Pod


@pytest.fixture(scope="module")
def bed(installed: Cluster, loaded: str) -> Iterator[Bed]:
    install.install(installed, loaded, "--set", f"lease={LEASE_S}", "--set", f"apiGrace={GRACE_S}")
    with installed.namespace() as namespace:
        forever = {"tolerations": [{"operator": "Exists"}]}
        web = installed.pod("web", namespace, installed.node(2), labels={"app": "web"}, **forever)
        client = installed.pod("client", namespace, installed.node(1), **forever)
        for pod in (web, client):
            pod.offloads(False)
        of = mirror("alone", namespace, ["alone"], {"app": "web"}, filter="udp")
        with applied(installed, target("alone"), of):
            ready(installed, "TrafficMirror", "alone", namespace)
            yield Bed(namespace, web, client)
    install.install(installed, loaded)


def agent_pids(installed: Cluster, bed: Bed) -> list[int]:
    """The processes of the agent on the node of `web`."""
    node = bed.web.node
    query = {"labelSelector": AGENT, "fieldSelector": f"spec.nodeName={node.name}"}
    (pod,) = installed.objects("Pod", install.NAMESPACE, **query)
    return node.pids(f"**/*{pod['metadata']['uid']}*/**")


def new_agent(installed: Cluster, bed: Bed) -> None:
    """Another agent on the node of `web`: it has just heard everything from the API server."""
    query = {"labelSelector": AGENT, "fieldSelector": f"spec.nodeName={bed.web.node.name}"}
    (old,) = installed.objects("Pod", install.NAMESPACE, **query)
    installed.delete("Pod", old["metadata"]["name"], install.NAMESPACE)

    def is_ready() -> bool:
        found = [one["metadata"]["name"] for one in installed.objects("Pod", install.NAMESPACE, **query)]
        words = [installed.kubectl("logs", "-n", install.NAMESPACE, name, check=False) for name in found]
        return len(found) == 1 and "INFO ready" in words[0]

    installed.wait(is_ready, 60, "a new agent is ready")


def last_copy(capture: Capture) -> float:
    return max(one.when for one in copies(capture.frames))


def wait_for_silence(capture: Capture, timeout: float) -> float:
    """When the last copy came; there has been none for two seconds."""
    end = time.monotonic() + timeout
    while time.monotonic() - (last := last_copy(capture)) < 2:
        assert time.monotonic() < end, f"copies still come after {timeout:.0f} s"
        time.sleep(0.2)
    return last


def assert_unharmed(pod: Capture) -> None:
    """The pod received every datagram that was sent to it since the first."""
    got = numbers(datagrams(pod.frames))
    assert got == list(range(got[0], got[0] + len(got)))
    assert len(got) > 100


def test_a_node_that_does_not_reach_the_api_server(installed: Cluster, bed: Bed) -> None:
    """It goes on for the grace and the lease, exactly; then nothing; and again five seconds after the partition."""
    renewed = time.monotonic()
    new_agent(installed, bed)
    with (
        stream(bed.client, bed.web, rate=100),
        bed.web.capture() as pod,
        installed.analyzer.capture() as analyzer,
    ):
        wait_for_copy(analyzer, 0, 10)
        began = time.monotonic()
        with bed.web.node.without_api():
            cut = time.monotonic()
            last = wait_for_silence(analyzer, GRACE_S + LEASE_S + 10)
            time.sleep(3)
            assert last_copy(analyzer) == last, "it has begun again"
        back = time.monotonic()
        took = wait_for_copy(analyzer, back, RETURN_S * 4)
        time.sleep(1)
        ended = time.monotonic() - 0.3
        sent, arrived = datagrams(pod.frames), copies(analyzer.frames)
    assert_unharmed(pod)
    assert renewed + GRACE_S + LEAST_S < last < cut + GRACE_S + LEASE_S + LATE_S, f"{last - cut:.1f} s after the cut"
    assert_exact(sent, arrived, began, last - 0.1)
    assert took < RETURN_S, f"{took:.1f} s after the partition"
    assert_exact(sent, arrived, back + took + 0.1, ended)


def test_an_agent_that_stands_still(installed: Cluster, bed: Bed) -> None:
    """Mirroring stops at its lease, and goes on when the agent does."""
    with (
        stream(bed.client, bed.web, rate=100),
        bed.web.capture() as pod,
        installed.analyzer.capture() as analyzer,
    ):
        wait_for_copy(analyzer, 0, 10)
        node, pids = bed.web.node, " ".join(map(str, agent_pids(installed, bed)))
        stopped = time.monotonic()
        node.run("sh", "-c", f"kill -STOP {pids}")
        try:
            last = wait_for_silence(analyzer, LEASE_S + 10)
        finally:
            node.run("sh", "-c", f"kill -CONT {pids}")
        went_on = time.monotonic()
        took = wait_for_copy(analyzer, went_on, RETURN_S * 4)
    assert_unharmed(pod)
    assert stopped + LEAST_S - 0.1 < last < stopped + LEASE_S + LATE_S, f"{last - stopped:.1f} s"
    assert_exact(datagrams(pod.frames), copies(analyzer.frames), stopped, last - 0.1)
    assert took < RETURN_S
