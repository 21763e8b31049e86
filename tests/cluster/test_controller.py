"""The controller against a real API server, with the rights of its own ServiceAccount.

What agents report is written by these tests; the pods that count as agents are real, and Ready by their kubelets' word.
"""

import itertools
import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from sniffer.cluster.report import jitter_of
from tests.cluster.api import ApiError, Document
from tests.cluster.chart import NAMESPACE, api_of_chart
from tests.cluster.controllers import Controller, agents, condition, holder, report
from tests.cluster.fleet import LABEL, Connection, fleet, most_in_a_second, programmed, reporters
from tests.cluster.lab import Cluster

VERSION = "sniffer.dev/v1alpha1"


@pytest.fixture(scope="module")
def installed(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with the chart's API, and a pod on every node that counts as an agent."""
    with api_of_chart(cluster), agents(cluster):
        yield cluster


@pytest.fixture(scope="module")
def controller(installed: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    with Controller(installed, tmp_path_factory.mktemp("controller"), "first", 19750) as running:
        installed.wait(running.leads, 20, "it leads")
        yield running


@pytest.fixture
def shop(installed: Cluster) -> Iterator[str]:
    """A namespace with a grant to the target `zeek`."""
    target = _target("zeek", allowedNamespaces={"matchLabels": {"team": "shop"}})
    with installed.namespace(labels={"team": "shop"}) as name:
        installed.apply(target)
        yield name
        for item in installed.objects("TrafficMirror", name):
            installed.delete("TrafficMirror", item["metadata"]["name"], name)
        installed.delete("MirrorTarget", "zeek")


def _target(name: str, endpoints: Any = ({"address": "10.200.0.100"},), **spec: Any) -> Document:
    base = {"encapsulation": {"vxlan": {"vni": 7}}, "endpoints": list(endpoints)}
    return {"apiVersion": VERSION, "kind": "MirrorTarget", "metadata": {"name": name}, "spec": base | spec}


def _mirror(namespace: str, name: str = "web", **spec: Any) -> Document:
    base = {"podSelector": {"matchLabels": {"app": "web"}}, "targetRefs": [{"name": "zeek"}]}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": VERSION, "kind": "TrafficMirror", "metadata": metadata, "spec": base | spec}


def _until(cluster: Cluster, item: Document, kind: str, status: str, reason: str, timeout: float = 15) -> Document:
    """Waits for a condition of the object's generation; the object."""
    found: Document = {}

    def holds() -> bool:
        found.update(cluster.get(item["kind"], item["metadata"]["name"], item["metadata"].get("namespace")))
        said = condition(found, kind)
        return (said.get("status"), said.get("reason"), said.get("observedGeneration")) == (
            status,
            reason,
            found["metadata"]["generation"],
        )

    try:
        cluster.wait(holds, timeout)
    except AssertionError:
        raise AssertionError(f"{kind} is not {status}/{reason}: {found.get('status')}") from None
    return found


def test_ready_when_every_node_with_a_pod_has_programmed_it(
    installed: Cluster, controller: Controller, shop: str
) -> None:
    cluster = installed
    web = cluster.apply(_mirror(shop))[0]
    found = _until(cluster, web, "Ready", "True", "NoPods", 3)
    assert condition(found, "Accepted")["status"] == "True"
    for number in (1, 2):
        cluster.pod(f"web{number}", shop, cluster.node(number), labels={"app": "web"})
    _until(cluster, web, "Ready", "False", "NodesNotReady")
    report(cluster, "node1", [web])
    report(cluster, "node2", [web])
    cluster.kubectl("wait", "--for=condition=Ready=true", "trafficmirror/web", "-n", shop, "--timeout=20s")
    found = _until(cluster, web, "Ready", "True", "Ready")
    assert {key: found["status"][key] for key in ("pods", "nodes", "readyNodes")} == {
        "pods": 2,
        "nodes": 2,
        "readyNodes": 2,
    }
    edited = cluster.patch("TrafficMirror", "web", {"spec": {"filter": "tcp port 80"}}, shop)
    _until(cluster, edited, "Ready", "False", "NodesNotReady", 2)
    report(cluster, "node1", [edited])
    report(cluster, "node2", [edited], state="Degraded", reason="HookFull", message="veth1 ingress")
    words = cluster.wait(lambda: _words(cluster, edited, "HookFull"), 25)
    assert "1 of 2 nodes" in words
    assert "node2 (HookFull: veth1 ingress)" in words
    assert _events(cluster, edited, "HookFull")


def _words(cluster: Cluster, item: Document, word: str, kind: str = "Ready") -> str:
    message = condition(cluster.get(item["kind"], item["metadata"]["name"], item["metadata"].get("namespace")), kind)
    return str(message["message"]) if word in message.get("message", "") else ""


def _events(cluster: Cluster, item: Document, reason: str) -> list[Document]:
    namespace = item["metadata"].get("namespace", "default")

    def found() -> list[Document]:
        return [
            event
            for event in cluster.objects("Event.events.k8s.io", namespace)
            if event["reason"] == reason and event["regarding"].get("uid") == item["metadata"]["uid"]
        ]

    return cluster.wait(found, 10, f"an event {reason}")


def test_a_bad_filter_is_refused_within_a_second(installed: Cluster, controller: Controller, shop: str) -> None:
    web = installed.apply(_mirror(shop))[0]
    _until(installed, web, "Accepted", "True", "Accepted")
    bad = installed.patch("TrafficMirror", "web", {"spec": {"filter": "tcp prot 80"}}, shop)
    found = _until(installed, bad, "Accepted", "False", "BadFilter", 1)
    assert "spec.filter: " in condition(found, "Accepted")["message"]
    assert condition(found)["reason"] == "NotAccepted"
    assert len(_events(installed, bad, "BadFilter")) == 1
    # At most one in ten minutes.
    for text in ("tcp", "tcp prot 81"):
        bad = installed.patch("TrafficMirror", "web", {"spec": {"filter": text}}, shop)
        _until(
            installed,
            bad,
            "Accepted",
            "True" if text == "tcp" else "False",
            "Accepted" if text == "tcp" else "BadFilter",
        )
    assert len(_events(installed, bad, "BadFilter")) == 1


BAD = {
    "tcp port 65536": "illegal port number 65536 > 65535",  # I1
    "tcp port -1": "syntax error",
    'port "80"': 'unexpected character "\\""',
    "portrange 20-10": 'range "20-10" is reversed',
    "net 10.0.0.1/8": 'non-network bits set in "10.0.0.1/8"',  # I2
    "net 10.0.0.0/33": "mask length must be <= 32",
    "ip host fd00::1": "'ip' modifier applied to ip6 host",
    "host 10.0.0.1/": "syntax error",
    "proto foo": "unknown ip proto 'foo'",  # I7
    "host web.example": 'host name "web.example"',
}
"""Filters, and libpcap's words, or ours."""


def test_whatever_is_wrong_with_a_filter_is_said_within_a_second(
    installed: Cluster, controller: Controller, shop: str
) -> None:
    """I1, I2, I7: with its field, and the rule's number. I6: a rule given twice the API server refuses."""
    path = installed.api.path("TrafficMirror", namespace=shop)
    wanted: dict[str, str] = {}
    began_s = time.monotonic()
    for number, (text, words) in enumerate(BAD.items()):
        rules = [{"action": "Skip", "filter": "arp"}, {"action": "Mirror", "filter": text}]
        for name, field, spec in (
            (f"filter{number}", "spec.filter", {"filter": text}),
            (f"rules{number}", "spec.rules[1].filter", {"rules": rules}),
        ):
            installed.api.ask("POST", path, _mirror(shop, name, **spec))
            wanted[name] = f"{field}: {words}"
    posted_s = time.monotonic() - began_s
    said: dict[str, Document] = {}
    while len(said) < len(wanted) and time.monotonic() - began_s < posted_s + 5:
        listed = installed.objects("TrafficMirror", shop)
        said = {one["metadata"]["name"]: found for one in listed if (found := condition(one, "Accepted"))}
    assert time.monotonic() - began_s < posted_s + 1
    for name, words in wanted.items():
        assert (said[name]["status"], said[name]["reason"]) == ("False", "BadFilter"), name
        assert said[name]["message"].startswith(words), said[name]["message"]
    twice = [{"action": "Mirror", "filter": "arp"}, {"action": "Mirror", "filter": "arp"}]
    with pytest.raises(ApiError, match=r"spec\.rules"):
        installed.api.ask("POST", path, _mirror(shop, "twice", rules=twice))


def test_a_grant_that_is_removed(installed: Cluster, controller: Controller, shop: str) -> None:
    """G6."""
    web = installed.apply(_mirror(shop))[0]
    _until(installed, web, "Accepted", "True", "Accepted")
    installed.patch("Namespace", shop, {"metadata": {"labels": {"team": None}}})
    _until(installed, web, "Accepted", "False", "TargetNotAllowed", 12)
    assert _events(installed, web, "TargetGrantRemoved")


def test_a_status_is_written_at_most_once_in_ten_seconds(installed: Cluster, controller: Controller, shop: str) -> None:
    """F14: what flips all the time is not written all the time; and without a change nothing is."""
    web = installed.apply(_mirror(shop))[0]
    _until(installed, web, "Ready", "True", "NoPods")
    installed.pod("flips", shop, labels={"app": "web"})
    versions = set()
    ends = time.monotonic() + 12
    flips = 0
    while time.monotonic() < ends:
        labels = {"app": "web" if flips % 2 else "db"}
        installed.patch("Pod", "flips", {"metadata": {"labels": labels}}, shop)
        versions.add(installed.get("TrafficMirror", "web", shop)["metadata"]["resourceVersion"])
        flips += 1
        time.sleep(0.1)
    assert flips > 50
    assert len(versions) <= 3, "as it was, and two writes"
    installed.delete("Pod", "flips", shop)
    time.sleep(11)
    before = controller.metric("sniffer_controller_writes_total", what="status", outcome="done")
    time.sleep(3)
    assert controller.metric("sniffer_controller_writes_total", what="status", outcome="done") == before


def test_a_status_that_somebody_else_wrote_is_mended(installed: Cluster, controller: Controller, shop: str) -> None:
    web = installed.apply(_mirror(shop))[0]
    found = _until(installed, web, "Ready", "True", "NoPods")
    path = f"{installed.api.path('TrafficMirror', 'web', shop)}/status"
    installed.api.ask("PATCH", path, {"status": {"pods": 77}}, content_type="application/merge-patch+json")
    installed.wait(lambda: installed.get("TrafficMirror", "web", shop)["status"]["pods"] == 0, 15)
    again = installed.get("TrafficMirror", "web", shop)
    assert again["status"]["conditions"] == found["status"]["conditions"], "no time has changed"


def test_pods_of_the_node_network_are_named_and_not_counted(
    installed: Cluster, controller: Controller, shop: str
) -> None:
    """G9. A mirror that selects nothing else is not Ready, for nothing is mirrored."""
    installed.pod("host", shop, installed.node(2), labels={"app": "web"}, host_network=True)
    web = installed.apply(_mirror(shop))[0]
    found = _until(installed, web, "Ready", "False", "HostNetwork", 3)
    assert condition(found)["message"].endswith(f"{shop}/host")
    words = ("wait", "--for=condition=Ready", "trafficmirror/web", "-n", shop, "--timeout=1s")
    assert "timed out" in installed.kubectl(*words, check=False)
    installed.pod("plain", shop, installed.node(1), labels={"app": "web"})
    installed.wait(lambda: installed.get("TrafficMirror", "web", shop)["status"]["pods"] == 1, 25)
    found = _until(installed, web, "Ready", "False", "NodesNotReady")
    assert condition(found, "Accepted")["message"].endswith(f"{shop}/host")
    assert (found["status"]["pods"], found["status"]["nodes"]) == (1, 1)


def test_a_target_follows_the_pods_of_a_service(installed: Cluster, controller: Controller) -> None:
    with installed.namespace() as ids:
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "zeek", "namespace": ids},
            "spec": {"selector": {"app": "zeek"}, "ports": [{"port": 4789, "protocol": "UDP"}]},
        }
        target = _target("followed", [{"service": {"namespace": ids, "name": "zeek"}}])
        try:
            made = installed.apply(service, target)[1]
            _until(installed, made, "Ready", "False", "NoEndpoints")
            pods = installed.pods(["zeek1", "zeek2"], ids, labels={"app": "zeek"})
            wanted = sorted((pod.address for pod in pods), key=lambda text: tuple(map(int, text.split("."))))

            def published() -> list[str]:
                endpoints = installed.get("MirrorTarget", "followed")["status"]["endpoints"]
                assert [item["service"] for item in endpoints] == [{"namespace": ids, "name": "zeek"}]
                return list(endpoints[0].get("addresses", ()))

            installed.wait(lambda: published() == wanted, 25)
            _until(installed, made, "Ready", "True", "Ready")
            installed.delete("Pod", "zeek1", ids)
            installed.wait(lambda: published() == [pods[1].address], 25)
        finally:
            installed.delete("MirrorTarget", "followed")


