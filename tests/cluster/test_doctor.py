"""`sniffer doctor` in a cluster with sniffer installed: from outside, and on a node in the agent's own pod."""

import json
from typing import Any

from tests.agent import SNIFFER, sniffer
from tests.cluster import mirrors
from tests.cluster.install import NAMESPACE
from tests.cluster.lab import Cluster
from tests.cluster.mirrors import applied


def doctor(cluster: Cluster, *words: object) -> tuple[int, list[dict[str, Any]]]:
    done = sniffer("doctor", "--cluster", "--json", "--kubeconfig", cluster.kubeconfig, *words, check=False)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def test_in_a_cluster(installed: Cluster) -> None:
    """Nothing is wrong but, perhaps, the kernel; a mirror that cannot be is told with the reason."""
    _, rows = doctor(installed)
    assert [row for row in rows if row["result"] != "ok" and row["check"] != "kernels"] == []
    wrong = mirrors.mirror("wrong", "default", ["nowhere"])
    with applied(installed, wrong):
        found = installed.wait(lambda: [row for row in doctor(installed)[1] if row["check"] == "mirrors"], 10)
        installed.wait(lambda: "TargetNotFound" in json.dumps(doctor(installed)[1]), 15, "the reason told")
        assert all(row["fix"] for row in found if row["result"] != "ok")
    status, rows = doctor(installed, "--namespace", "elsewhere")
    assert status == 3
    assert [row["check"] for row in rows if row["result"] == "fail"] == ["agents"]


def test_as_somebody_who_may_read_little(installed: Cluster) -> None:
    kubeconfig = installed.kubeconfig_of("somebody")
    done = sniffer("doctor", "--cluster", "--json", "--kubeconfig", kubeconfig, check=False)
    rows = json.loads(done.stdout)
    assert done.returncode == 1
    assert all("not known" in row["text"] for row in rows if row["check"] != "api server")


def test_on_a_node(installed: Cluster) -> None:
    """In the agent's pod: what cannot be seen from there is no failure."""
    words = ("exec", "-n", NAMESPACE, "daemonset/sniffer-agent", "--", SNIFFER.name, "doctor", "--json")
    rows = json.loads(installed.kubectl(*words, check=False).partition("command terminated")[0])
    assert {row["check"] for row in rows if row["result"] == "fail"} <= {"kernel"}
    assert {"cni", "tunnels"} <= {row["check"] for row in rows}
    (one,) = (row for row in rows if row["check"] == "cni")
    assert one["text"].startswith("bridge (interface cni0")
