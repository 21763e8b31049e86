"""What production has beside us stays as it is: probes, kube-proxy's rules, the CNI's links, routes, sysctls..."""

import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path

import pytest

from tests.cluster import mirrors
from tests.cluster.api import Document
from tests.cluster.configs import TOOLBOX
from tests.cluster.lab import Cluster
from tests.cluster.mirrors import applied, condition_of, copies, mirror, ready, stream, target, wait_for_copy
from tests.cluster.node import Node
from tests.cluster.pod import Pod

ROOT = Path(__file__).parents[2]
ROUNDS = 10
OURS = "sniffer-"
_TIMERS = re.compile(r'"\w+_timer": [\d.]+,')
LIVELY = ("conntrack_count", "random.uuid", "stat", "inuse")
"""Names of what counts or changes by itself among sysctls."""


@dataclass(frozen=True, slots=True)
class Bed:
    """`web` and `other` on node 1, of which only `web` is mirrored; `client` on node 2."""

    namespace: str
    web: Pod
    other: Pod
    client: Pod


@pytest.fixture(scope="module")
def bed(installed: Cluster) -> Iterator[Bed]:
    with installed.namespace() as namespace:
        web = installed.pod("web", namespace, installed.node(1), labels={"app": "web"})
        other = installed.pod("other", namespace, installed.node(1))
        client = installed.pod("client", namespace, installed.node(2))
        for pod in (web, other):
            client.reaches(pod.address)
        yield Bed(namespace, web, other, client)


def probed(name: str) -> Document:
    """A container that the kubelet asks every second, in two ways; one answer that is missing is an event."""
    every = {"periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 1}
    return {
        "name": name,
        "image": TOOLBOX,
        "imagePullPolicy": "Never",
        "command": ["httpd", "-f", "-p", "8080", "-h", "/www"],
        "startupProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 30},
        "readinessProbe": {"httpGet": {"port": 8080, "path": "/"}, **every},
        "livenessProbe": {"tcpSocket": {"port": 8080}, **every},
    }


def test_probes_never_fail_while_mirrors_come_and_go(installed: Cluster, bed: Bed) -> None:
    """The kubelet's own traffic passes the hooks, and is mirrored."""
    name = "probed"
    labels = {"app": name}
    pod = installed.pod(name, bed.namespace, installed.node(1), labels=labels, containers=[probed("main")])
    since = condition_of(pod.get(), "Ready")["lastTransitionTime"]
    of = mirror(name, bed.namespace, ["probes"], labels)
    with applied(installed, target("probes")), installed.analyzer.capture() as analyzer:
        for _ in range(ROUNDS):
            with applied(installed, of):
                time.sleep(1.2)
            time.sleep(0.2)
        asked = [one for one in analyzer.octets() if b"GET /" in one]
        assert len(asked) >= ROUNDS / 2, "probes of every second were mirrored"
    now = pod.get()
    assert condition_of(now, "Ready")["lastTransitionTime"] == since
    assert [one["restartCount"] for one in now["status"]["containerStatuses"]] == [0]
    events = installed.objects("Event", bed.namespace, fieldSelector=f"involvedObject.uid={pod.uid}")
    failed = [one["message"] for one in events if one["reason"] == "Unhealthy"]
    # Before it had started it was not mirrored, and the kubelet may have looked for the last holder of its address.
    assert [words for words in failed if not words.startswith("Startup probe")] == []
    pod.delete()


def surfaces(installed: Cluster) -> list[str]:
    """What kube-proxy and the CNI have made of the nodes, line by line, without counters and without what is ours."""
    return [_TIMERS.sub("", f"{node.name} {line}") for node in installed.nodes for line in lines(node)]


def changes(before: Sequence[str], now: Sequence[str]) -> list[str]:
    return list(unified_diff(before, now, lineterm="", n=0))


def lines(node: Node) -> Iterator[str]:
    sysctls = node.run("sysctl", "-a", "-r", "^net\\.", check=False).splitlines()
    links = json.loads(node.run("ip", "-d", "-j", "link"))
    qdiscs = json.loads(node.run("tc", "-j", "qdisc", "show"))
    seen = {
        "nftables": node.run("nft", "--stateless", "list", "ruleset").splitlines(),
        "link": [json.dumps(link) for link in links if not link["ifname"].startswith(OURS)],
        "bridge": node.run("bridge", "-d", "link").splitlines(),
        "route": node.run("ip", "route", "show", "table", "all").splitlines(),
        "rule": node.run("ip", "rule").splitlines(),
        "sysctl": [line for line in sysctls if OURS not in line and not any(word in line for word in LIVELY)],
        "qdisc": [json.dumps(one) for one in qdiscs if one["kind"] != "clsact" and not one["dev"].startswith(OURS)],
    }
    return (f"{what}: {line}" for what, found in seen.items() for line in found)


def programs(node: Node) -> set[str]:
    """The devices of a node, but the relay's, that have any program: TC, TCX or XDP."""
    line = "from tests.inventory import attached; print(*{device for device, _, _ in attached()})"
    found = node.run("env", f"PYTHONPATH={ROOT}", sys.executable, "-c", line).split()
    return {device for device in found if not device.startswith(OURS)}


def tracked(node: Node) -> list[str]:
    """Entries of conntrack about copies."""
    table = node.run("cat", "/proc/net/nf_conntrack").splitlines()
    assert table, "conntrack is at work"
    return [line for line in table if "dport=4789" in line or "sport=4789" in line]


def test_what_others_have_made_of_the_nodes(installed: Cluster, bed: Bed) -> None:
    """H12: the same without mirrors, while copies flow by both paths, and after the last mirror is gone."""
    nodes = installed.nodes
    before = surfaces(installed)
    assert len(before) > 500
    mine = {bed.web.node.name: {bed.web.link}}
    of = mirror("undisturbed", bed.namespace, ["undisturbed"], {"app": "web"})
    with installed.analyzer.capture() as analyzer:
        with applied(installed, target("undisturbed"), of), stream(bed.client, bed.web):
            ready(installed, "TrafficMirror", "undisturbed", bed.namespace)
            bed.client.run("ping", "-c", 3, "-i", 0.1, "-s", 1472, bed.web.address)
            wait_for_copy(analyzer, 0, 10)
            assert changes(before, surfaces(installed)) == []
            assert [tracked(node) for node in nodes] == [[], []]
            for node in nodes:
                assert programs(node) == mine.get(node.name, set())
        assert len(copies(analyzer.frames, mirrors.VNI)) > 100
    installed.wait(lambda: not any(programs(node) for node in nodes), 10, "no program is left")
    assert changes(before, surfaces(installed)) == []