def test_addresses_that_no_target_may_have(installed: Cluster, controller: Controller) -> None:
    """G7: a node, the API server, the service range."""
    for number, (address, words) in enumerate(
        [("10.200.0.11", "a node"), ("10.200.0.1", "the API server"), ("10.96.0.9", "service range")]
    ):
        name = f"refused{number}"
        made = installed.apply(_target(name, [{"address": address}]))[0]
        try:
            found = _until(installed, made, "Accepted", "False", "EndpointRefused", 3)
            assert words in condition(found, "Accepted")["message"]
        finally:
            installed.delete("MirrorTarget", name)


def test_a_pod_that_is_relabelled_away_from_a_cluster_mirror(
    installed: Cluster, controller: Controller, shop: str
) -> None:
    """G2."""
    everything = {
        "apiVersion": VERSION,
        "kind": "ClusterTrafficMirror",
        "metadata": {"name": "watched"},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "targetRefs": [{"name": "zeek"}]},
    }
    made = installed.apply(everything)[0]
    try:
        installed.pod("sly", shop, labels={"app": "web"})
        installed.wait(lambda: installed.get("ClusterTrafficMirror", "watched").get("status", {}).get("pods") == 1, 15)
        installed.patch("Pod", "sly", {"metadata": {"labels": {"app": "other"}}}, shop)
        event = _events(installed, made, "PodsDeselected")[0]
        assert f"{shop}/sly" in event["note"]
        assert controller.metric("sniffer_controller_deselected_pods_total") == 1
    finally:
        installed.delete("ClusterTrafficMirror", "watched")


