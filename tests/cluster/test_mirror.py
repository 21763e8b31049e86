"""The main job on a real cluster: a TrafficMirror, and what arrives at the analyzer."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from sniffer.abi.limits import LIST_LENGTH
from tests.cluster import mirrors
from tests.cluster.api import Document
from tests.cluster.install import ALLOWED
from tests.cluster.lab import Cluster
from tests.cluster.mirrors import applied, assert_exact, condition_of, copies, ready, stream, wait_for_copy
from tests.cluster.pod import Pod
from tests.numbered import datagrams
from tests.receivers import inner_frames
from tests.topology import wait_until
from tests.traffic import blast

LONGEST = 1450
"""Bytes of a frame that fits an underlay of 1500 in every tunnel."""
NEIGHBOURS = {b"\x08\x06", b"\x86\xdd"}
"""EtherTypes of what hosts say when they like: ARP, and all of the pods' IPv6."""
ENCAPSULATIONS = {"vxlan": {"vxlan": {"vni": mirrors.VNI}}, "gre": {"gre": {"key": 7}}}


@dataclass(frozen=True, slots=True)
class Bed:
    """A pod that is mirrored on one node, and a client of it on the other."""

    namespace: str
    web: Pod
    client: Pod


@pytest.fixture(scope="module")
def bed(installed: Cluster) -> Iterator[Bed]:
    with installed.namespace() as namespace:
        web = installed.pod("web", namespace, installed.node(1), labels={"app": "web"})
        client = installed.pod("client", namespace, installed.node(2), labels={"app": "client"})
        for pod in (web, client):
            pod.offloads(False)
            pod.reaches(client.address if pod is web else web.address)
        yield Bed(namespace, web, client)


@contextmanager
def http(pod: Pod) -> Iterator[None]:
    """A server in the pod's network namespace, that listens."""
    server = pod.popen(sys.executable, "-m", "http.server", 8080)
    try:
        wait_until(lambda: ":8080 " in pod.run("ss", "-Htln"), what="the server listens")
        yield
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("encapsulation", ENCAPSULATIONS.values(), ids=ENCAPSULATIONS)
def test_every_frame_of_the_pod_arrives_as_it_was(
    installed: Cluster, bed: Bed, encapsulation: dict[str, object]
) -> None:
    """Both directions, byte for byte, in order; decoded by tshark."""
    to = mirrors.target("exact", encapsulation=encapsulation)
    with applied(installed, to, mirrors.mirror("exact", bed.namespace, ["exact"], {"app": "web"})):
        ready(installed, "TrafficMirror", "exact", bed.namespace)
        with http(bed.web), installed.analyzer.capture() as analyzer, bed.web.capture(outgoing=True) as pod:
            bed.client.run("ping", "-c", 5, "-i", 0.05, bed.web.address)
            bed.client.run("ping", "-c", 3, "-i", 0.05, "-s", 1472, bed.web.address)
            fetch = f"import urllib.request; urllib.request.urlopen('http://{bed.web.address}:8080/', timeout=5).read()"
            bed.client.run(sys.executable, "-c", fetch)
            pod.settle()
            analyzer.settle()
    arrived = inner_frames(frame.octets for frame in analyzer.frames)
    missing, more = Counter(pod.octets()), Counter(arrived)
    missing, more = missing - more, more - missing
    assert not missing
    # The analyzer began to capture a moment earlier, and ended a moment later.
    assert all(frame[12:14] in NEIGHBOURS for frame in more), more
    for path in (True, False):  # what needs fragments takes the slow path, and order is kept within each
        for out in (True, False):  # the hook and the pod may see what comes and what goes in another order
            of_path = [one for one in pod.frames if one.outgoing is out and (len(one.octets) > LONGEST) is path]
            sent = [one.octets for one in of_path if one.octets[12:14] not in NEIGHBOURS]
            whole = Counter(sent)
            found = [frame for frame in arrived if whole[frame]]
            assert found == sent
    assert len(arrived) > 25


