"""The controllers behind their NetworkPolicy. No CNI of ours enforces one, so nftables does, in their pods."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from tests.cluster import mirrors
from tests.cluster.api import Document
from tests.cluster.install import NAMESPACE
from tests.cluster.lab import Cluster, condition
from tests.cluster.mirrors import applied, ready
from tests.cluster.pod import Pod

TABLE = "inet test_policy"
HEALTH, UNNAMED = 9751, 9753


def allowed(rules: Sequence[Document], names: Mapping[str, int]) -> str:
    """TCP ports that anybody may use, as a set of nftables. `names`: of the container's ports."""
    found = []
    for rule in rules:
        assert rule.keys() == {"ports"}, "peers would have to be looked up"
        for one in rule["ports"]:
            assert one["protocol"] == "TCP"
            found.append(names.get(one["port"], one["port"]))
    return f"{{ {', '.join(map(str, found))} }}"


def rules(policy: Document, pod: Document) -> str:
    """What a CNI does to a pod that a policy selects: what it names passes, and answers to that; nothing else."""
    spec = policy["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    names = {one["name"]: one["containerPort"] for one in pod["spec"]["containers"][0]["ports"]}
    lines = [f"table {TABLE} {{"]
    for hook, device, kind in (("input", "iif", "ingress"), ("output", "oif", "egress")):
        lines += [
            f"chain {kind} {{",
            f"type filter hook {hook} priority 0; policy drop;",
            f"{device} lo accept",
            "meta l4proto != { tcp, udp, sctp } accept",  # of others policies say nothing
            f"tcp dport {allowed(spec[kind], names)} counter accept",
            "ct state established,related accept",
            "counter drop",
            "}",
        ]
    return "\n".join([*lines, "}", ""])


def counted(pod: Pod, kind: str) -> tuple[int, int]:
    """Packets that the named ports, and that nobody has let through."""
    told = json.loads(pod.run("nft", "--json", "list", "chain", *TABLE.split(), kind))["nftables"]
    counters = [
        part["counter"]["packets"] for one in told for part in one.get("rule", {}).get("expr", ()) if "counter" in part
    ]
    passed, dropped = counters
    return passed, dropped


@contextmanager
def enforced(policy: Document, pods: Sequence[tuple[Pod, Document]]) -> Iterator[None]:
    """The policy's rules are in force in these pods meanwhile."""
    try:
        for pod, document in pods:
            pod.run("nft", "-f", "-", stdin=rules(policy, document))
        yield
    finally:
        for pod, _ in pods:
            pod.run("nft", "delete", "table", *TABLE.split(), check=False)


def answers(client: Pod, server: Pod, port: int) -> bool:
    """Whether a TCP connection comes to be."""
    word = client.run(
        "curl",
        "-s",
        "-m",
        2,
        "-o",
        "/dev/null",
        "-w",
        "%{time_connect}",
        f"http://{server.address}:{port}/",
        check=False,
    )
    return float(word) > 0


def test_the_controllers_need_no_more_than_their_policy_names(installed: Cluster) -> None:
    policy = installed.get("NetworkPolicy", "sniffer-controller", NAMESPACE)
    selector = ",".join(f"{name}={value}" for name, value in policy["spec"]["podSelector"]["matchLabels"].items())
    documents = installed.objects("Pod", NAMESPACE, labelSelector=selector)
    pods = [(Pod(installed, one), one) for one in documents]
    assert len(pods) == 2
    with installed.namespace() as namespace:
        client = installed.pod("client", namespace)
        listeners = [pod.popen("busybox", "httpd", "-f", "-p", UNNAMED) for pod, _ in pods]
        try:
            for pod, _ in pods:
                installed.wait(lambda pod=pod: answers(client, pod, UNNAMED), 10, "without a policy, an answer")
            with enforced(policy, pods):
                with applied(installed, mirrors.target("policy"), mirrors.mirror("policy", namespace, ["policy"])):
                    ready(installed, "TrafficMirror", "policy", namespace, timeout=30)
                for pod, _ in pods:
                    passed, dropped = counted(pod, "egress")
                    assert (passed > 0, dropped) == (True, 0), "it asks nothing but the API server"
                    # The kubelet's probes, and ours.
                    installed.wait(lambda pod=pod: counted(pod, "ingress")[0], 15, "a probe")
                    assert answers(client, pod, HEALTH)
                    assert not answers(client, pod, UNNAMED)
                    assert counted(pod, "ingress")[1]
                    assert condition(pod.get(), "Ready")
        finally:
            for listener in listeners:
                listener.terminate()
                listener.wait()