def test_an_agent_that_is_away(installed: Cluster, controller: Controller, shop: str) -> None:
    web = installed.apply(_mirror(shop))[0]
    installed.pod("one", shop, installed.node(1), labels={"app": "web"})
    report(installed, "node1", [web])
    _until(installed, web, "Ready", "True", "Ready", 25)
    installed.patch("Pod", "agent-node1", {"metadata": {"labels": {"app.kubernetes.io/component": "was"}}}, NAMESPACE)
    try:
        found = _until(installed, web, "Ready", "False", "NodesNotReady", 40)
        assert "node1 (no agent is ready)" in condition(found)["message"]
    finally:
        labels = {"app.kubernetes.io/component": "agent"}
        installed.patch("Pod", "agent-node1", {"metadata": {"labels": labels}}, NAMESPACE)
    _until(installed, web, "Ready", "True", "Ready", 25)


def test_sixty_nodes(installed: Cluster, controller: Controller, shop: str) -> None:
    """The jitter is published, and read: agents that start at once, and then hear of an edit, spread what they write.

    What is written grows as nodes and mirrors. A SnifferNode goes with its Node.
    """
    found = installed.wait(lambda: installed.objects("ConfigMap", NAMESPACE, fieldSelector="metadata.name=sniffer"), 10)
    assert found[0]["data"] == {"reportJitterSeconds": "0"}, "two nodes need none"
    count, mirrors = 60, [_of_nodes(number) for number in range(20)]
    connection = Connection.of(installed)
    with fleet(installed, count) as nodes:
        installed.wait(lambda: jitter_of(connection, NAMESPACE) == 2, 15, "the jitter of 62 nodes")
        try:
            made = installed.apply(*mirrors)
            before, began_s = controller.written(), time.monotonic()
            with reporters(connection, nodes) as agents_of:
                for agent in agents_of:
                    agent.report(programmed(made))
                installed.wait(lambda: len(connection.reported) == count, 10, "every agent has reported")
                assert most_in_a_second(connection.reported) <= 50
                connection.reported.clear()
                edited = installed.apply(*(one | {"spec": one["spec"] | {"filter": "tcp"}} for one in mirrors))
                for agent in agents_of:
                    agent.report(programmed(edited))
                installed.wait(lambda: len(connection.reported) >= count, 10, "every agent has reported again")
                time.sleep(1)
            assert len(connection.reported) == count, "each once, for all the mirrors"
            assert most_in_a_second(connection.reported) <= 50
            written, took_s = controller.written() - before, time.monotonic() - began_s
            allowed = len(mirrors) * (4 + int(took_s / 10))
            assert 2 * len(mirrors) <= written <= allowed, "two thousand pairs have changed"
            owned = installed.objects("SnifferNode")
            owners = [owner for one in owned for owner in one["metadata"].get("ownerReferences", ())]
            assert {owner["uid"] for owner in owners} >= set(nodes.values())
        finally:
            for one in mirrors:
                installed.delete("ClusterTrafficMirror", one["metadata"]["name"])
    left = [one["metadata"]["name"] for one in owned if one["metadata"]["name"] not in nodes]
    installed.wait(
        lambda: {one["metadata"]["name"] for one in installed.objects("SnifferNode")} <= set(left), 30, "collected"
    )