def test_kubectl_apply_to_first_copy(installed: Cluster, bed: Bed) -> None:
    """Within a second."""
    to, of = mirrors.target("quick"), mirrors.mirror("quick", bed.namespace, ["quick"], {"app": "web"})
    with stream(bed.client, bed.web), installed.analyzer.capture() as analyzer, applied(installed, to):
        before = time.monotonic()
        with applied(installed, of):
            took = wait_for_copy(analyzer, before, 5)
    assert took < 1, f"{took:.2f} s"


def test_kubectl_edit_while_traffic_flows(installed: Cluster, bed: Bed) -> None:
    """The filter changes from one port to another, in force within a second; nothing that was asked for is missed."""
    to = mirrors.target("edit")
    of = mirrors.mirror("edit", bed.namespace, ["edit"], {"app": "web"}, filter="udp dst port 9")
    with applied(installed, to, of), stream(bed.client, bed.web, port=9), stream(bed.client, bed.web, port=10):
        ready(installed, "TrafficMirror", "edit", bed.namespace)
        with installed.analyzer.capture() as analyzer, bed.web.capture() as pod:
            time.sleep(0.5)
            edited = time.monotonic()
            environment = installed.environment() | {"KUBE_EDITOR": "sed -i 's/udp dst port 9/udp dst port 10/'"}
            kubectl = str(installed.binaries / "kubectl")
            words = [kubectl, "edit", "trafficmirror", "edit", "-n", bed.namespace]
            subprocess.run(words, env=environment, check=True, capture_output=True)
            answered = time.monotonic()
            time.sleep(1.5)
            ended = time.monotonic()
        sent, arrived = datagrams(pod.frames), copies(analyzer.frames)
        nine = [one for one in arrived if one.port == 9]
        ten = [one for one in arrived if one.port == 10]
        assert_exact([one for one in sent if one.port == 9], nine, edited - 0.4, edited)
        assert_exact([one for one in sent if one.port == 10], ten, answered + 1, ended - 0.1)
        assert max(one.when for one in nine) < answered + 1
        assert min(one.when for one in ten) > edited


def test_whose_traffic_is_copied(installed: Cluster, bed: Bed) -> None:
    """G1, G9, G10: of pods of the mirror's own namespace alone, and of none that shares its node's network.

    A ClusterTrafficMirror means all namespaces, and those that are protected where it says so.
    """
    first, labels = installed.node(1), {"app": "web"}
    with installed.namespace() as other, installed.namespace(labels={"sniffer.dev/protected": "true"}) as protected:
        foreign, secret = (installed.pod("web", name, first, labels=labels) for name in (other, protected))
        installed.pod("host", bed.namespace, first, labels=labels, host_network=True)
        ports = {9: bed.web.address, 10: foreign.address, 11: secret.address, 12: first.address}
        for pod in (foreign, secret):
            bed.client.reaches(pod.address)
        of = mirrors.mirror("own", bed.namespace, ["whose"], labels, filter="udp portrange 9-12")
        of_protected = mirrors.mirror("own", protected, ["whose"], labels)
        with applied(installed, mirrors.target("whose"), of, of_protected):
            programmed(installed, "own", bed.namespace)
            found = installed.wait(lambda: written(installed, "TrafficMirror", "own", bed.namespace), 5)
            assert found["status"]["pods"] == 1
            assert f"{bed.namespace}/host" in condition_of(found, "Accepted")["message"]
            refused = installed.wait(lambda: written(installed, "TrafficMirror", "own", protected), 5)
            assert condition_of(refused, "Accepted")["reason"] == "ProtectedNamespace"
            assert copied(installed, bed.client, ports) == {9}
        for too, expected in ((False, {9, 10}), (True, {9, 10, 11})):
            everywhere = {
                "podSelector": {"matchLabels": labels},
                "filter": "udp portrange 9-12",
                "includeProtectedNamespaces": too,
                "targetRefs": [{"name": "whose"}],
            }
            kind, metadata = "ClusterTrafficMirror", {"name": "everywhere"}
            wide = {"apiVersion": mirrors.VERSION, "kind": kind, "metadata": metadata, "spec": everywhere}
            with applied(installed, mirrors.target("whose"), wide):
                programmed(installed, "everywhere", None)
                assert copied(installed, bed.client, ports) == expected
        installed.delete("Pod", "host", bed.namespace)


