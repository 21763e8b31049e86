"""The main job on a real cluster: a TrafficMirror, and what arrives at the analyzer."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.cluster import mirrors
from tests.cluster.lab import Cluster
from tests.cluster.mirrors import applied, assert_exact, copies, ready, stream, wait_for_copy
from tests.cluster.pod import Pod
from tests.numbered import datagrams
from tests.receivers import inner_frames
from tests.topology import wait_until

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