def _of_nodes(number: int) -> Document:
    spec = {"interfaces": ["eth0"], "nodeSelector": LABEL, "targetRefs": [{"name": "zeek"}]}
    metadata = {"name": f"nodes{number}"}
    return {"apiVersion": VERSION, "kind": "ClusterTrafficMirror", "metadata": metadata, "spec": spec}


def test_many_mirrors_at_once_are_written_fifty_a_second(installed: Cluster, controller: Controller, shop: str) -> None:
    """Statuses and events together; and while one tenant edits all of them, others hear of theirs."""
    count, path = 200, installed.api.path("TrafficMirror", namespace=shop)
    began_s, ended = time.monotonic(), Event()
    seen = [(began_s, controller.written())]
    with installed.namespace(labels={"team": "shop"}) as quiet, ThreadPoolExecutor(3) as pool:
        web = installed.apply(_mirror(quiet))[0]
        for number in range(count):
            installed.api.ask("POST", path, _mirror(shop, f"m{number}", filter=f"nonsense {number}"))
            _look(controller, seen)
        for first in range(3):
            pool.submit(_edit_all_the_time, installed, path, range(first, count, 3), ended)
        try:
            _until(installed, web, "Ready", "True", "NoPods", 1)
            installed.pod("web", quiet, installed.node(1), labels={"app": "web"})
            while installed.get("TrafficMirror", "web", quiet)["status"]["pods"] != 1:
                _look(controller, seen)
                assert time.monotonic() - began_s < 20
            bad = installed.patch("TrafficMirror", "web", {"spec": {"filter": "tcp prot 80"}}, quiet)
            _until(installed, bad, "Accepted", "False", "BadFilter", 1)
            _look(controller, seen)
        finally:
            ended.set()
        installed.delete("TrafficMirror", "web", quiet)
    for number, (then_s, was) in enumerate(seen):
        now_s, now = next((one for one in seen[number:] if one[0] >= then_s + 1), seen[-1])
        assert now - was <= 50 * (now_s - then_s) + 3
    assert seen[-1][1] - seen[0][1] > 25 * (seen[-1][0] - began_s), "it was busy all the time"
    installed.api.ask("DELETE", path)