def programmed(installed: Cluster, name: str, namespace: str | None) -> None:
    """Waits until node 1 reports that it carries out a mirror, of this object."""

    def said() -> bool:
        (stored,) = [
            one
            for one in installed.objects("TrafficMirror" if namespace else "ClusterTrafficMirror", namespace)
            if one["metadata"]["name"] == name
        ]
        rows = installed.get("SnifferNode", "node1")["status"]["mirrors"]
        return [one["state"] for one in rows if one["uid"] == stored["metadata"]["uid"]] == ["Programmed"]

    installed.wait(said, 10, f"node1 carries out {name}")


def written(installed: Cluster, kind: str, name: str, namespace: str | None = None) -> Document | None:
    """An object whose status the controller has written."""
    found = installed.get(kind, name, namespace)
    return found if condition_of(found, "Accepted") else None


def copied(installed: Cluster, client: Pod, ports: dict[int, str]) -> set[int]:
    """Sends fifty datagrams to each port and address; the ports of those that were copied, all or none."""
    with installed.analyzer.capture() as analyzer:
        for port, address in ports.items():
            blast(netns=client.netns, dst=address, port=port, size=200, rate=1000, count=50)
        analyzer.settle()
    counts = Counter(one.port for one in copies(analyzer.frames))
    assert set(counts.values()) == {50}, counts
    return set(counts)


def test_who_comes_first_on_a_full_hook(installed: Cluster, bed: Bed) -> None:
    """Sixteen have room: ClusterTrafficMirrors, then the oldest, then by name. Who has no room says so."""
    to = [mirrors.target("full", vni=71), mirrors.target("first", vni=72)]
    last = mirrors.mirror("z", bed.namespace, ["full"], {"app": "web"}, filter="udp port 9")
    many = [
        mirrors.mirror(f"m{n:02}", bed.namespace, ["full"], {"app": "web"}, filter=f"port {n + 100}")
        for n in range(LIST_LENGTH - 1)
    ]
    spec = {"podSelector": {"matchLabels": {"app": "web"}}, "filter": "udp port 9", "targetRefs": [{"name": "first"}]}
    wide = {"apiVersion": mirrors.VERSION, "kind": "ClusterTrafficMirror", "metadata": {"name": "wide"}, "spec": spec}
    with applied(installed, *to, *many, last), stream(bed.client, bed.web), installed.analyzer.capture() as analyzer:
        wait_for_copy(analyzer, 0, 10, vni=71)
        began = time.monotonic()
        with applied(installed, wide):
            wait_for_copy(analyzer, began, 5, vni=72)
            time.sleep(1)
            after = time.monotonic()
            time.sleep(0.5)
            assert not [one for one in copies(analyzer.frames, 71) if one.when > after], "the last by name is out"
            (said,) = installed.wait(lambda: full_on(installed, "node1"), 10, "a node that says HookFull")
            assert (said["name"], said["state"]) == ("z", "Degraded")
        wait_for_copy(analyzer, time.monotonic(), 5, vni=71)


def full_on(installed: Cluster, node: str) -> list[Document]:
    """The mirrors for which a node's hooks have no room, as it reports."""
    return [one for one in installed.get("SnifferNode", node)["status"]["mirrors"] if one.get("reason") == "HookFull"]


def test_an_address_that_the_administrator_allows(installed: Cluster, bed: Bed) -> None:
    """G7: a node gets copies where allowedTargetCIDRs names it; another is refused."""
    to, of = mirrors.target("a-node", ALLOWED), mirrors.mirror("a-node", bed.namespace, ["a-node"], {"app": "web"})
    other = mirrors.target("another", installed.node(1).address)
    with applied(installed, to, of, other), stream(bed.client, bed.web), installed.node(2).capture() as node:
        wait_for_copy(node, 0, 10)
        refused = installed.wait(lambda: written(installed, "MirrorTarget", "another"), 5)
        assert condition_of(refused, "Accepted")["reason"] == "EndpointRefused"