def _look(controller: Controller, seen: list[tuple[float, int]]) -> None:
    """Four times a second: when, and how much has been written."""
    if time.monotonic() - seen[-1][0] > 0.25:
        seen.append((time.monotonic(), controller.written()))


def _edit_all_the_time(installed: Cluster, path: str, numbers: range, ended: Event) -> None:
    for edit, number in enumerate(itertools.cycle(numbers)):
        if ended.is_set():
            return
        body = {"spec": {"filter": f"nonsense {number} {edit}"}}
        installed.api.ask("PATCH", f"{path}/m{number}", body, content_type="application/merge-patch+json")


class TestLease:
    """Two replicas: the second waits, and takes over."""

    def test_another_takes_over(self, installed: Cluster, controller: Controller, shop: str, tmp_path: Path) -> None:
        web = installed.apply(_mirror(shop))[0]
        with Controller(installed, tmp_path, "second", 19751) as second:
            assert holder(installed) == "first"
            assert not second.leads()
            controller.stop(signal.SIGKILL)
            killed = time.monotonic()
            installed.wait(second.leads, 20, "the second leads")
            assert time.monotonic() - killed < 16
            time.sleep(1)
            written = second.metric("sniffer_controller_writes_total", what="status", outcome="done")
            assert written == 0, "it looked at everything, and all was as it should be"
            bad = installed.patch("TrafficMirror", "web", {"spec": {"filter": "nonsense"}}, shop)
            _until(installed, bad, "Accepted", "False", "BadFilter", 2)
            controller.start()
            assert not controller.leads()
            assert second.stop(signal.SIGTERM) == 0
            released = time.monotonic()
            installed.wait(controller.leads, 5, "the first leads again")
            assert time.monotonic() - released < 3
            assert holder(installed) == "first"
        good = installed.patch("TrafficMirror", "web", {"spec": {"filter": "tcp"}}, shop)
        _until(installed, good, "Accepted", "True", "Accepted", 2)
        assert web["metadata"]["uid"] == good["metadata"]["uid"]

    def test_who_does_not_hear_from_the_api_server_leads_no_more(
        self, installed: Cluster, controller: Controller
    ) -> None:
        """And goes on when it is back: nothing has to be restarted."""
        with installed.pause_api():
            time.sleep(10)
            assert not controller.leads()
        installed.wait(controller.leads, 15, "it leads again")


def test_a_definition_that_is_removed(installed: Cluster, controller: Controller, shop: str) -> None:
    """F6: it is told of, and nothing has to be restarted when it is back."""
    name = "clustertrafficmirrors.sniffer.dev"
    definition = installed.get("CustomResourceDefinition", name)
    kept = {key: definition["metadata"][key] for key in ("name", "annotations")}
    installed.delete("CustomResourceDefinition", name)
    try:
        events = installed.wait(
            lambda: [e for e in installed.objects("Event.events.k8s.io", "default") if e["reason"] == "CRDGone"], 15
        )
        assert events[0]["regarding"]["name"] == name
        assert controller.healthy()
    finally:
        installed.apply({**{key: definition[key] for key in ("apiVersion", "kind", "spec")}, "metadata": kept})
    edge = {
        "apiVersion": VERSION,
        "kind": "ClusterTrafficMirror",
        "metadata": {"name": "after"},
        "spec": {"interfaces": ["eth0"], "targetRefs": [{"name": "zeek"}]},
    }
    installed.wait(lambda: "after" in installed.kubectl("apply", "-f", "-", stdin=json.dumps(edge), check=False), 15)
    _until(installed, edge, "Ready", "False", "NodesNotReady", 20)
    installed.delete("ClusterTrafficMirror", "after")


def test_a_status_for_another_object_of_the_name_is_refused(installed: Cluster, shop: str) -> None:
    """Why a status is written with the version that it was worked out for: the API server compares no uid there."""
    old = installed.apply(_mirror(shop))[0]
    installed.delete("TrafficMirror", "web", shop)
    installed.apply(_mirror(shop))
    path = f"{installed.api.path('TrafficMirror', 'web', shop)}/status"
    body = {"metadata": {"resourceVersion": old["metadata"]["resourceVersion"]}, "status": {"pods": 1}}
    with pytest.raises(ApiError) as refused:
        installed.api.ask("PATCH", path, body, content_type="application/merge-patch+json")
    assert refused.value.status == 409
